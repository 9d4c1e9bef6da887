-- step_finish: commits the outcomes of a batch of running steps and claims the next in the same round trip.
-- Fence: only who deletes the step's lease with its token has finished it; 'lost' (the reaper) also needs
-- the lease to have expired. Given steps without a lease come back with the verdict 'fenced'.
-- Locks, in this order, everywhere: plans by id; sessions by id, then their next plans; agents by id; feeds by
-- user. Ready rows and leases may be taken anywhere, because nobody waits for them (skip locked). Plans come first because every way out of running, blocked and
-- suspended goes through the plan: its steps need no order of their own.
-- Each lock is followed by a new statement, whose snapshot sees what the former holder committed.
-- Outcomes and their bodies: succeed {result, reply?} | expand {result, steps, reply?} | retry {after_ms, error, reply?}
-- | yield {} | suspend {id, kind, payload, deadline_ms?} | fail {error, reply?} | lost {}.
create function pg_temp.step_finish(
  p_users uuid[], p_plans uuid[], p_steps uuid[], p_tokens bigint[], p_outcomes text[], p_bodies jsonb[],
  p_worker uuid, p_limit integer, p_lease interval, p_clock timestamptz)
returns setof pg_temp.claimed language plpgsql as $$
declare
  v_now timestamptz;
  v_moved pg_temp.moved[] := '{}';
  v_drafts pg_temp.draft[] := '{}';
  v_settled_users uuid[];
  v_settled uuid[];
  v_plan_users uuid[];
  v_plans uuid[];
  v_ended integer[];
  v_succeeded integer[];
  v_unsuccessful integer[];
  v_added integer[];
  v_ready_users uuid[];
  v_ready uuid[];
  v_freed_users uuid[];
  v_freed_agents uuid[];
  v_replies boolean;
  v_expanded record;
  v_steps uuid[];
  v_skips integer;
  v_feed_users uuid[] := '{}';
  v_feed_deltas integer[] := '{}';
  v_hear record;
  v_counted record;
  v_admitted record;
  v_taken record;
