-- journal_write: entries of a running step's journal, in one commit: the result of the last call with the intent of the
-- next. Fenced: without the lease under this token nothing is written. The lease is held against its own end meanwhile.
-- An intent that counts against a grant takes one of its uses here, or is not written: nothing is, then.
-- Verdicts: written | fenced | no_grant.
create function pg_temp.journal_write(
  p_user uuid, p_step uuid, p_round smallint, p_token bigint, p_entries jsonb, p_clock timestamptz)
returns text language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_grants uuid[];
begin
  perform 1 from leases l where l.user_id = p_user and l.step_id = p_step and l.token = p_token for key share;
  if not found then return 'fenced'; end if;
  select array_agg((e.value ->> 'grant')::uuid order by e.value ->> 'grant') into v_grants
    from jsonb_array_elements(p_entries) e where e.value ->> 'grant' is not null and e.value ->> 'state' = 'intent';
  if v_grants is not null then
    perform 1 from approval_grants g where g.user_id = p_user and g.id = any (v_grants) order by g.id for no key update;
    if exists (
      select 1 from (select w.id, count(*) as uses from unnest(v_grants) w(id) group by 1) w
      left join approval_grants g on g.user_id = p_user and g.id = w.id and g.revoked_at is null and g.expires_at > v_now
      where g.id is null or g.uses_left < w.uses) then
      return 'no_grant';
    end if;
    update approval_grants g set uses_left = g.uses_left - w.uses
      from (select w.id, count(*)::integer as uses from unnest(v_grants) w(id) group by 1) w
      where g.user_id = p_user and g.id = w.id;
  end if;
  perform pg_temp.journal_put(p_user, p_step, p_round, p_token, p_entries, v_now);
  -- It got on: passing trouble before this does not count against what comes.
  if p_entries @> '[{"state": "done"}]' then
    update steps s set failing_since = null where s.user_id = p_user and s.id = p_step and s.failing_since is not null;
  end if;
  return 'written';
end $$;
