-- waits_warn: tells people of questions whose deadline is less than a minute away, once each; not of those that had less than
-- two minutes from the beginning. Returns who was told.
create function pg_temp.waits_warn(p_limit integer, p_clock timestamptz) returns setof uuid language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_drafts pg_temp.draft[];
begin
  with near as (
    select w.ctid from waits w
    where w.decision is null and w.deadline > v_now and w.deadline <= v_now + interval '1 minute'
      and w.warned_at is null and w.kind in ('approval', 'input') and w.deadline - w.created_at >= interval '2 minutes'
    order by w.deadline limit p_limit for update skip locked),
  warned as (
    update waits w set warned_at = v_now where w.ctid = any (array(select n.ctid from near n))
    returning w.user_id, w.id, w.session_id, w.plan_id, w.step_id, w.payload, w.deadline)
  select array_agg((w.user_id, w.session_id, w.plan_id, w.step_id, 'approval_expiring', jsonb_build_object(
           'key', s.key, 'approval_id', w.id, 'type', w.payload -> 'type', 'deadline', w.deadline))::pg_temp.draft)
  into v_drafts
  from warned w join steps s on s.user_id = w.user_id and s.id = w.step_id;
  if v_drafts is null then return; end if;
  perform pg_temp.events_append(v_drafts, '{}', '{}');
  return query select distinct d.user_id from unnest(v_drafts) d;
end $$;
