-- events_append: numbers drafts per user without gaps and stores them, and moves the claimable counters.
-- Called last in every transition: it takes the feed rows, in the order of users (the update's rows come sorted, by a
-- nested loop: the connection knows no other join), and nothing after them.
create function pg_temp.events_append(p_drafts pg_temp.draft[], p_users uuid[], p_deltas integer[])
returns void language plpgsql as $$
begin
  update user_feeds f set last_seq = f.last_seq + c.n,
    last_at = case when c.n > 0 then greatest(f.last_at, clock_timestamp()) else f.last_at end, claimable_steps = f.claimable_steps + c.delta
  from (
    select a.user_id, sum(a.n)::integer as n, sum(a.delta)::integer as delta
    from (select d.user_id, 1 as n, 0 as delta from unnest(p_drafts) d
          union all
          select t.user_id, 0, t.delta from unnest(p_users, p_deltas) t(user_id, delta)) a
    group by a.user_id order by a.user_id) c
  where f.user_id = c.user_id;
  insert into events (user_id, seq, session_id, plan_id, step_id, type, payload, created_at)
  select d.user_id,
         f.last_seq - count(*) over (partition by d.user_id) + row_number() over (partition by d.user_id order by d.n),
         d.session_id, d.plan_id, d.step_id, d.type, d.payload, f.last_at
  from unnest(p_drafts) with ordinality d(user_id, session_id, plan_id, step_id, type, payload, n)
  join user_feeds f on f.user_id = d.user_id;
end $$;
