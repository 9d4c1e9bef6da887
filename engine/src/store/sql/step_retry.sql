-- step_retry: a failed step of the plan's own runs again, with the newest configuration of its agent; what was skipped because of
-- it comes back, everything that succeeded stays, and a summary that has answered already will answer anew.
-- p_prompt, p_agent: another question, another agent. They, or p_fresh, begin a new round: the journal is left behind.
-- Verdicts: retried | gone | not_failed | child | cancelled.
create function pg_temp.step_retry(
  p_user uuid, p_plan uuid, p_step uuid, p_prompt text, p_agent uuid, p_fresh boolean, p_clock timestamptz)
returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_plan record;
  v_step record;
  v_drafts pg_temp.draft[];
  v_admitted record;
begin
  select p.state, p.session_id, p.cancel_requested_at into v_plan
    from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  select s.state, s.parent_id, s.key into v_step from steps s where s.user_id = p_user and s.id = p_step and s.plan_id = p_plan;
  verdict := case when v_step.state is null then 'gone' when v_plan.cancel_requested_at is not null then 'cancelled'
    when v_step.state <> 'failed' then 'not_failed' when v_step.parent_id is not null then 'child' else 'retried' end;
  if verdict <> 'retried' then return next; return; end if;
  update steps s
    set state = 'ready', error = null, finished_at = null, failures = 0, failing_since = null, ran_ms = 0, agent_version = null,
        woken_by = null, agent_id = coalesce(p_agent, s.agent_id),
        spec = case when p_prompt is null then s.spec else s.spec || jsonb_build_object('prompt', p_prompt) end,
        round = s.round + (p_fresh or p_prompt is not null or p_agent is not null)::integer
    where s.user_id = p_user and s.id = p_step;
  v_drafts := pg_temp.steps_revive(p_user, p_plan, v_plan.session_id, p_step, v_step.key, v_now);
  v_admitted := pg_temp.steps_admit(array[p_user], array[p_step], '{}', '{}', '{}', v_now);
  perform pg_temp.events_append(v_drafts || v_admitted.drafts, v_admitted.feed_users, v_admitted.feed_deltas);
  return next;
end $$;