begin
  if cardinality(p_steps) > 0 then
    perform 1 from plans p
      where (p.user_id, p.id) in (select g.user_id, g.id from unnest(p_users, p_plans) g(user_id, id))
      order by p.user_id, p.id for no key update;
    v_now := coalesce(p_clock, clock_timestamp());

    -- Everything that the common path needs comes out of this one statement as arrays.
    with given as (
      select * from unnest(p_users, p_steps, p_tokens, p_outcomes, p_bodies) with ordinality
        g(user_id, id, token, outcome, body, n)),
    released as (
      delete from leases l using given g
      where l.user_id = g.user_id and l.step_id = g.id and l.token = g.token
        and (g.outcome <> 'lost' or l.expires_at <= v_now)
      returning l.user_id, l.step_id, g.n, g.outcome, g.body),
    decided as (
      select g.n, g.outcome, g.body, s.user_id, s.id,
             case
               when p.cancel_requested_at is not null then 'cancelled'
               when g.outcome in ('succeed', 'expand') then 'succeeded'
               when g.outcome = 'fail' then 'failed'
               when g.outcome = 'suspend' then 'suspended'
               when g.outcome in ('retry', 'lost') and s.failures + 1 >= s.max_failures then 'failed'
               else 'ready' end::step_state as next
      from released g
      join steps s on s.user_id = g.user_id and s.id = g.step_id
      join plans p on p.user_id = s.user_id and p.id = s.plan_id),
    moved as (
      update steps s
      set state = d.next,
          failures = s.failures + case when d.outcome in ('retry', 'lost', 'fail') then 1 else 0 end,
          result = case when d.next = 'succeeded' then coalesce(d.body -> 'result', 'null') end,
          error = case when d.next = 'failed' then coalesce(d.body -> 'error', jsonb_build_object(
            'class', 'bug', 'code', 'poison',
            'message', 'the worker running this step was lost ' || (s.failures + 1) || ' times; see the worker''s log')) end,
          finished_at = case when d.next in ('succeeded', 'failed', 'cancelled') then v_now end
      from decided d
      where s.user_id = d.user_id and s.id = d.id and s.state = 'running'
      returning d.n, s.user_id, s.plan_id, s.session_id, s.id, s.agent_id, s.key, s.kind, s.state, s.attempt, d.outcome, d.body,
                s.error)
    select coalesce(array_agg((m.n, m.user_id, m.plan_id, m.session_id, m.id, m.agent_id, m.key, m.kind, m.state,
                               m.attempt, m.outcome)::pg_temp.moved order by m.n), '{}'),
      coalesce(array_agg((m.user_id, m.session_id, m.plan_id, m.id,
        case m.state
          when 'succeeded' then 'task_completed' when 'failed' then 'task_failed' when 'cancelled' then 'task_cancelled'
          when 'suspended' then case when m.body ->> 'kind' = 'approval' then 'approval_required' else 'task_waiting' end
          else 'task_progress' end,
        jsonb_build_object('key', m.key, 'kind', m.kind, 'agent_id', m.agent_id, 'attempt', m.attempt) ||
        case m.state
          when 'succeeded' then case when octet_length((m.body -> 'result')::text) <= 8192
            then jsonb_build_object('result', m.body -> 'result')
            else jsonb_build_object('result_link', '/my/plans/' || m.plan_id || '/steps/') end
          when 'failed' then jsonb_build_object('error', m.error)
          when 'cancelled' then '{}'::jsonb
          when 'suspended' then jsonb_build_object('wait_id', m.body -> 'id', 'wait_kind', m.body -> 'kind',
            'deadline', v_now + (m.body ->> 'deadline_ms')::bigint * interval '1 millisecond')
          else jsonb_build_object('reason', case m.outcome when 'lost' then 'worker_lost' else m.outcome end,
            'error', m.body -> 'error', 'retry_after_ms', m.body -> 'after_ms') end)::pg_temp.draft order by m.n), '{}'),
      array_agg(m.user_id) filter (where m.state in ('succeeded', 'failed')),
      array_agg(m.id) filter (where m.state in ('succeeded', 'failed')),
      coalesce(array_agg(m.user_id) filter (where m.state in ('succeeded', 'failed', 'cancelled')), '{}'),
      array_agg(m.plan_id) filter (where m.state in ('succeeded', 'failed', 'cancelled')),
      array_agg(1) filter (where m.state in ('succeeded', 'failed', 'cancelled')),
      array_agg((m.state = 'succeeded' and m.kind not in ('planning', 'summary'))::integer)
        filter (where m.state in ('succeeded', 'failed', 'cancelled')),
      array_agg((m.state = 'failed')::integer) filter (where m.state in ('succeeded', 'failed', 'cancelled')),
      array_agg(0) filter (where m.state in ('succeeded', 'failed', 'cancelled')),
      array_agg(m.user_id order by m.n) filter (where m.state = 'ready' and coalesce((m.body ->> 'after_ms')::bigint, 0) <= 0),
      array_agg(m.id order by m.n) filter (where m.state = 'ready' and coalesce((m.body ->> 'after_ms')::bigint, 0) <= 0),
      array_agg(m.user_id) filter (where m.agent_id is not null),
      array_agg(m.agent_id) filter (where m.agent_id is not null),
      coalesce(bool_or(m.body ? 'reply'), false)
    into v_moved, v_drafts, v_settled_users, v_settled, v_plan_users, v_plans, v_ended, v_succeeded, v_unsuccessful, v_added,
         v_ready_users, v_ready, v_freed_users, v_freed_agents, v_replies
    from moved m;

    if cardinality(v_moved) < cardinality(p_steps) then
      return query
        select 'fenced', g.user_id, g.id, null::uuid, null::uuid, null::uuid, null::integer, null, null, null::jsonb, g.token,
               null::smallint, null::boolean
        from unnest(p_users, p_steps, p_tokens) with ordinality g(user_id, id, token, n)
        where not exists (select 1 from unnest(v_moved) m where m.n = g.n);
    end if;
  end if;

  if cardinality(v_moved) > 0 then
    if 'suspend' = any (p_outcomes) then
      insert into waits (user_id, id, step_id, plan_id, session_id, kind, payload, deadline, created_at)
      select m.user_id, (p_bodies[m.n] ->> 'id')::uuid, m.id, m.plan_id, m.session_id, (p_bodies[m.n] ->> 'kind')::wait_kind,
             p_bodies[m.n] -> 'payload', v_now + (p_bodies[m.n] ->> 'deadline_ms')::bigint * interval '1 millisecond', v_now
      from unnest(v_moved) m where m.state = 'suspended';
    end if;

    -- A reply goes out when its step ended for good.
    if v_replies then
      with replied as (
        insert into messages (user_id, id, session_id, role, content, plan_id, agent_id, created_at)
        select m.user_id, (p_bodies[m.n] -> 'reply' ->> 'id')::uuid, m.session_id, 'assistant',
               p_bodies[m.n] -> 'reply' ->> 'content', m.plan_id, m.agent_id, v_now
        from unnest(v_moved) m
        where m.state in ('succeeded', 'failed') and m.session_id is not null and p_bodies[m.n] ? 'reply'
        returning user_id, id, session_id, plan_id, agent_id, content)
      select v_drafts || array_agg((r.user_id, r.session_id, r.plan_id, null, 'message_created', jsonb_build_object(
               'message_id', r.id, 'role', 'assistant', 'agent_id', r.agent_id) ||
               case when octet_length(r.content) <= 8192 then jsonb_build_object('content', r.content)
                    else jsonb_build_object('content_link', '/my/chat/' || r.session_id || '/messages/') end)::pg_temp.draft)
      into v_drafts from replied r;
    end if;

    if 'expand' = any (p_outcomes) then
      for v_expanded in
        select m.*, (select max(s.position) + 1 from steps s where s.user_id = m.user_id and s.plan_id = m.plan_id) as base
        from unnest(v_moved) m where m.outcome = 'expand' and m.state = 'succeeded' order by m.n
      loop
        v_steps := pg_temp.steps_insert(v_expanded.user_id, v_expanded.plan_id, v_expanded.session_id, v_expanded.base, 0,
                                        p_bodies[v_expanded.n] -> 'steps', v_now);
        v_ready := v_ready || v_steps;
        v_ready_users := v_ready_users || array_fill(v_expanded.user_id, array[cardinality(v_steps)]);
        v_plan_users := v_plan_users || v_expanded.user_id;
        v_plans := v_plans || v_expanded.plan_id;
        v_ended := v_ended || 0; v_succeeded := v_succeeded || 0; v_unsuccessful := v_unsuccessful || 0;
        v_added := v_added || jsonb_array_length(p_bodies[v_expanded.n] -> 'steps');
        v_drafts := v_drafts || (v_expanded.user_id, v_expanded.session_id, v_expanded.plan_id, null, 'task_plan_created',
          jsonb_build_object('plan_id', v_expanded.plan_id, 'steps', jsonb_array_length(p_bodies[v_expanded.n] -> 'steps'),
                             'source', p_bodies[v_expanded.n] -> 'result' -> 'source'))::pg_temp.draft;
      end loop;
    end if;

    if v_settled is not null then
      v_hear := pg_temp.steps_settle(v_settled_users, v_settled, v_now);
      v_ready_users := v_ready_users || v_hear.ready_users;
      v_ready := v_ready || v_hear.ready_steps;
      v_drafts := v_drafts || v_hear.drafts;
      v_skips := cardinality(v_hear.skipped_users);
      if v_skips > 0 then
        v_plan_users := v_plan_users || v_hear.skipped_users;
        v_plans := v_plans || v_hear.skipped_plans;
        v_ended := v_ended || array_fill(1, array[v_skips]);
        v_succeeded := v_succeeded || array_fill(0, array[v_skips]);
        v_unsuccessful := v_unsuccessful || array_fill(1, array[v_skips]);
        v_added := v_added || array_fill(0, array[v_skips]);
      end if;
    end if;

    if cardinality(v_plan_users) > 0 then
      v_counted := pg_temp.plans_count(v_plan_users, v_plans, v_ended, v_succeeded, v_unsuccessful, v_added, v_now);
      v_ready_users := v_ready_users || v_counted.ready_users;
      v_ready := v_ready || v_counted.ready_steps;
      v_drafts := v_drafts || v_counted.drafts;
    end if;

    -- A retry that is not due yet waits without a place.
    if 'retry' = any (p_outcomes) then
      insert into ready_steps (user_id, step_id, agent_id, rank, placed, due_at)
      select m.user_id, m.id, m.agent_id, v_now + (p_bodies[m.n] ->> 'after_ms')::bigint * interval '1 millisecond', false,
             v_now + (p_bodies[m.n] ->> 'after_ms')::bigint * interval '1 millisecond'
      from unnest(v_moved) m where m.state = 'ready' and (p_bodies[m.n] ->> 'after_ms')::bigint > 0;
    end if;

    v_admitted := pg_temp.steps_admit(v_ready_users, v_ready, v_freed_users, v_freed_agents,
                                      array_fill(1, array[coalesce(cardinality(v_freed_agents), 0)]), v_now);
    v_feed_users := v_feed_users || v_admitted.feed_users;
    v_feed_deltas := v_feed_deltas || v_admitted.feed_deltas;
    v_drafts := v_drafts || v_admitted.drafts;
  end if;

  -- Claims come last: what has just become ready competes with all that waited before it.
  if p_limit > 0 then
    v_taken := pg_temp.steps_take(p_worker, p_limit, p_lease, coalesce(p_clock, clock_timestamp()));
    v_feed_users := v_feed_users || v_taken.feed_users;
    v_feed_deltas := v_feed_deltas || v_taken.feed_deltas;
    v_drafts := v_drafts || v_taken.drafts;
  end if;
  if cardinality(v_drafts) > 0 or cardinality(v_feed_users) > 0 then
    perform pg_temp.events_append(v_drafts, v_feed_users, v_feed_deltas);
  end if;
  if p_limit > 0 then
    return query select * from unnest(v_taken.claims);
  end if;
end $$;
