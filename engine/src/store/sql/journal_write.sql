-- journal_write: entries of a running step's journal, in one commit: the result of the last call with the intent of the
-- next. Fenced: without the lease under this token nothing is written. The lease is held against its own end meanwhile.
-- Consent is checked and used up here, with the intent. An approval covers one call: the one that was asked about, or as the person
-- changed it, while tool and agent are those that were asked about. A grant covers as many as it has uses left. Where it does not
-- hold, nothing is written, and `ordinal` says which call has lost it.
-- Verdicts: written | fenced | no_consent.
create function pg_temp.journal_write(
  p_user uuid, p_step uuid, p_round smallint, p_token bigint, p_entries jsonb, p_clock timestamptz)
returns table (verdict text, ordinal integer) language plpgsql as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_grants uuid[];
  v_approvals boolean;
begin
  verdict := 'fenced';
  perform 1 from leases l where l.user_id = p_user and l.step_id = p_step and l.token = p_token for key share;
  if not found then return next; return; end if;
  verdict := 'no_consent';
  select array_agg((e.value ->> 'grant')::uuid order by e.value ->> 'grant') filter (where e.value ->> 'grant' is not null),
         coalesce(bool_or(e.value ->> 'approval' is not null), false)
    into v_grants, v_approvals
    from jsonb_array_elements(p_entries) e where e.value ->> 'state' = 'intent';
  if v_approvals then
    select e.ordinal into ordinal
      from jsonb_to_recordset(p_entries) e(ordinal integer, state text, approval uuid, request jsonb)
      where e.state = 'intent' and e.approval is not null and not exists (
        select 1 from waits w
        where w.user_id = p_user and w.id = e.approval and w.step_id = p_step
          and case w.decision when 'approved' then w.payload -> 'arguments' when 'edited' then w.answer -> 'arguments' end
              = e.request -> 'arguments'
          and w.payload ->> 'tool' = e.request ->> 'tool' and w.payload -> 'tool_version' = e.request -> 'version'
          and pg_temp.as_asked(p_user, p_step, w.payload)
          and not exists (select 1 from effects f where f.approval_id = w.id and f.user_id = w.user_id
                          and (f.step_id, f.round, f.ordinal) <> (p_step, p_round, e.ordinal)))
      order by e.ordinal limit 1;
    if found then return next; return; end if;
  end if;
  if v_grants is not null then
    perform 1 from approval_grants g where g.user_id = p_user and g.id = any (v_grants) order by g.id for no key update;
    select e.ordinal into ordinal
      from (select i.ordinal, i.grant, row_number() over (partition by i.grant order by i.ordinal) as place
            from jsonb_to_recordset(p_entries) i(ordinal integer, state text, "grant" uuid)
            where i.state = 'intent' and i.grant is not null) e
      left join approval_grants g on g.user_id = p_user and g.id = e.grant and g.revoked_at is null and g.expires_at > v_now
      where g.id is null or g.uses_left < e.place
      order by e.ordinal limit 1;
    if found then return next; return; end if;
    update approval_grants g set uses_left = g.uses_left - w.uses
      from (select w.id, count(*)::integer as uses from unnest(v_grants) w(id) group by 1) w
      where g.user_id = p_user and g.id = w.id;
  end if;
  perform pg_temp.journal_put(p_user, p_step, p_round, p_token, p_entries, v_now);
  -- It got on: passing trouble before this does not count against what comes.
  if p_entries @> '[{"state": "done"}]' then
    update steps s set failing_since = null where s.user_id = p_user and s.id = p_step and s.failing_since is not null;
  end if;
  verdict := 'written';
  return next;
end $$;
