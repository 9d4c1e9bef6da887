-- step_cancel: ends one step and all that it made. What needs its success is skipped, what needs its end goes on.
-- Verdicts: cancelled | cancelling (it runs, and ends so when it finishes) | closed (it had ended) | gone.
create function pg_temp.step_cancel(p_user uuid, p_plan uuid, p_step uuid, p_clock timestamptz)
returns table (verdict text) language plpgsql as $$
declare
  v_now timestamptz;
  v_finished timestamptz;
  v_gone record;
  v_hear record;
  v_counted record;
  v_admitted record;
  v_n integer;
begin
  perform 1 from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  -- The clock is read under the lock: whoever held it may have told somebody that a deadline has passed.
  v_now := coalesce(p_clock, clock_timestamp());
  select s.finished_at into v_finished from steps s where s.user_id = p_user and s.id = p_step and s.plan_id = p_plan;
  if not found then verdict := 'gone'; return next; return; end if;
  if v_finished is not null then verdict := 'closed'; return next; return; end if;
  v_gone := pg_temp.steps_cancel(p_user, p_plan, p_step, false, v_now);
  v_n := cardinality(v_gone.ended);
  v_hear := pg_temp.steps_settle(array_fill(p_user, array[v_n]), v_gone.ended, v_now);
  select * into v_counted from pg_temp.plans_count(
    array_fill(p_user, array[v_n]) || v_hear.skipped_users, array_fill(p_plan, array[v_n]) || v_hear.skipped_plans,
    array_fill(1, array[v_n + cardinality(v_hear.skipped_users)]), array_fill(0, array[v_n + cardinality(v_hear.skipped_users)]),
    v_gone.counts || v_hear.skipped_counts, array_fill(0, array[v_n + cardinality(v_hear.skipped_users)]), v_now);
  select * into v_admitted from pg_temp.steps_admit(
    v_hear.ready_users || v_counted.ready_users, v_hear.ready_steps || v_counted.ready_steps,
    array_fill(p_user, array[cardinality(v_gone.agents)]), v_gone.agents,
    array_fill(1, array[cardinality(v_gone.agents)]), v_now);
  perform pg_temp.events_append(
    v_gone.drafts || v_hear.drafts || v_counted.drafts || v_admitted.drafts,
    array[p_user] || v_admitted.feed_users, array[-v_gone.placed] || v_admitted.feed_deltas);
  verdict := case when p_step = any (v_gone.ended) then 'cancelled' else 'cancelling' end;
  return next;
end $$;
