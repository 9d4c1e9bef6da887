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
  v_back uuid[] := '{}';
  v_round uuid[];
  v_n integer;
  v_drafts pg_temp.draft[];
  v_more pg_temp.draft[];
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
  v_drafts := array[(p_user, v_plan.session_id, p_plan, p_step, 'task_reopened', jsonb_build_object('key', v_step.key))::pg_temp.draft];
  v_round := array[p_step];
  loop
    -- Dependents that were skipped and that nothing else rules out. They are looked at again whenever one of their needs
    -- comes back, so the order does not matter.
    with candidate as (
      select distinct e.step_id as id from unnest(v_round) r(id)
      join step_edges e on e.needs_step_id = r.id and e.user_id = p_user),
    edges as (
      select c.id, count(*) filter (where n.finished_at is null) as unended,
             count(*) filter (where n.finished_at is not null and not pg_temp.edge_met(e.met_when, n.state, n.waived)) as missed
      from candidate c
      join step_edges e on e.step_id = c.id and e.user_id = p_user
      join steps n on n.user_id = p_user and n.id = e.needs_step_id
      group by c.id),
    revived as (
      update steps s
      set state = 'blocked', finished_at = null, result = null, error = null, waived = false, failures = 0, failing_since = null, ran_ms = 0,
          agent_version = null, woken_by = null, round = s.round + (s.state <> 'skipped')::integer,
          waiting_for = 1
      from edges d
      where s.user_id = p_user and s.id = d.id and d.unended > 0
        and (s.state = 'skipped' or (s.kind = 'summary' and s.state in ('succeeded', 'failed')))
        and (s.joins = 'any' or d.missed = 0)
      returning s.id, s.key, s.depth, s.kind)
    select array_agg(v.id),
           array_agg((p_user, v_plan.session_id, p_plan, v.id, 'task_reopened', jsonb_build_object('key', v.key))::pg_temp.draft)
    into v_round, v_more from revived v;
    exit when v_round is null;
    v_back := v_back || v_round;
    v_drafts := v_drafts || v_more;
  end loop;
  -- Only now is it known which needs are open again: of those that came back, and of those that had counted them already.
  with told as (
    select distinct e.step_id as id from unnest(p_step || v_back) r(id)
    join step_edges e on e.needs_step_id = r.id and e.user_id = p_user),
  edges as (
    select t.id, count(*) filter (where n.finished_at is null)::integer as unended,
           count(*) filter (where n.finished_at is null or not pg_temp.edge_met(e.met_when, n.state, n.waived))::integer as unmet
    from told t
    join step_edges e on e.step_id = t.id and e.user_id = p_user
    join steps n on n.user_id = p_user and n.id = e.needs_step_id
    group by t.id)
  update steps s set waiting_for = case s.joins when 'all' then d.unmet else d.unended end
    from edges d where s.user_id = p_user and s.id = d.id and s.state = 'blocked';
  v_n := 1 + cardinality(v_back);
  update plans p
    set state = 'active', finished_at = null, open_steps = p.open_steps + v_n, updated_at = v_now,
        unsuccessful_steps = (select count(*) from steps s where s.user_id = p_user and s.plan_id = p_plan and s.depth = 0
                              and s.state in ('failed', 'skipped', 'cancelled'))
    where p.user_id = p_user and p.id = p_plan;
  if v_plan.state <> 'active' then
    v_drafts := (p_user, v_plan.session_id, p_plan, null, 'plan_reopened', jsonb_build_object('step_id', p_step))::pg_temp.draft || v_drafts;
  end if;
  v_admitted := pg_temp.steps_admit(array[p_user], array[p_step], '{}', '{}', '{}', v_now);
  perform pg_temp.events_append(v_drafts || v_admitted.drafts, v_admitted.feed_users, v_admitted.feed_deltas);
  return next;
end $$;
