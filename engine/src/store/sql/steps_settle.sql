-- steps_settle: tells the dependents and the parents of steps that ended (under their plans' locks, held by the caller).
-- A met edge counts down; at zero the step is ready. A missed edge skips the step, and its own dependents
-- hear of that in the next round; a graph without failures needs one round. A step that joins any is ready with its
-- first met edge and skipped when none is left. A parent wakes when the last of its children has ended.
create function pg_temp.steps_settle(
  p_users uuid[], p_steps uuid[], p_now timestamptz,
  out ready_users uuid[], out ready_steps uuid[],
  out skipped_users uuid[], out skipped_plans uuid[], out skipped_counts integer[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_users uuid[] := p_users;
  v_steps uuid[] := p_steps;
  v_plans uuid[];
  v_counts integer[];
  v_ready_users uuid[];
  v_ready uuid[];
  v_drafts pg_temp.draft[];
  v_parents uuid[] := '{}';
  v_parent_users uuid[] := '{}';
  v_more uuid[];
  v_more_users uuid[];
begin
  ready_users := '{}'; ready_steps := '{}'; skipped_users := '{}'; skipped_plans := '{}'; skipped_counts := '{}'; drafts := '{}';
  loop
    with ended as (
      select s.user_id, s.id, s.state, s.waived, s.parent_id
      from unnest(v_users, v_steps) f(user_id, id)
      join steps s on s.user_id = f.user_id and s.id = f.id),
    told as (
      select e.user_id, e.step_id, pg_temp.edge_met(e.met_when, n.state, n.waived) as met
      from ended n
      join step_edges e on e.user_id = n.user_id and e.needs_step_id = n.id),
    summed as (
      select t.user_id, t.step_id, count(*) filter (where t.met)::integer as met, count(*) filter (where not t.met)::integer as missed
      from told t group by 1, 2),
    moved as (
      update steps s
      set waiting_for = case
            when s.joins = 'all' then case when e.missed > 0 then s.waiting_for else s.waiting_for - e.met end
            when e.met > 0 then 0 else s.waiting_for - e.missed end,
          state = case
            when s.joins = 'all' then case when e.missed > 0 then 'skipped' when s.waiting_for = e.met then 'ready' else 'blocked' end
            when e.met > 0 then 'ready' when s.waiting_for = e.missed then 'skipped' else 'blocked' end::step_state,
          finished_at = case
            when (s.joins = 'all' and e.missed > 0) or (s.joins = 'any' and e.met = 0 and s.waiting_for = e.missed) then p_now end
      from summed e
      where s.user_id = e.user_id and s.id = e.step_id and s.state = 'blocked'
      returning s.user_id, s.id, s.plan_id, s.session_id, s.key, s.state, s.position, s.depth)
    select array_agg(m.user_id order by m.position) filter (where m.state = 'ready'),
           array_agg(m.id order by m.position) filter (where m.state = 'ready'),
           array_agg(m.user_id order by m.position) filter (where m.state = 'skipped'),
           array_agg(m.id order by m.position) filter (where m.state = 'skipped'),
           array_agg(m.plan_id order by m.position) filter (where m.state = 'skipped'),
           array_agg((m.depth = 0)::integer order by m.position) filter (where m.state = 'skipped'),
           array_agg((m.user_id, m.session_id, m.plan_id, m.id, 'task_skipped', jsonb_build_object('key', m.key))::pg_temp.draft
                     order by m.position) filter (where m.state = 'skipped'),
           (select array_agg(n.parent_id) from ended n where n.parent_id is not null),
           (select array_agg(n.user_id) from ended n where n.parent_id is not null)
    into v_ready_users, v_ready, v_users, v_steps, v_plans, v_counts, v_drafts, v_more, v_more_users
    from moved m;
    ready_users := ready_users || v_ready_users;
    ready_steps := ready_steps || v_ready;
    v_parents := v_parents || v_more;
    v_parent_users := v_parent_users || v_more_users;
    exit when v_users is null;
    skipped_users := skipped_users || v_users;
    skipped_plans := skipped_plans || v_plans;
    skipped_counts := skipped_counts || v_counts;
    drafts := drafts || v_drafts;
  end loop;
  if cardinality(v_parents) = 0 then return; end if;

  with fewer as (
    select f.user_id, f.id, count(*)::integer as n from unnest(v_parent_users, v_parents) f(user_id, id) group by 1, 2),
  left_open as (
    update steps s set open_children = s.open_children - f.n
    from fewer f where s.user_id = f.user_id and s.id = f.id and s.state = 'suspended'
    returning s.user_id, s.id, s.open_children),
  closed as (
    update waits w set decision = 'answered', decided_at = p_now
    from left_open l
    where l.open_children = 0 and w.user_id = l.user_id and w.step_id = l.id and w.decision is null
    returning w.user_id, w.id, w.step_id)
  select array_agg(c.user_id), array_agg(c.step_id), array_agg(c.id) into v_ready_users, v_ready, v_more from closed c;
  if v_ready is null then return; end if;
  with woken as (
    update steps s set state = 'ready', woken_by = c.wait_id
    from unnest(v_ready_users, v_ready, v_more) c(user_id, id, wait_id)
    where s.user_id = c.user_id and s.id = c.id and s.state = 'suspended'
    returning s.user_id, s.id, s.session_id, s.plan_id, s.key)
  select drafts || array_agg((w.user_id, w.session_id, w.plan_id, w.id, 'task_progress', jsonb_build_object(
           'key', w.key, 'phase', 'children_ended'))::pg_temp.draft)
  into drafts from woken w;
  ready_users := ready_users || v_ready_users;
  ready_steps := ready_steps || v_ready;
end $$;
