-- agents_admit: grants free places to waiting steps, where a limit was raised, and as the sweep behind every
-- other transition (a cancel that rolled back, an admission that skipped its row). p_user null: all users.
create function pg_temp.agents_admit(p_user uuid, p_agent uuid, p_clock timestamptz) returns integer language plpgsql as $$
declare
  v_users uuid[];
  v_agents uuid[];
  v_admitted record;
begin
  if p_user is not null then
    v_users := array[p_user]; v_agents := array[p_agent];
  else
    -- Hop from agent to agent along the waiting index instead of reading each waiting step.
    with recursive hop as (
      (select r.user_id, r.agent_id from ready_steps r where not r.placed and r.due_at is null and not r.paused
       order by r.user_id, r.agent_id limit 1)
      union all
      select n.user_id, n.agent_id from hop h cross join lateral (
        select r.user_id, r.agent_id from ready_steps r
        where not r.placed and r.due_at is null and not r.paused and (r.user_id, r.agent_id) > (h.user_id, h.agent_id)
        order by r.user_id, r.agent_id limit 1) n)
    select array_agg(a.user_id), array_agg(a.id) into v_users, v_agents
    from hop h join user_agents a on a.user_id = h.user_id and a.id = h.agent_id
    where a.running_steps < a.max_concurrency;
    if v_users is null then return 0; end if;
  end if;
  select * into v_admitted from pg_temp.steps_admit(
    '{}', '{}', v_users, v_agents, array_fill(0, array[cardinality(v_users)]), coalesce(p_clock, clock_timestamp()));
  perform pg_temp.events_append(v_admitted.drafts, v_admitted.feed_users, v_admitted.feed_deltas);
  return coalesce((select sum(d) from unnest(v_admitted.feed_deltas) d), 0);
end $$;
