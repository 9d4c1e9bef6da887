-- steps_tell: tells people of steps that have been ready for more than five seconds and that nothing runs, once each.
-- Rows with a place are few (an agent has ten at most), those without are looked at agent by agent along their index.
-- Returns who was told.
create function pg_temp.steps_tell(p_limit integer, p_clock timestamptz) returns setof uuid language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_online boolean;
  v_drafts pg_temp.draft[];
begin
  select exists (select 1 from workers w where w.seen_at > v_now - interval '15 seconds') into v_online;
  with recursive hop as (
    (select r.user_id, r.agent_id from ready_steps r where not r.placed and r.due_at is null and not r.paused
     order by r.user_id, r.agent_id limit 1)
    union all
    select n.user_id, n.agent_id from hop h cross join lateral (
      select r.user_id, r.agent_id from ready_steps r
      where not r.placed and r.due_at is null and not r.paused and (r.user_id, r.agent_id) > (h.user_id, h.agent_id)
      order by r.user_id, r.agent_id limit 1) n),
  late as (
    (select r.user_id, r.step_id from ready_steps r
     where r.placed and not r.told and r.since < v_now - interval '5 seconds' order by r.rank, r.step_id limit p_limit)
    union all
    (select w.user_id, w.step_id from hop h cross join lateral (
      select r.user_id, r.step_id from ready_steps r
      where r.user_id = h.user_id and r.agent_id = h.agent_id and not r.placed and r.due_at is null and not r.paused
        and not r.told and r.since < v_now - interval '5 seconds'
      order by r.rank, r.step_id limit 20) w
     limit p_limit)),
  told as (
    update ready_steps k set told = true
    where k.ctid = any (array(
      select r.ctid from late l join ready_steps r on r.step_id = l.step_id and r.user_id = l.user_id for update of r skip locked))
    returning k.user_id, k.step_id, k.placed, k.since)
  select array_agg((s.user_id, s.session_id, s.plan_id, s.id, 'task_waiting', jsonb_build_object('key', s.key,
           'reason', case when not t.placed then 'agent_full' when not v_online then 'no_worker_online' else 'queued' end,
           'waited_ms', (extract(epoch from v_now - t.since) * 1000)::bigint))::pg_temp.draft)
  into v_drafts
  from told t join steps s on s.user_id = t.user_id and s.id = t.step_id;
  if v_drafts is null then return; end if;
  perform pg_temp.events_append(v_drafts, '{}', '{}');
  return query select distinct d.user_id from unnest(v_drafts) d;
end $$;
