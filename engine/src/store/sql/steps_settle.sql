-- steps_settle: tells the dependents of steps that ended (under their plans' locks, held by the caller).
-- A met edge counts down; at zero the step is ready. A missed edge skips the step, and its own dependents
-- hear of that in the next round; a graph without failures needs one round.
create function pg_temp.steps_settle(
  p_users uuid[], p_steps uuid[], p_now timestamptz,
  out ready_users uuid[], out ready_steps uuid[],
  out skipped_users uuid[], out skipped_plans uuid[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_users uuid[] := p_users;
  v_steps uuid[] := p_steps;
  v_plans uuid[];
  v_ready_users uuid[];
  v_ready uuid[];
  v_drafts pg_temp.draft[];
begin
  ready_users := '{}'; ready_steps := '{}'; skipped_users := '{}'; skipped_plans := '{}'; drafts := '{}';
  loop
    with ended as (
      select s.user_id, s.id, s.state
      from unnest(v_users, v_steps) f(user_id, id)
      join steps s on s.user_id = f.user_id and s.id = f.id),
    told as (
      select e.user_id, e.step_id,
             (e.met_when = 'done' or (e.met_when = 'success' and n.state = 'succeeded')
              or (e.met_when = 'failure' and n.state = 'failed')) as met
      from ended n
      join step_edges e on e.user_id = n.user_id and e.needs_step_id = n.id),
    summed as (
      select t.user_id, t.step_id, count(*) filter (where t.met)::integer as met, bool_or(not t.met) as missed
      from told t group by 1, 2),
    moved as (
      update steps s
      set waiting_for = case when e.missed then s.waiting_for else s.waiting_for - e.met end,
          state = case when e.missed then 'skipped' when s.waiting_for = e.met then 'ready' else 'blocked' end::step_state,
          finished_at = case when e.missed then p_now end
      from summed e
      where s.user_id = e.user_id and s.id = e.step_id and s.state = 'blocked'
      returning s.user_id, s.id, s.plan_id, s.session_id, s.key, s.state, s.position)
    select array_agg(m.user_id order by m.position) filter (where m.state = 'ready'),
           array_agg(m.id order by m.position) filter (where m.state = 'ready'),
           array_agg(m.user_id order by m.position) filter (where m.state = 'skipped'),
           array_agg(m.id order by m.position) filter (where m.state = 'skipped'),
           array_agg(m.plan_id order by m.position) filter (where m.state = 'skipped'),
           array_agg((m.user_id, m.session_id, m.plan_id, m.id, 'task_skipped', jsonb_build_object('key', m.key))::pg_temp.draft
                     order by m.position) filter (where m.state = 'skipped')
    into v_ready_users, v_ready, v_users, v_steps, v_plans, v_drafts
    from moved m;
    ready_users := ready_users || v_ready_users;
    ready_steps := ready_steps || v_ready;
    exit when v_users is null;
    skipped_users := skipped_users || v_users;
    skipped_plans := skipped_plans || v_plans;
    drafts := drafts || v_drafts;
  end loop;
end $$;
