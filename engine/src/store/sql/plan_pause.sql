-- plan_pause: holds a plan: what runs may end, nothing else begins. Ready steps keep their rows and give their places
-- back. Ready rows are waited for here: whoever holds one (a claim, the clockmaker) never waits for a plan.
-- Verdicts: paused | again (it is held already) | closed | gone.
create function pg_temp.plan_pause(p_user uuid, p_plan uuid, p_clock timestamptz) returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_plan record;
  v_held record;
  v_admitted record;
begin
  select p.state, p.paused_at, p.session_id, p.cancel_requested_at into v_plan
    from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  verdict := case when not found then 'gone' when v_plan.state <> 'active' or v_plan.cancel_requested_at is not null then 'closed'
    when v_plan.paused_at is not null then 'again' else 'paused' end;
  if verdict <> 'paused' then return next; return; end if;
  update plans p set paused_at = v_now, updated_at = v_now where p.user_id = p_user and p.id = p_plan;
  perform 1 from steps s join ready_steps r on r.step_id = s.id and r.user_id = s.user_id
    where s.user_id = p_user and s.plan_id = p_plan and s.state = 'ready' order by r.step_id for update of r;
  with held as (
    update ready_steps r set paused = true, placed = false
    from (select k.ctid, k.placed from steps s join ready_steps k on k.step_id = s.id and k.user_id = s.user_id
          where s.user_id = p_user and s.plan_id = p_plan and s.state = 'ready') f
    where r.ctid = f.ctid
    returning r.agent_id, f.placed)
  select coalesce(count(*) filter (where h.placed), 0)::integer as placed,
         coalesce(array_agg(h.agent_id) filter (where h.placed and h.agent_id is not null), '{}') as agents
  into v_held from held h;
  v_admitted := pg_temp.steps_admit('{}', '{}', array_fill(p_user, array[cardinality(v_held.agents)]), v_held.agents,
    array_fill(1, array[cardinality(v_held.agents)]), v_now);
  perform pg_temp.events_append(
    (p_user, v_plan.session_id, p_plan, null, 'plan_paused', '{}')::pg_temp.draft || v_admitted.drafts,
    array[p_user] || v_admitted.feed_users, array[-v_held.placed] || v_admitted.feed_deltas);
  return next;
end $$;
