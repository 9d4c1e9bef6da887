-- card: what a decision card is made of. choices: the answers that it takes.
create function pg_temp.choices() returns jsonb language sql immutable as
  $$ select '["retry", "edit", "agent", "skip", "accept_partial", "stop"]'::jsonb $$;

-- trouble: why a step has failed for good, by its last outcome.
create function pg_temp.trouble(p_outcome text, p_body jsonb, p_overran boolean, p_failures integer) returns jsonb language sql immutable as $$
  select case
    when p_outcome <> 'lost' and p_body -> 'error' is not null then p_body -> 'error'
    when p_overran then jsonb_build_object('class', 'transient', 'code', 'step_timeout', 'message', 'the step ran longer than it may')
    else jsonb_build_object('class', 'bug', 'code', 'poison',
      'message', 'the step has failed ' || p_failures || ' times, the last time because its worker was lost; see the worker''s log') end $$;

-- resolved: what an event says of the end of a wait.
create function pg_temp.resolved(p_key text, p_wait uuid, p_kind wait_kind, p_decision wait_decision, p_type jsonb, p_choice jsonb)
returns jsonb language sql stable as $$
  select jsonb_build_object('key', p_key, 'wait_id', p_wait, 'wait_kind', p_kind, 'decision', p_decision)
    || case when p_kind in ('approval', 'input') then jsonb_build_object('approval_id', p_wait, 'type', p_type, 'choice', p_choice)
       else '{}'::jsonb end $$;

-- shown: what an event says of a wait; a long payload by link.
create function pg_temp.shown(p_payload jsonb, p_plan uuid) returns jsonb language sql immutable as $$
  select case when octet_length(p_payload::text) <= 8192 then p_payload
    else jsonb_build_object('type', p_payload -> 'type', 'details_link', '/my/approvals/') end $$;
