-- plans_count: moves the counters of plans that the caller has locked, and closes those without open steps.
-- A plan that closes hands its session's turn to the next message. Locks, after the plans: sessions in
-- order, then their next plans. Returns the first steps of those.
create function pg_temp.plans_count(
  p_users uuid[], p_plans uuid[], p_ended integer[], p_succeeded integer[], p_unsuccessful integer[], p_added integer[],
  p_now timestamptz, out ready_users uuid[], out ready_steps uuid[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_users uuid[];
  v_sessions uuid[];
  v_closed uuid[];
  v_next uuid;
begin
  with given as (
    select g.user_id, g.id, sum(g.ended)::integer as ended, sum(g.succeeded)::integer as succeeded,
           sum(g.unsuccessful)::integer as unsuccessful, sum(g.added)::integer as added
    from unnest(p_users, p_plans, p_ended, p_succeeded, p_unsuccessful, p_added)
         g(user_id, id, ended, succeeded, unsuccessful, added)
    group by 1, 2),
  counted as (
    update plans p
    set open_steps = p.open_steps - g.ended + g.added,
        succeeded_steps = p.succeeded_steps + g.succeeded,
        unsuccessful_steps = p.unsuccessful_steps + g.unsuccessful,
        updated_at = p_now,
        deadline = case when p.open_steps - g.ended + g.added > 0 then p.deadline end,
        queued = p.queued and p.open_steps - g.ended + g.added > 0,
        finished_at = case when p.open_steps - g.ended + g.added = 0 then p_now end,
        state = case
          when p.open_steps - g.ended + g.added > 0 then 'active'
          when p.cancel_requested_at is not null then 'cancelled'
          when p.unsuccessful_steps + g.unsuccessful = 0 then 'succeeded'
          when p.succeeded_steps + g.succeeded > 0 then 'partial'
          else 'failed' end::plan_state
    from given g where p.user_id = g.user_id and p.id = g.id
    returning p.user_id, p.id, p.session_id, p.mode, p.state, p.succeeded_steps, p.unsuccessful_steps, p.cancel_reason)
  select array_agg(c.user_id), array_agg(c.id), array_agg(c.session_id),
         array_agg((c.user_id, c.session_id, c.id, null, 'plan_completed', jsonb_build_object(
           'state', c.state, 'mode', c.mode, 'succeeded_steps', c.succeeded_steps,
           'unsuccessful_steps', c.unsuccessful_steps)
           || case when c.cancel_reason is null then '{}'::jsonb else jsonb_build_object('reason', c.cancel_reason) end)::pg_temp.draft)
  into v_users, v_closed, v_sessions, drafts
  from counted c where c.state <> 'active';
  if v_users is null then return; end if;

  -- The session's turn. A message that is being accepted holds the session's row: either it sees the
  -- turn free, or the statement after this lock sees its plan.
  with locked as (
    select s.user_id, s.id from chat_sessions s
    join unnest(v_users, v_sessions, v_closed) c(user_id, session_id, plan_id)
      on s.user_id = c.user_id and s.id = c.session_id
    where s.active_plan_id = c.plan_id
    order by s.user_id, s.id for no key update of s)
  select array_agg(l.user_id), array_agg(l.id) into v_users, v_sessions from locked l;
  if v_users is null then return; end if;
  ready_users := '{}'; ready_steps := '{}';
  for i in 1 .. cardinality(v_users) loop
    v_next := null;
    loop
      select p.id into v_next from plans p
        where p.user_id = v_users[i] and p.session_id = v_sessions[i] and p.queued order by p.id limit 1;
      exit when v_next is null;
      -- A cancel may have taken it meanwhile: then it is no longer queued, and the one after it comes up.
      update plans p set queued = false, updated_at = p_now
        where p.user_id = v_users[i] and p.id = v_next and p.queued;
      exit when found;
    end loop;
    update chat_sessions s set active_plan_id = v_next where s.user_id = v_users[i] and s.id = v_sessions[i];
    with woken as (
      update steps s set waiting_for = 0, state = 'ready'
      where s.user_id = v_users[i] and s.plan_id = v_next and s.state = 'blocked' and s.waiting_for = 1
        and not exists (select 1 from step_edges e where e.user_id = s.user_id and e.step_id = s.id)
      returning s.user_id, s.id)
    select ready_users || array_agg(w.user_id), ready_steps || array_agg(w.id) into ready_users, ready_steps from woken w;
  end loop;
end $$;
