-- plan_accept: a plan comes into being, from a message or from the person's own graph: message, plan, steps,
-- edges, admission and events in one statement. Verdicts: accepted | queued | no_session | session_full | agent_full.
-- Messages of one session run one after another: the session's row says whose turn it is, and a later plan's first
-- steps wait for it. p_message null: an explicit plan, which runs beside them.
create function pg_temp.plan_accept(
  p_user uuid, p_plan uuid, p_session uuid, p_message uuid, p_mode plan_mode, p_goal text, p_class smallint,
  p_target uuid, p_steps jsonb, p_on_failure failure_policy, p_timeout interval, p_queue_limit integer, p_agent_limit integer,
  p_clock timestamptz)
returns table (verdict text, cursor bigint) language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_active uuid;
  v_queued boolean := false;
  v_ready uuid[];
  v_admitted record;
  v_drafts pg_temp.draft[] := '{}';
begin
  cursor := 0;
  if p_session is not null then
    select s.active_plan_id into v_active from chat_sessions s
      where s.user_id = p_user and s.id = p_session and s.deleted_at is null for no key update;
    if not found then verdict := 'no_session'; return next; return; end if;
  end if;
  if p_message is not null then
    if p_target is not null and p_agent_limit <= (
      select count(*) from (select 1 from ready_steps r where r.user_id = p_user and r.agent_id = p_target
                            and not r.placed and r.due_at is null and not r.paused limit p_agent_limit) full_line) then
      verdict := 'agent_full'; return next; return;
    end if;
    if v_active is null then
      update chat_sessions s set active_plan_id = p_plan where s.user_id = p_user and s.id = p_session;
    else
      v_queued := true;
      if p_queue_limit <= (select count(*) from plans p where p.user_id = p_user and p.session_id = p_session and p.queued) then
        verdict := 'session_full'; return next; return;
      end if;
    end if;
  end if;

  insert into plans (user_id, id, session_id, message_id, mode, goal, class, queued, open_steps, on_failure, deadline,
                     created_at, updated_at)
  values (p_user, p_plan, p_session, p_message, p_mode, p_goal, p_class, v_queued, jsonb_array_length(p_steps), p_on_failure,
          v_now + p_timeout, v_now, v_now);
  if p_message is not null then
    insert into messages (user_id, id, session_id, role, content, plan_id, agent_id, created_at)
    values (p_user, p_message, p_session, 'user', p_goal, p_plan, p_target, v_now);
    v_drafts := v_drafts || (p_user, p_session, p_plan, null, 'message_created', jsonb_build_object(
      'message_id', p_message, 'role', 'user') || case when octet_length(p_goal) <= 8192
        then jsonb_build_object('content', p_goal) else jsonb_build_object('content_link', '/my/chat/' || p_session || '/messages/') end)::pg_temp.draft;
  end if;
  v_ready := pg_temp.steps_insert(p_user, p_plan, p_session, null, 0::smallint, 0, v_queued::integer, p_steps, v_now);
  v_drafts := v_drafts || (p_user, p_session, p_plan, null,
    case p_mode when 'direct' then 'direct_agent_call' when 'explicit' then 'task_plan_created' else 'task_progress' end,
    case p_mode when 'direct' then jsonb_build_object('plan_id', p_plan, 'agent_id', p_target, 'queued', v_queued)
      when 'explicit' then jsonb_build_object('plan_id', p_plan, 'steps', jsonb_array_length(p_steps), 'source', 'person')
      else jsonb_build_object('plan_id', p_plan, 'phase', 'planning', 'queued', v_queued) end)::pg_temp.draft;
  select * into v_admitted from pg_temp.steps_admit(
    array_fill(p_user, array[cardinality(v_ready)]), v_ready, '{}', '{}', '{}', v_now);
  perform pg_temp.events_append(v_drafts || v_admitted.drafts, v_admitted.feed_users, v_admitted.feed_deltas);
  -- The cursor just before this plan's events: whoever reads after it misses nothing.
  select f.last_seq - cardinality(v_drafts || v_admitted.drafts) into cursor from user_feeds f where f.user_id = p_user;
  verdict := case when v_queued then 'queued' else 'accepted' end;
  return next;
end $$;
