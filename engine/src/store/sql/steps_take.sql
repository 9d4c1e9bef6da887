-- steps_take: claims up to p_limit steps that have a place, best rank first, for one worker.
-- Deleting the ready row is the claim: skip locked, hence never waits; no other transition moves a ready step
-- without that row. Token and attempt grow, a lease is written. A run lasts at most as long as its step may still run.
create function pg_temp.steps_take(
  p_worker uuid, p_limit integer, p_limits pg_temp.limits, p_clock timestamptz,
  out claims pg_temp.claimed[], out feed_users uuid[], out feed_deltas integer[], out drafts pg_temp.draft[])
language plpgsql as $$
declare
  v_users uuid[];
  v_ids uuid[];
  v_now timestamptz;
begin
  with taken as (
    delete from ready_steps where ctid = any (array(
      select r.ctid from ready_steps r where r.placed order by r.rank, r.step_id limit p_limit for update skip locked))
    returning user_id, step_id)
  select array_agg(t.user_id), array_agg(t.step_id) into v_users, v_ids from taken t;
  if v_users is null then return; end if;
  -- Only now: whatever made these steps ready was committed before, so no run starts before what it needs has ended.
  v_now := coalesce(p_clock, clock_timestamp());
  with started as (
    update steps s
    set state = 'running', token = s.token + 1, attempt = s.attempt + 1, started_at = coalesce(s.started_at, v_now),
        agent_version = coalesce(s.agent_version,
          (select a.version from user_agents a where a.user_id = s.user_id and a.id = s.agent_id))
    from unnest(v_users, v_ids) with ordinality t(user_id, id, n)
    where s.user_id = t.user_id and s.id = t.id and s.state = 'ready'
    returning t.n, s.user_id, s.id, s.session_id, s.plan_id, s.key, s.kind, s.agent_id, s.spec, s.attempt, s.token,
              s.round, s.depth, s.woken_by, s.failures, s.failing_since,
              greatest(interval '1 second', least(p_limits.run,
                coalesce(s.timeout_ms * interval '1 millisecond', p_limits.step) - s.ran_ms * interval '1 millisecond')) as run),
  leased as (
    insert into leases (user_id, step_id, token, worker_id, claimed_at, run_until, expires_at)
    select s.user_id, s.id, s.token, p_worker, v_now, v_now + s.run, v_now + least(p_limits.lease, s.run) from started s),
  counts as (select s.user_id, -count(*)::integer as n from started s group by 1)
  select (select array_agg(c.user_id) from counts c), (select array_agg(c.n) from counts c),
         array_agg(('claimed', s.user_id, s.id, s.plan_id, s.session_id, s.agent_id, s.key, s.kind, s.spec, s.token,
                    s.attempt, p.cancel_requested_at is not null or coalesce(s.id = any (p.cancelling_steps), false), s.round, s.depth,
                    case when s.woken_by is not null then (
                      select jsonb_build_object('id', w.id, 'kind', w.kind, 'payload', w.payload, 'decision', w.decision, 'answer', w.answer)
                      from waits w where w.user_id = s.user_id and w.id = s.woken_by) end,
                    s.failures, (extract(epoch from v_now - s.failing_since) * 1000)::bigint)::pg_temp.claimed order by s.n),
         array_agg((s.user_id, s.session_id, s.plan_id, s.id, 'task_started', jsonb_build_object(
           'key', s.key, 'kind', s.kind, 'agent_id', s.agent_id, 'attempt', s.attempt))::pg_temp.draft order by s.n)
  into feed_users, feed_deltas, claims, drafts
  from started s join plans p on p.user_id = s.user_id and p.id = s.plan_id;
end $$;
