-- journal_put: writes entries of a step's journal; the caller has made sure that the step is under this token's lease.
-- Entries: [{ordinal, state: intent | done | unknown | withdrawn (it was not made after all), kind, effect, request, result?, approval?,
-- grant?}]. What is done stays as it is. A call that is withdrawn gives its grant the use back.
create function pg_temp.journal_put(
  p_user uuid, p_step uuid, p_round smallint, p_token bigint, p_entries jsonb, p_now timestamptz)
returns integer language sql as $$
  with given as (
    select * from jsonb_to_recordset(p_entries) as
      g(ordinal integer, state text, kind text, effect text, request jsonb, result jsonb, approval uuid, "grant" uuid)),
  withdrawn as (
    delete from effects e using given g
    where g.state = 'withdrawn' and e.user_id = p_user and e.step_id = p_step and e.round = p_round and e.ordinal = g.ordinal
      and e.token = p_token and e.state = 'intent'
    returning g.grant),
  given_back as (
    update approval_grants a set uses_left = a.uses_left + w.uses
    from (select w.grant as id, count(*)::integer as uses from withdrawn w where w.grant is not null group by 1) w
    where a.user_id = p_user and a.id = w.id),
  put as (
    insert into effects as e (user_id, step_id, round, ordinal, kind, effect, state, token, approval_id, request, result, created_at, done_at)
    select p_user, p_step, p_round, g.ordinal, g.kind, g.effect, g.state, p_token, g.approval, coalesce(g.request, '{}'), g.result, p_now,
           case when g.state = 'done' then p_now end
    from given g where g.state <> 'withdrawn'
    on conflict (step_id, round, ordinal, user_id) do update
      set state = excluded.state, token = excluded.token, result = excluded.result, done_at = excluded.done_at, partial = null,
          approval_id = coalesce(excluded.approval_id, e.approval_id),
          request = case when excluded.request = '{}' then e.request else excluded.request end
      where e.state <> 'done'
    returning 1)
  select count(*)::integer from put $$;
