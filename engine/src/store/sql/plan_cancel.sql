-- plan_cancel: ends a plan's steps that are not running, and marks those that are: they end cancelled when they
-- finish, whatever they return. Verdicts: cancelled | cancelling (steps still run) | closed (nothing to do) | gone.
-- A ready step that a worker is claiming at this moment is skipped here and caught at its finish.
create function pg_temp.plan_cancel(p_user uuid, p_plan uuid, p_clock timestamptz)
returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_state plan_state;
  v_taken uuid[];
  v_placed integer;
  v_agents uuid[];
  v_ended integer;
  v_drafts pg_temp.draft[];
  v_counted record;
  v_admitted record;
begin
  update plans p set cancel_requested_at = coalesce(p.cancel_requested_at, v_now), updated_at = v_now
    where p.user_id = p_user and p.id = p_plan and p.state = 'active';
  if not found then
    select p.state into v_state from plans p where p.user_id = p_user and p.id = p_plan;
    verdict := case when v_state is null then 'gone' else 'closed' end;
    return next; return;
  end if;
  with taken as (
    delete from ready_steps where ctid = any (array(
      select r.ctid from ready_steps r join steps s on s.user_id = r.user_id and s.id = r.step_id
      where s.user_id = p_user and s.plan_id = p_plan and s.state = 'ready' for update of r skip locked))
    returning step_id, agent_id, placed)
  select array_agg(t.step_id), count(*) filter (where t.placed), array_agg(t.agent_id) filter (where t.placed and t.agent_id is not null)
  into v_taken, v_placed, v_agents from taken t;
  update waits w set decision = 'cancelled', decided_at = v_now
    where w.user_id = p_user and w.plan_id = p_plan and w.decision is null;
  with ended as (
    update steps s set state = 'cancelled', finished_at = v_now
    where s.user_id = p_user and s.plan_id = p_plan
      and (s.state in ('blocked', 'suspended') or (s.state = 'ready' and s.id = any (v_taken)))
    returning s.id, s.key, s.session_id)
  select count(*), array_agg((p_user, e.session_id, p_plan, e.id, 'task_cancelled', jsonb_build_object('key', e.key))::pg_temp.draft)
  into v_ended, v_drafts from ended e;
  select * into v_counted from pg_temp.plans_count(array[p_user], array[p_plan], array[v_ended], array[0], array[0], array[0], v_now);
  select * into v_admitted from pg_temp.steps_admit(
    v_counted.ready_users, v_counted.ready_steps,
    array_fill(p_user, array[coalesce(cardinality(v_agents), 0)]), v_agents,
    array_fill(1, array[coalesce(cardinality(v_agents), 0)]), v_now);
  perform pg_temp.events_append(
    coalesce(v_drafts, '{}') || v_counted.drafts || v_admitted.drafts,
    array[p_user] || v_admitted.feed_users, array[-v_placed] || v_admitted.feed_deltas);
  verdict := case when v_counted.drafts is null then 'cancelling' else 'cancelled' end;
  return next;
end $$;
