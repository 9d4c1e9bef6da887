-- steps_admit: puts newly ready steps into ready_steps, gives freed places back and grants what is free.
-- Locks the agents concerned in order; only steps with a place stand in the claim's index, so that a
-- full agent with 20,000 ready steps costs the claim nothing.
-- A step's rank is when it became ready, plus its class's handicap, plus a second for each claimable step its
-- user already had (a tenth for interactive work): a user with 10,000 ready steps does not delay another's
-- first, and whoever has waited longest comes up by itself. What a worker has lost or given back goes on before what is new: it
-- ranks as of its begin, by up to a minute. What was woken does not: ten thousand may be woken at once. The counter is read
-- without a lock: a few steps off does no harm here. Agents to look at come with the number of places given back (0: only look).
-- Steps of a plan that the person holds get a ready row and no place.
create function pg_temp.steps_admit(
  p_users uuid[], p_steps uuid[], p_agent_users uuid[], p_agents uuid[], p_freed integer[], p_now timestamptz,
  out feed_users uuid[], out feed_deltas integer[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_users uuid[];
  v_agents uuid[];
begin
  with touched as (
    select s.user_id, s.agent_id
    from unnest(p_users, p_steps) r(user_id, id)
    join steps s on s.user_id = r.user_id and s.id = r.id
    where s.agent_id is not null
    union
    select f.user_id, f.agent_id from unnest(p_agent_users, p_agents) f(user_id, agent_id)),
  locked as (
    select a.user_id, a.id from user_agents a
    join touched t on t.user_id = a.user_id and t.agent_id = a.id
    order by a.user_id, a.id for no key update of a)
  select array_agg(l.user_id), array_agg(l.id) into v_users, v_agents from locked l;

  -- One set with windows instead of joins between sets: those have no index, and with 300 steps at once they cost more than
  -- everything else. Rows of an agent come first in its partition and carry its room.
  with fresh as (
    select s.user_id, s.id, s.agent_id, p.paused_at is not null as paused,
           p_now + case when s.attempt > 0 and s.woken_by is null then greatest(s.started_at - p_now, interval '-1 minute')
                        when s.attempt > 0 then interval '1 second'
                        else (array['0 seconds', '1 second', '5 seconds', '60 seconds']::interval[])[p.class + 1] end
                 + (f.claimable_steps + row_number() over (partition by s.user_id order by r.n) - 1)
                   * case when p.class = 0 then interval '0.1 seconds' else interval '1 second' end as rank
    from unnest(p_users, p_steps) with ordinality r(user_id, id, n)
    join steps s on s.user_id = r.user_id and s.id = r.id
    join plans p on p.user_id = s.user_id and p.id = s.plan_id
    join user_feeds f on f.user_id = s.user_id),
  agents as (
    select a.user_id, a.id, a.running_steps as before, a.running_steps - t.freed as kept, a.max_concurrency
    from (
      select g.user_id, g.id, sum(g.freed)::integer as freed
      from (select l.user_id, l.id, 0 as freed from unnest(v_users, v_agents) l(user_id, id)
            union all
            select f.user_id, f.id, f.n from unnest(p_agent_users, p_agents, p_freed) f(user_id, id, n)
            where f.id is not null) g
      group by 1, 2) t
    join user_agents a on a.user_id = t.user_id and a.id = t.id),
  waiting as (
    select w.user_id, w.step_id as id, w.agent_id, w.rank
    from agents a
    cross join lateral (
      select r.user_id, r.step_id, r.agent_id, r.rank from ready_steps r
      where r.user_id = a.user_id and r.agent_id = a.id and not r.placed and r.due_at is null and not r.paused
      order by r.rank, r.step_id
      limit greatest(a.max_concurrency - a.kept, 0)
      -- A cancel may hold some: it takes the ready rows before the agents, so nobody may wait for those.
      for update skip locked) w),
  candidates as (
    select f.user_id, f.agent_id, f.id, f.rank, 'fresh' as kind, 0 as before, 0 as kept, 0 as room, 0 as max_concurrency
    from fresh f where not f.paused
    union all
    select w.user_id, w.agent_id, w.id, w.rank, 'waiting', 0, 0, 0, 0 from waiting w
    union all
    select a.user_id, a.id, null, null, 'agent', a.before, a.kept, greatest(a.max_concurrency - a.kept, 0), a.max_concurrency from agents a),
  ranked as (
    select c.*, max(c.room) over w as agent_room, count(c.id) over w as wanting,
           row_number() over (partition by c.user_id, c.agent_id order by c.rank nulls first, c.id) - 1 as place
    from candidates c window w as (partition by c.user_id, c.agent_id)),
  inserted as (
    insert into ready_steps (user_id, step_id, agent_id, rank, placed, paused, since)
    select r.user_id, r.id, r.agent_id, r.rank, r.agent_id is null or r.place <= r.agent_room, false, p_now
    from ranked r where r.kind = 'fresh'
    union all
    select f.user_id, f.id, f.agent_id, f.rank, false, true, p_now from fresh f where f.paused
    returning user_id, placed),
  promoted as (
    update ready_steps k set placed = true
    from ranked r where r.kind = 'waiting' and r.place <= r.agent_room and k.user_id = r.user_id and k.step_id = r.id
    returning k.user_id),
  counted as (
    update user_agents u
    set running_steps = r.kept + least(r.wanting, r.room),
        places = greatest(r.max_concurrency, r.kept + least(r.wanting, r.room))
    from ranked r
    where r.kind = 'agent' and u.user_id = r.user_id and u.id = r.agent_id
      and (r.before <> r.kept + least(r.wanting, r.room)
           or u.places <> greatest(r.max_concurrency, r.kept + least(r.wanting, r.room)))
    returning u.user_id, u.id, r.before, u.running_steps as now),
  feed as (
    select c.user_id, count(*)::integer as n
    from (select i.user_id from inserted i where i.placed union all select p.user_id from promoted p) c
    group by 1)
  select (select array_agg(f.user_id) from feed f), (select array_agg(f.n) from feed f),
         (select array_agg((c.user_id, null, null, null, 'agent_status_changed', jsonb_build_object(
              'agent_id', c.id, 'status', case when c.now > 0 then 'busy' else 'ready' end))::pg_temp.draft)
          from counted c where (c.now > 0) <> (c.before > 0))
  into feed_users, feed_deltas, drafts;
end $$;
