-- waits_close: decides open waits and wakes their steps, in one transaction with the event. Each wait comes with the
-- decision wanted. Expiry (p_expire) needs the deadline to have passed, anything else needs that it has not:
-- the same clock, read once, decides both, so exactly one of them wins. Returns whose waits it decided, and how: an approval of a
-- tool or by way of an agent that is another one by now is `superseded`, and its step asks anew.
-- An approval may come with a grant {id, digest?, uses, for_ms}: consent ahead for further calls of the tool that was asked about.
-- An answer may carry `patch` {prompt?, agent_id?}: the step runs on with another question or agent, in a new round.
create function pg_temp.waits_close(
  p_users uuid[], p_waits uuid[], p_decisions wait_decision[], p_answers jsonb[], p_expire boolean, p_by jsonb,
  p_grant jsonb, p_clock timestamptz)
returns table (user_id uuid, decision wait_decision) language plpgsql as $$
#variable_conflict use_column
-- num_nonnulls(decision) = 0 is "open" in words that no index has: a wait is found by its keys.
declare
  v_now timestamptz;
  v_users uuid[];
  v_decisions wait_decision[];
  v_steps uuid[];
  v_drafts pg_temp.draft[];
  v_admitted record;
begin
  perform 1 from plans p
    where (p.user_id, p.id) in (
      select w.user_id, w.plan_id from unnest(p_users, p_waits) g(user_id, id) join waits w on w.user_id = g.user_id and w.id = g.id)
    order by p.user_id, p.id for no key update;
  v_now := coalesce(p_clock, clock_timestamp());
  with closed as (
    update waits w set answer = g.answer, decided_by = p_by, decided_at = v_now,
      decision = case when g.decision in ('approved', 'edited') and w.payload ->> 'type' = 'tool'
                           and not pg_temp.as_asked(w.user_id, w.step_id, w.payload)
                 then 'superseded' else g.decision end
    from unnest(p_users, p_waits, p_decisions, p_answers) g(user_id, id, decision, answer)
    where w.user_id = g.user_id and w.id = g.id and num_nonnulls(w.decision) = 0
      and case when p_expire then w.deadline <= v_now else w.deadline is null or w.deadline > v_now end
    returning w.user_id, w.id, w.step_id, w.plan_id, w.session_id, w.kind, w.decision, w.answer, w.payload,
      w.kind = 'approval' and w.payload ->> 'type' = 'decision' as is_card),
  granted as (
    insert into approval_grants (user_id, id, tool, tool_version, digest, uses_left, expires_at, wait_id, created_at)
    select c.user_id, (p_grant ->> 'id')::uuid, c.payload ->> 'tool', (c.payload ->> 'tool_version')::integer, p_grant ->> 'digest',
           (p_grant ->> 'uses')::integer, v_now + (p_grant ->> 'for_ms')::bigint * interval '1 millisecond', c.id, v_now
    from closed c where p_grant is not null and c.decision <> 'superseded'),
  woken as (
    update steps s
    set state = 'ready', woken_by = c.id,
        failures = case when c.is_card then 0 else s.failures end,
        failing_since = null,
        ran_ms = case when c.is_card then 0 else s.ran_ms end,
        round = s.round + coalesce(c.answer ? 'patch', false)::integer,
        agent_version = case when c.is_card then null else s.agent_version end,
        agent_id = coalesce((c.answer -> 'patch' ->> 'agent_id')::uuid, s.agent_id),
        spec = case when c.answer -> 'patch' ? 'prompt'
          then s.spec || jsonb_build_object('prompt', c.answer -> 'patch' -> 'prompt') else s.spec end
    from closed c
    where s.user_id = c.user_id and s.id = c.step_id and s.state = 'suspended'
    returning s.user_id, s.id, s.key)
  select array_agg(c.user_id), array_agg(c.decision), array_agg(w.id),
         array_agg((c.user_id, c.session_id, c.plan_id, c.step_id,
           case when c.kind in ('approval', 'input') then 'approval_resolved' else 'task_progress' end,
           pg_temp.resolved(w.key, c.id, c.kind, c.decision, c.payload -> 'type', c.answer -> 'choice'))::pg_temp.draft)
  into v_users, v_decisions, v_steps, v_drafts
  from closed c join woken w on w.user_id = c.user_id and w.id = c.step_id;
  if v_users is null then return; end if;
  select * into v_admitted from pg_temp.steps_admit(v_users, v_steps, '{}', '{}', '{}', v_now);
  perform pg_temp.events_append(v_drafts || v_admitted.drafts, v_admitted.feed_users, v_admitted.feed_deltas);
  return query select * from unnest(v_users, v_decisions);
end $$;
