-- plan_cancel: ends a plan's steps that are not running, and marks those that are: they end cancelled when they
-- finish, whatever they return. Verdicts: cancelled | cancelling (steps still run) | closed (nothing to do) | gone.
-- A ready step that a worker is claiming, or that an admission is moving, at this moment is skipped here and caught at its
-- finish.
-- p_reason: person, or timed_out (the plan's own deadline, which must have passed).
create function pg_temp.plan_cancel(p_user uuid, p_plan uuid, p_reason text, p_clock timestamptz)
returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz;
  v_state plan_state;
  v_gone record;
  v_n integer;
  v_counted record;
  v_admitted record;
begin
  perform 1 from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  -- The clock is read under the lock: whoever held it may have told somebody that a deadline has passed.
  v_now := coalesce(p_clock, clock_timestamp());
  update plans p set cancel_reason = coalesce(p.cancel_reason, p_reason), cancel_requested_at = coalesce(p.cancel_requested_at, v_now),
                     deadline = null, updated_at = v_now
    where p.user_id = p_user and p.id = p_plan and p.state = 'active' and (p_reason <> 'timed_out' or p.deadline <= v_now);
  if not found then
    select p.state into v_state from plans p where p.user_id = p_user and p.id = p_plan;
    verdict := case when v_state is null then 'gone' else 'closed' end;
    return next; return;
  end if;
  v_gone := pg_temp.steps_cancel(p_user, p_plan, null, false, v_now);
  v_n := cardinality(v_gone.ended);
  select * into v_counted from pg_temp.plans_count(
    array_fill(p_user, array[v_n]), array_fill(p_plan, array[v_n]), array_fill(1, array[v_n]), array_fill(0, array[v_n]),
    v_gone.counts, array_fill(0, array[v_n]), v_now);
  select * into v_admitted from pg_temp.steps_admit(
    v_counted.ready_users, v_counted.ready_steps, array_fill(p_user, array[cardinality(v_gone.agents)]), v_gone.agents,
    array_fill(1, array[cardinality(v_gone.agents)]), v_now);
  perform pg_temp.events_append(
    v_gone.drafts || v_counted.drafts || v_admitted.drafts,
    array[p_user] || v_admitted.feed_users, array[-v_gone.placed] || v_admitted.feed_deltas);
  verdict := case when v_counted.drafts is null then 'cancelling' else 'cancelled' end;
  return next;
end $$;
