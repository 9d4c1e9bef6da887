-- plan_resume: lets a held plan go on. Verdicts: resumed | again (it is not held) | gone.
create function pg_temp.plan_resume(p_user uuid, p_plan uuid, p_clock timestamptz) returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_plan record;
  v_freed record;
  v_admitted record;
begin
  select p.paused_at, p.session_id into v_plan from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  verdict := case when not found then 'gone' when v_plan.paused_at is null then 'again' else 'resumed' end;
  if verdict <> 'resumed' then return next; return; end if;
  update plans p set paused_at = null, updated_at = v_now where p.user_id = p_user and p.id = p_plan;
  with freed as (
    update ready_steps r set paused = false, placed = r.agent_id is null and r.due_at is null, since = v_now, told = false
    where r.ctid = any (array(
      select k.ctid from steps s join ready_steps k on k.step_id = s.id and k.user_id = s.user_id
      where s.user_id = p_user and s.plan_id = p_plan and s.state = 'ready' and k.paused for update of k))
    returning r.agent_id, r.placed)
  select coalesce(count(*) filter (where f.placed), 0)::integer as placed,
         coalesce(array_agg(distinct f.agent_id) filter (where f.agent_id is not null), '{}') as agents
  into v_freed from freed f;
  v_admitted := pg_temp.steps_admit('{}', '{}', array_fill(p_user, array[cardinality(v_freed.agents)]), v_freed.agents,
    array_fill(0, array[cardinality(v_freed.agents)]), v_now);
  perform pg_temp.events_append(
    (p_user, v_plan.session_id, p_plan, null, 'plan_resumed', '{}')::pg_temp.draft || v_admitted.drafts,
    array[p_user] || v_admitted.feed_users, array[v_freed.placed] || v_admitted.feed_deltas);
  return next;
end $$;
