-- wait_reopen: takes a question up again that got a no, or no answer in time: a new wait, linked to the old one, and its step
-- suspended on it again; what was skipped because of it comes back. Three times at most, ten seconds apart, and only
-- while the step has ended, its plan was not cancelled, and tool and agent are what they were.
-- The journal goes on in a new round with what came before the call in question.
-- Verdicts: reopened | gone | open | decided (otherwise) | again (it was reopened before) | too_often | too_soon | busy | child
-- | cancelled | changed (difference says what).
create function pg_temp.wait_reopen(p_user uuid, p_wait uuid, p_new uuid, p_deadline interval, p_clock timestamptz)
returns table (verdict text, difference jsonb) language plpgsql as $$
declare
  v_now timestamptz;
  v_wait waits;
  v_plan plans;
  v_step steps;
  v_ordinal integer;
  v_tool integer;
  v_agent integer;
  v_drafts pg_temp.draft[];
begin
  select * into v_wait from waits w where w.user_id = p_user and w.id = p_wait and w.kind in ('approval', 'input');
  if not found then verdict := 'gone'; return next; return; end if;
  select * into v_plan from plans p where p.user_id = p_user and p.id = v_wait.plan_id for no key update;
  v_now := coalesce(p_clock, clock_timestamp());
  select * into v_wait from waits w where w.user_id = p_user and w.id = p_wait;
  select * into v_step from steps s where s.user_id = p_user and s.id = v_wait.step_id;
  v_ordinal := (v_wait.payload ->> 'ordinal')::integer;
  verdict := case
    when v_wait.decision is null then 'open'
    when v_wait.decision not in ('timed_out', 'rejected') then 'decided'
    when v_plan.cancel_requested_at is not null then 'cancelled'
    when exists (select 1 from waits n where n.reopened_from = p_wait and n.user_id = p_user) then 'again'
    when v_wait.reopenings >= 3 then 'too_often'
    when v_wait.decided_at > v_now - interval '10 seconds' then 'too_soon'
    when v_step.parent_id is not null then 'child'
    when v_step.state not in ('failed', 'succeeded', 'skipped') then 'busy'
    when not pg_temp.as_asked(p_user, v_step.id, v_wait.payload) then 'changed'
    else 'reopened' end;
  if verdict = 'changed' then
    select t.version into v_tool from tools t where t.user_id = p_user and t.name = v_wait.payload ->> 'tool' and t.deleted_at is null;
    select a.version into v_agent from user_agents a where a.user_id = p_user and a.id = v_step.agent_id and a.deleted_at is null;
    difference := jsonb_build_object(
      'tool_version', jsonb_build_object('then', v_wait.payload -> 'tool_version', 'now', v_tool),
      'agent_version', jsonb_build_object('then', v_wait.payload -> 'agent_version', 'now', v_agent));
  end if;
  if verdict <> 'reopened' then return next; return; end if;
  if v_ordinal is not null then
    insert into effects (user_id, step_id, round, ordinal, kind, effect, state, token, request, result, created_at, done_at)
    select e.user_id, e.step_id, v_step.round + 1, e.ordinal, e.kind, e.effect, e.state, e.token, e.request, e.result, e.created_at, e.done_at
    from effects e
    where e.user_id = p_user and e.step_id = v_step.id and e.round = v_step.round and e.ordinal < v_ordinal and e.state = 'done';
  end if;
  update steps s
    set state = 'suspended', error = null, result = null, finished_at = null, waived = false, failures = 0, failing_since = null,
        ran_ms = 0, woken_by = null, round = s.round + (v_ordinal is not null)::integer
    where s.user_id = p_user and s.id = v_step.id;
  insert into waits (user_id, id, step_id, plan_id, session_id, kind, payload, deadline, reopened_from, reopenings, created_at)
  values (p_user, p_new, v_step.id, v_plan.id, v_plan.session_id, v_wait.kind, v_wait.payload, v_now + p_deadline, p_wait,
          v_wait.reopenings + 1, v_now);
  v_drafts := pg_temp.steps_revive(p_user, v_plan.id, v_plan.session_id, v_step.id, v_step.key, v_now);
  v_drafts := v_drafts || (p_user, v_plan.session_id, v_plan.id, v_step.id, 'approval_required', jsonb_build_object(
    'key', v_step.key, 'wait_id', p_new, 'approval_id', p_new, 'wait_kind', v_wait.kind, 'deadline', v_now + p_deadline,
    'reopened_from', p_wait) || pg_temp.shown(v_wait.payload, v_plan.id))::pg_temp.draft;
  perform pg_temp.events_append(v_drafts, '{}', '{}');
  return next;
end $$;
