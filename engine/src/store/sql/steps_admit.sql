-- steps_admit: puts newly ready steps into ready_steps, gives freed places back and grants what is free.
-- Locks the agents concerned in order; only steps with a place stand in the claim's index, so that a
-- full agent with 20,000 ready steps costs the claim nothing.
-- A step's rank is when it became ready, plus its class's handicap, plus a second for each claimable step its
-- user already had (a tenth for interactive work): a user with 10,000 ready steps does not delay another's
-- first, and whoever has waited longest comes up by itself. The counter is read without a lock: a few
-- steps off does no harm here. Agents to look at come with the number of places given back (0: only look).
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

  with fresh as (
    select s.user_id, s.id, s.agent_id,
           p_now + case when s.attempt > 0 then interval '1 second'
                        else (array['0 seconds', '1 second', '5 seconds', '60 seconds']::interval[])[p.class + 1] end
                 + (f.claimable_steps + row_number() over (partition by s.user_id order by r.n) - 1)
                   * case when p.class = 0 then interval '0.1 seconds' else interval '1 second' end as rank
    from unnest(p_users, p_steps) with ordinality r(user_id, id, n)
    join steps s on s.user_id = r.user_id and s.id = r.id
    join plans p on p.user_id = s.user_id and p.id = s.plan_id
    join user_feeds f on f.user_id = s.user_id),
  freed as (
    select f.user_id, f.id, sum(f.n)::integer as n
    from unnest(p_agent_users, p_agents, p_freed) f(user_id, id, n) group by 1, 2),
  agents as (
    select a.user_id, a.id, a.running_steps as before, a.max_concurrency, a.places,
           a.running_steps - coalesce(f.n, 0) as kept
    from unnest(v_users, v_agents) t(user_id, id)
    join user_agents a on a.user_id = t.user_id and a.id = t.id
    left join freed f on f.user_id = a.user_id and f.id = a.id),
  waiting as (
    select w.user_id, w.step_id as id, w.agent_id, w.rank
    from agents a
    cross join lateral (
      select r.* from ready_steps r
      where r.user_id = a.user_id and r.agent_id = a.id and not r.placed and r.due_at is null
      order by r.rank, r.step_id
      limit greatest(a.max_concurrency - a.kept, 0)
      -- A cancel may hold some: it takes the ready rows before the agents, so nobody may wait for those.
      for update skip locked) w),
  ranked as (
    select c.*, row_number() over (partition by c.user_id, c.agent_id order by c.rank, c.id) as place
    from (select f.*, true as is_fresh from fresh f where f.agent_id is not null
          union all
          select w.*, false from waiting w) c),
  granted as (
    select r.user_id, r.id, r.agent_id, r.is_fresh
    from ranked r join agents a on a.user_id = r.user_id and a.id = r.agent_id
    where r.place <= a.max_concurrency - a.kept),
  inserted as (
    insert into ready_steps (user_id, step_id, agent_id, rank, placed)
    select f.user_id, f.id, f.agent_id, f.rank, f.agent_id is null or g.id is not null
    from fresh f left join granted g on g.user_id = f.user_id and g.id = f.id
    returning user_id, placed),
  promoted as (
    update ready_steps r set placed = true
    from granted g where not g.is_fresh and r.user_id = g.user_id and r.step_id = g.id
    returning r.user_id),
  counts as (select g.user_id, g.agent_id as id, count(*)::integer as n from granted g group by 1, 2),
  after as (
    select a.user_id, a.id, a.before, a.kept + coalesce(c.n, 0) as now, a.max_concurrency, a.places
    from agents a left join counts c on c.user_id = a.user_id and c.id = a.id),
  counted as (
    update user_agents u
    set running_steps = a.now, places = greatest(a.max_concurrency, a.now)
    from after a
    where u.user_id = a.user_id and u.id = a.id
      and (u.running_steps <> a.now or u.places <> greatest(a.max_concurrency, a.now))
    returning u.user_id, u.id, a.before, a.now),
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
