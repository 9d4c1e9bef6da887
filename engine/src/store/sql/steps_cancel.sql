-- steps_cancel: ends steps of a plan that the caller has locked: all of them, one with all that it made (p_step), or
-- all but the summary (p_abort). What waits in any way ends here; what runs is marked on the plan and ends when it finishes.
-- A ready step that a worker is claiming at this moment counts as running: its row may not be waited for.
-- Settling, counting, admission and the events are the caller's.
create function pg_temp.steps_cancel(
  p_user uuid, p_plan uuid, p_step uuid, p_abort boolean, p_now timestamptz,
  out ended uuid[], out counts integer[], out marked uuid[], out placed integer, out agents uuid[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_wanted uuid[];
  v_taken uuid[];
  v_resolved pg_temp.draft[];
begin
  with recursive family as (
    select s.id from steps s
    where s.user_id = p_user and s.plan_id = p_plan and s.finished_at is null
      and (p_step is null or s.id = p_step) and not (p_abort and s.kind = 'summary')
    union
    select c.id from family f join steps c on c.parent_id = f.id and c.user_id = p_user where c.finished_at is null)
  select array_agg(f.id) into v_wanted from family f;
  with taken as (
    delete from ready_steps where ctid = any (array(
      select r.ctid from unnest(v_wanted) w(id) join ready_steps r on r.step_id = w.id and r.user_id = p_user for update of r skip locked))
    returning step_id, agent_id, ready_steps.placed)
  select array_agg(t.step_id), coalesce(count(*) filter (where t.placed), 0), array_agg(t.agent_id) filter (where t.placed and t.agent_id is not null)
  into v_taken, placed, agents from taken t;
  -- Whoever was told that the time is up was told the truth.
  with closed as (
    update waits w set decided_at = p_now,
      decision = case when w.kind in ('approval', 'input', 'client_tool') and w.deadline <= p_now then 'timed_out' else 'cancelled' end::wait_decision
    from unnest(v_wanted) s(id)
    where w.user_id = p_user and w.step_id = s.id and w.decision is null
    returning w.id, w.step_id, w.session_id, w.kind, w.decision, w.payload)
  select array_agg((p_user, c.session_id, p_plan, c.step_id, 'approval_resolved',
           pg_temp.resolved(s.key, c.id, c.kind, c.decision, c.payload -> 'type', null))::pg_temp.draft)
    into v_resolved
    from closed c join steps s on s.user_id = p_user and s.id = c.step_id
    where c.kind in ('approval', 'input');
  with gone as (
    update steps s set state = 'cancelled', finished_at = p_now
    from unnest(v_wanted) w(id)
    where s.user_id = p_user and s.id = w.id
      and (s.state in ('blocked', 'suspended') or (s.state = 'ready' and s.id = any (v_taken)))
    returning s.id, s.key, s.session_id, s.depth)
  select array_agg(g.id), array_agg((g.depth = 0)::integer),
         array_agg((p_user, g.session_id, p_plan, g.id, 'task_cancelled', jsonb_build_object('key', g.key))::pg_temp.draft)
  into ended, counts, drafts from gone g;
  select array_agg(w.id) into marked from unnest(v_wanted) w(id) where w.id <> all (coalesce(ended, '{}'));
  if p_step is not null or p_abort then
    update plans p set cancelling_steps = coalesce(p.cancelling_steps, '{}') || marked, updated_at = p_now
      where p.user_id = p_user and p.id = p_plan and marked is not null;
  end if;
  ended := coalesce(ended, '{}'); counts := coalesce(counts, '{}'); marked := coalesce(marked, '{}');
  agents := coalesce(agents, '{}'); drafts := coalesce(v_resolved, '{}') || coalesce(drafts, '{}');
end $$;
