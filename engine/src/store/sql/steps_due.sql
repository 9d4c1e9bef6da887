-- steps_due: lets in the ready steps whose backoff has passed. Returns how many.
create function pg_temp.steps_due(p_limit integer, p_clock timestamptz) returns integer language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_due integer;
  v_users uuid[];
  v_agents uuid[];
  v_free_users uuid[];
  v_free integer[];
  v_admitted record;
begin
  with due as (
    update ready_steps r set due_at = null, placed = r.agent_id is null
    where r.ctid = any (array(
      select k.ctid from ready_steps k where k.due_at <= v_now and not k.paused order by k.due_at limit p_limit for update skip locked))
    returning r.user_id, r.agent_id),
  free as (select d.user_id, count(*)::integer as n from due d where d.agent_id is null group by 1),
  full_or_not as (select distinct d.user_id, d.agent_id from due d where d.agent_id is not null)
  select (select count(*) from due), (select array_agg(f.user_id) from free f), (select array_agg(f.n) from free f),
         (select array_agg(a.user_id) from full_or_not a), (select array_agg(a.agent_id) from full_or_not a)
  into v_due, v_free_users, v_free, v_users, v_agents;
  if v_due = 0 then return 0; end if;
  select * into v_admitted from pg_temp.steps_admit(
    '{}', '{}', v_users, v_agents, array_fill(0, array[coalesce(cardinality(v_users), 0)]), v_now);
  perform pg_temp.events_append(v_admitted.drafts, v_free_users || v_admitted.feed_users, v_free || v_admitted.feed_deltas);
  return v_due;
end $$;
