-- journal_write: entries of a running step's journal, in one commit: the result of the last call with the intent of the
-- next. Fenced: without the lease under this token nothing is written. The lease is held against its own end meanwhile.
create function pg_temp.journal_write(
  p_user uuid, p_step uuid, p_round smallint, p_token bigint, p_entries jsonb, p_clock timestamptz)
returns boolean language plpgsql as $$
begin
  perform 1 from leases l where l.user_id = p_user and l.step_id = p_step and l.token = p_token for key share;
  if not found then return false; end if;
  perform pg_temp.journal_put(p_user, p_step, p_round, p_token, p_entries, coalesce(p_clock, clock_timestamp()));
  -- It got on: passing trouble before this does not count against what comes.
  if p_entries @> '[{"state": "done"}]' then
    update steps s set failing_since = null where s.user_id = p_user and s.id = p_step and s.failing_since is not null;
  end if;
  return true;
end $$;
