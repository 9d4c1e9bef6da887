-- plan_edit: puts another draft in the place of the one that the person is asked about; what is approved later is this one.
-- The caller has checked it. Verdicts: edited | gone | frozen (nothing is asked: it was approved, declined, or never asked for).
create function pg_temp.plan_edit(p_user uuid, p_plan uuid, p_steps jsonb, p_estimate jsonb, p_digest text, p_clock timestamptz)
returns table (verdict text, wait_id uuid) language plpgsql as $$
declare
  v_now timestamptz;
  v_session uuid;
  v_revision integer;
  v_wait record;
begin
  select p.session_id into v_session from plans p where p.user_id = p_user and p.id = p_plan for no key update;
  if not found then verdict := 'gone'; return next; return; end if;
  -- The clock is read under the lock: whoever held it may have told somebody that a deadline has passed.
  v_now := coalesce(p_clock, clock_timestamp());
  update waits w set payload = w.payload || jsonb_build_object('steps', p_steps, 'estimate', p_estimate, 'digest', p_digest)
    from steps s
    where s.user_id = p_user and s.plan_id = p_plan and s.state = 'suspended' and w.step_id = s.id and w.user_id = s.user_id
      and w.decision is null and w.payload ->> 'type' = 'plan' and (w.deadline is null or w.deadline > v_now)
    returning w.id, w.step_id, w.payload, w.deadline, s.key into v_wait;
  if not found then verdict := 'frozen'; return next; return; end if;
  update plans p set revision = p.revision + 1, updated_at = v_now where p.user_id = p_user and p.id = p_plan
    returning p.revision into v_revision;
  perform pg_temp.events_append(array[(p_user, v_session, p_plan, v_wait.step_id, 'plan_request', jsonb_build_object(
    'key', v_wait.key, 'approval_id', v_wait.id, 'deadline', v_wait.deadline, 'revision', v_revision)
    || pg_temp.shown(v_wait.payload, p_plan))::pg_temp.draft], '{}', '{}');
  verdict := 'edited'; wait_id := v_wait.id;
  return next;
end $$;
