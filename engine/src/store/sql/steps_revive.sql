-- steps_revive: what comes back when a step of a plan runs, or waits, again; the caller has locked the plan and moved the step.
-- Dependents that were skipped because of it are blocked again, unless something else rules them out; a summary that has answered
-- will answer anew; everything else that ended stays. Counts the plan anew and opens it. Returns the drafts of the events.
create function pg_temp.steps_revive(p_user uuid, p_plan uuid, p_session uuid, p_step uuid, p_key text, p_now timestamptz)
returns pg_temp.draft[] language plpgsql as $$
declare
  v_state plan_state;
  v_back uuid[] := '{}';
  v_round uuid[];
  v_drafts pg_temp.draft[];
  v_more pg_temp.draft[];
begin
  v_drafts := array[(p_user, p_session, p_plan, p_step, 'task_reopened', jsonb_build_object('key', p_key))::pg_temp.draft];
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
           array_agg((p_user, p_session, p_plan, v.id, 'task_reopened', jsonb_build_object('key', v.key))::pg_temp.draft)
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
  select p.state into v_state from plans p where p.user_id = p_user and p.id = p_plan;
  update plans p
    set state = 'active', finished_at = null, updated_at = p_now,
        open_steps = (select count(*) from steps s where s.user_id = p_user and s.plan_id = p_plan and s.finished_at is null),
        succeeded_steps = (select count(*) from steps s where s.user_id = p_user and s.plan_id = p_plan and s.depth = 0
                           and s.state = 'succeeded' and s.kind not in ('planning', 'summary')),
        unsuccessful_steps = (select count(*) from steps s where s.user_id = p_user and s.plan_id = p_plan and s.depth = 0
                              and s.state in ('failed', 'skipped', 'cancelled'))
    where p.user_id = p_user and p.id = p_plan;
  if v_state <> 'active' then
    v_drafts := (p_user, p_session, p_plan, null, 'plan_reopened', jsonb_build_object('step_id', p_step))::pg_temp.draft || v_drafts;
  end if;
  return v_drafts;
end $$;
