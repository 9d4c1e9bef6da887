-- step_progress: an event from a step that still holds its lease; a zombie's word is refused.
create function pg_temp.step_progress(p_user uuid, p_step uuid, p_token bigint, p_payload jsonb) returns boolean language plpgsql as $$
declare
  v_step record;
begin
  select s.session_id, s.plan_id, s.key into v_step
  from leases l join steps s on s.user_id = l.user_id and s.id = l.step_id
  where l.user_id = p_user and l.step_id = p_step and l.token = p_token
  for key share of l;
  if not found then return false; end if;
  perform pg_temp.events_append(array[(p_user, v_step.session_id, v_step.plan_id, p_step, 'task_progress',
    jsonb_build_object('key', v_step.key) || p_payload)::pg_temp.draft], '{}', '{}');
  return true;
end $$;
