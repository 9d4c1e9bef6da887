-- step_finish: commits the outcomes of a batch of running steps and claims the next in the same round trip.
-- Fence: only who deletes the step's lease with its token has finished it; 'lost' (the reaper) also needs
-- the lease to have expired. Given steps without a lease come back with the verdict 'fenced'.
-- Locks, in this order, everywhere: plans by id; sessions by id, then their next plans; agents by id; feeds by
-- user. Ready rows and leases may be taken anywhere, because nobody waits for them (skip locked; only plan_pause waits, and
-- whoever holds one never waits for a plan). Plans come first because every way out of running, blocked and
-- suspended goes through the plan: its steps need no order of their own.
-- Each lock is followed by a new statement, whose snapshot sees what the former holder committed.
-- Outcomes and their bodies: succeed {result, reply?} | expand {result, steps, reply?} | retry {after_ms, error, reply?, card}
-- (counts a failure) | defer {after_ms, error, reply?, card} (passing trouble outside: counts nothing, until patience is used up)
-- | yield {} | suspend {id, kind, payload, deadline_ms?, children?, depth?} | fail {error, reply?, card?} | skip {} | lost {card}.
-- `card` is the id of the wait in which the person decides, should the step fail for good and the plan ask; without it nobody is asked.
-- `journal` in any body: entries to write with the outcome, as journal_write takes them.
create function pg_temp.step_finish(
  p_users uuid[], p_plans uuid[], p_steps uuid[], p_tokens bigint[], p_outcomes text[], p_bodies jsonb[],
  p_worker uuid, p_limit integer, p_limits pg_temp.limits, p_clock timestamptz)
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
  v_journals boolean;
  v_aborts boolean;
  v_suspends boolean;
  v_row record;
  v_gone record;
  v_steps uuid[];
  v_n integer;
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
      returning l.user_id, l.step_id, g.n, g.outcome, g.body, l.run_until <= v_now as overran,
                (extract(epoch from v_now - l.claimed_at) * 1000)::bigint as ran_ms),
    judged as (
      select g.n, g.outcome, g.body, s.user_id, s.id, s.parent_id, p.on_failure, g.overran,
             greatest(s.ran_ms + g.ran_ms, 0) as ran_ms,
             case
               when p.cancel_requested_at is not null or s.id = any (p.cancelling_steps) then 'cancelled'
               when g.outcome in ('succeed', 'expand') then 'succeeded'
               when g.outcome = 'suspend' then 'suspended'
               when g.outcome = 'skip' then 'skipped'
               when g.outcome = 'yield' then 'ready'
               when g.outcome = 'fail' then 'failed'
               when s.ran_ms + g.ran_ms >= coalesce(s.timeout_ms, extract(epoch from p_limits.step) * 1000) then 'failed'
               when g.outcome = 'defer' then case
                 when v_now - coalesce(s.failing_since, v_now) >= coalesce(s.retry_for_ms * interval '1 millisecond', p_limits.patience)
                 then 'failed' else 'ready' end
               when s.failures + 1 >= s.max_failures then 'failed'
               else 'ready' end::step_state as next
      from released g
      join steps s on s.user_id = g.user_id and s.id = g.step_id
      join plans p on p.user_id = s.user_id and p.id = s.plan_id),
    decided as (
      select j.n, j.outcome, j.body, j.user_id, j.id, j.on_failure, j.ran_ms, j.overran,
             -- A plan that asks: the person decides over a step of its own before anything is given up for it.
             case when j.next = 'failed' and j.on_failure = 'decide' and j.parent_id is null and j.body ->> 'card' is not null
                  then 'suspended' else j.next end as next,
             j.next = 'failed' as failing
      from judged j),
    moved as (
      update steps s
      set state = d.next,
          failures = s.failures + case when d.outcome in ('retry', 'lost', 'fail') then 1 else 0 end,
          failing_since = case when d.outcome = 'defer' then coalesce(s.failing_since, v_now)
                               when d.outcome in ('retry', 'lost', 'yield') then s.failing_since end,
          ran_ms = d.ran_ms,
          woken_by = case when d.outcome in ('retry', 'defer', 'lost', 'yield') and not d.failing then s.woken_by end,
          waived = d.next = 'skipped',
          open_children = case when d.next = 'suspended' then coalesce(jsonb_array_length(d.body -> 'children'), 0) else 0 end,
          result = case when d.next = 'succeeded' then coalesce(d.body -> 'result', 'null') end,
          last_error = case when d.outcome in ('succeed', 'expand', 'yield') then s.last_error else coalesce(d.body -> 'error', s.last_error) end,
          error = case when d.failing and d.next = 'failed' then pg_temp.trouble(d.outcome, d.body, d.overran, s.failures + 1) end,
          finished_at = case when d.next in ('succeeded', 'failed', 'cancelled', 'skipped') then v_now end
      from decided d
      where s.user_id = d.user_id and s.id = d.id and s.state = 'running'
      returning d.n, s.user_id, s.plan_id, s.session_id, s.id, s.agent_id, s.key, s.kind, s.state, s.attempt, d.outcome, d.body,
                s.error, s.parent_id, s.depth, s.round, d.on_failure, d.failing, d.overran, s.failures)
    select coalesce(array_agg((m.n, m.user_id, m.plan_id, m.session_id, m.id, m.agent_id, m.key, m.kind, m.state,
                               m.attempt, case when m.failing and m.state = 'suspended' then 'card' else m.outcome end,
                               m.parent_id, m.depth, m.round, m.on_failure)::pg_temp.moved order by m.n), '{}'),
      coalesce(array_agg((m.user_id, m.session_id, m.plan_id, m.id,
        case m.state
          when 'succeeded' then 'task_completed' when 'failed' then 'task_failed' when 'cancelled' then 'task_cancelled'
          when 'skipped' then 'task_skipped'
          when 'suspended' then case when m.failing or m.body ->> 'kind' in ('approval', 'input') then 'approval_required' else 'task_waiting' end
          else 'task_progress' end,
        jsonb_build_object('key', m.key, 'kind', m.kind, 'agent_id', m.agent_id, 'attempt', m.attempt) ||
        case m.state
          when 'succeeded' then case when octet_length((m.body -> 'result')::text) <= 8192
            then jsonb_build_object('result', m.body -> 'result')
            else jsonb_build_object('result_link', '/my/plans/' || m.plan_id || '/steps/') end
          when 'failed' then jsonb_build_object('error', m.error)
          when 'cancelled' then '{}'::jsonb
          when 'skipped' then jsonb_build_object('reason', 'decided')
          when 'suspended' then case when m.failing
            then jsonb_build_object('wait_id', m.body -> 'card', 'approval_id', m.body -> 'card', 'wait_kind', 'approval', 'type', 'decision',
              'error', pg_temp.trouble(m.outcome, m.body, m.overran, m.failures), 'choices', pg_temp.choices(),
              'deadline', v_now + p_limits.card)
            else jsonb_build_object('wait_id', m.body -> 'id', 'wait_kind', m.body -> 'kind',
              'deadline', v_now + (m.body ->> 'deadline_ms')::bigint * interval '1 millisecond')
              || case when m.body ->> 'kind' in ('approval', 'input')
                 then jsonb_build_object('approval_id', m.body -> 'id') || pg_temp.shown(m.body -> 'payload', m.plan_id) else '{}'::jsonb end end
          else jsonb_build_object('reason', case m.outcome when 'lost' then 'worker_lost' else m.outcome end,
            'error', m.body -> 'error', 'retry_after_ms', m.body -> 'after_ms') end)::pg_temp.draft order by m.n), '{}'),
      array_agg(m.user_id) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg(m.id) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      coalesce(array_agg(m.user_id) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')), '{}'),
      array_agg(m.plan_id) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg(1) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg((m.state = 'succeeded' and m.depth = 0 and m.kind not in ('planning', 'summary'))::integer)
        filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg((m.state <> 'succeeded' and m.depth = 0)::integer) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg(0) filter (where m.state in ('succeeded', 'failed', 'cancelled', 'skipped')),
      array_agg(m.user_id order by m.n) filter (where m.state = 'ready' and coalesce((m.body ->> 'after_ms')::bigint, 0) <= 0),
      array_agg(m.id order by m.n) filter (where m.state = 'ready' and coalesce((m.body ->> 'after_ms')::bigint, 0) <= 0),
      array_agg(m.user_id) filter (where m.agent_id is not null),
      array_agg(m.agent_id) filter (where m.agent_id is not null),
      coalesce(bool_or(m.body ? 'reply'), false),
      coalesce(bool_or(m.body ? 'journal'), false),
      coalesce(bool_or(m.state = 'failed' and m.on_failure = 'abort' and m.parent_id is null), false),
      coalesce(bool_or(m.state = 'suspended'), false)
    into v_moved, v_drafts, v_settled_users, v_settled, v_plan_users, v_plans, v_ended, v_succeeded, v_unsuccessful, v_added,
         v_ready_users, v_ready, v_freed_users, v_freed_agents, v_replies, v_journals, v_aborts, v_suspends
    from moved m;

    if cardinality(v_moved) < cardinality(p_steps) then
      return query
        select 'fenced', g.user_id, g.id, null::uuid, null::uuid, null::uuid, null, null, null::jsonb, g.token,
               null::smallint, null::boolean, null::smallint, null::smallint, null::jsonb, null::smallint, null::bigint
        from unnest(p_users, p_steps, p_tokens) with ordinality g(user_id, id, token, n)
        where not exists (select 1 from unnest(v_moved) m where m.n = g.n);
    end if;
  end if;

  if cardinality(v_moved) > 0 then
    if v_journals then
      perform pg_temp.journal_put(m.user_id, m.id, m.round, p_tokens[m.n], p_bodies[m.n] -> 'journal', v_now)
      from unnest(v_moved) m where p_bodies[m.n] ? 'journal';
    end if;

    if v_suspends then
      insert into waits (user_id, id, step_id, plan_id, session_id, kind, payload, deadline, created_at)
      select m.user_id, (p_bodies[m.n] ->> 'id')::uuid, m.id, m.plan_id, m.session_id, (p_bodies[m.n] ->> 'kind')::wait_kind,
             p_bodies[m.n] -> 'payload', v_now + (p_bodies[m.n] ->> 'deadline_ms')::bigint * interval '1 millisecond', v_now
      from unnest(v_moved) m where m.state = 'suspended' and m.outcome = 'suspend'
      union all
      select m.user_id, (p_bodies[m.n] ->> 'card')::uuid, m.id, m.plan_id, m.session_id, 'approval',
             jsonb_build_object('type', 'decision', 'choices', pg_temp.choices(), 'error',
               pg_temp.trouble(p_outcomes[m.n], p_bodies[m.n], s.ran_ms >= coalesce(s.timeout_ms, extract(epoch from p_limits.step) * 1000),
                               s.failures)),
             v_now + p_limits.card, v_now
      from unnest(v_moved) m join steps s on s.user_id = m.user_id and s.id = m.id
      where m.outcome = 'card';
      -- A call that is proposed, to the person or to the person's own program; a plan that is.
      select v_drafts || array_agg((m.user_id, m.session_id, m.plan_id, m.id,
               case when p_bodies[m.n] -> 'payload' ->> 'type' = 'plan' then 'plan_request' else 'tool_request' end,
               jsonb_build_object('key', m.key, 'agent_id', m.agent_id, 'call_id', p_bodies[m.n] -> 'id',
                 'execution', case p_bodies[m.n] ->> 'kind' when 'client_tool' then 'client' else 'server' end,
                 'deadline', v_now + (p_bodies[m.n] ->> 'deadline_ms')::bigint * interval '1 millisecond')
               || pg_temp.shown(p_bodies[m.n] -> 'payload', m.plan_id))::pg_temp.draft order by m.n)
      into v_drafts
      from unnest(v_moved) m
      where m.state = 'suspended' and m.outcome = 'suspend' and p_bodies[m.n] -> 'payload' ->> 'type' in ('tool', 'client_tool', 'plan');
      -- Children of a step that waits for them.
      for v_row in
        select m.*, (select max(s.position) + 1 from steps s where s.user_id = m.user_id and s.plan_id = m.plan_id) as base
        from unnest(v_moved) m where m.state = 'suspended' and m.outcome = 'suspend' and p_bodies[m.n] ? 'children' order by m.n
      loop
        v_steps := pg_temp.steps_insert(v_row.user_id, v_row.plan_id, v_row.session_id, v_row.id,
          coalesce((p_bodies[v_row.n] ->> 'depth')::smallint, v_row.depth), v_row.base, 0, p_bodies[v_row.n] -> 'children', v_now);
        v_ready := v_ready || v_steps;
        v_ready_users := v_ready_users || array_fill(v_row.user_id, array[cardinality(v_steps)]);
        v_plan_users := v_plan_users || v_row.user_id;
        v_plans := v_plans || v_row.plan_id;
        v_ended := v_ended || 0; v_succeeded := v_succeeded || 0; v_unsuccessful := v_unsuccessful || 0;
        v_added := v_added || jsonb_array_length(p_bodies[v_row.n] -> 'children');
      end loop;
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
      for v_row in
        select m.*, (select max(s.position) + 1 from steps s where s.user_id = m.user_id and s.plan_id = m.plan_id) as base
        from unnest(v_moved) m where m.outcome = 'expand' and m.state = 'succeeded' order by m.n
      loop
        v_steps := pg_temp.steps_insert(v_row.user_id, v_row.plan_id, v_row.session_id, null, 0::smallint, v_row.base, 0,
                                        p_bodies[v_row.n] -> 'steps', v_now);
        v_ready := v_ready || v_steps;
        v_ready_users := v_ready_users || array_fill(v_row.user_id, array[cardinality(v_steps)]);
        v_plan_users := v_plan_users || v_row.user_id;
        v_plans := v_plans || v_row.plan_id;
        v_ended := v_ended || 0; v_succeeded := v_succeeded || 0; v_unsuccessful := v_unsuccessful || 0;
        v_added := v_added || jsonb_array_length(p_bodies[v_row.n] -> 'steps');
        v_drafts := v_drafts || (v_row.user_id, v_row.session_id, v_row.plan_id, null, 'task_plan_created',
          jsonb_build_object('plan_id', v_row.plan_id, 'steps', jsonb_array_length(p_bodies[v_row.n] -> 'steps'),
                             'source', p_bodies[v_row.n] -> 'result' -> 'source'))::pg_temp.draft;
      end loop;
    end if;

    -- A plan that ends with its first failure; its summary stays and tells.
    if v_aborts then
      for v_row in
        select distinct m.user_id, m.plan_id from unnest(v_moved) m
        where m.state = 'failed' and m.policy = 'abort' and m.parent_id is null
      loop
        v_gone := pg_temp.steps_cancel(v_row.user_id, v_row.plan_id, null, true, v_now);
        v_n := cardinality(v_gone.ended);
        v_settled_users := v_settled_users || array_fill(v_row.user_id, array[v_n]);
        v_settled := v_settled || v_gone.ended;
        v_plan_users := v_plan_users || array_fill(v_row.user_id, array[v_n]);
        v_plans := v_plans || array_fill(v_row.plan_id, array[v_n]);
        v_ended := v_ended || array_fill(1, array[v_n]);
        v_succeeded := v_succeeded || array_fill(0, array[v_n]);
        v_unsuccessful := v_unsuccessful || v_gone.counts;
        v_added := v_added || array_fill(0, array[v_n]);
        v_freed_users := v_freed_users || array_fill(v_row.user_id, array[cardinality(v_gone.agents)]);
        v_freed_agents := v_freed_agents || v_gone.agents;
        v_feed_users := v_feed_users || v_row.user_id;
        v_feed_deltas := v_feed_deltas || -v_gone.placed;
        v_drafts := v_drafts || v_gone.drafts;
      end loop;
      -- What has just been cancelled is not ready any more.
      select array_agg(r.user_id), array_agg(r.id) into v_ready_users, v_ready
      from unnest(v_ready_users, v_ready) r(user_id, id)
      join steps s on s.user_id = r.user_id and s.id = r.id and s.state = 'ready';
    end if;

    if v_settled is not null then
      v_hear := pg_temp.steps_settle(v_settled_users, v_settled, v_now);
      v_ready_users := v_ready_users || v_hear.ready_users;
      v_ready := v_ready || v_hear.ready_steps;
      v_drafts := v_drafts || v_hear.drafts;
      v_n := cardinality(v_hear.skipped_users);
      if v_n > 0 then
        v_plan_users := v_plan_users || v_hear.skipped_users;
        v_plans := v_plans || v_hear.skipped_plans;
        v_ended := v_ended || array_fill(1, array[v_n]);
        v_succeeded := v_succeeded || array_fill(0, array[v_n]);
        v_unsuccessful := v_unsuccessful || v_hear.skipped_counts;
        v_added := v_added || array_fill(0, array[v_n]);
      end if;
    end if;

    if cardinality(v_plan_users) > 0 then
      v_counted := pg_temp.plans_count(v_plan_users, v_plans, v_ended, v_succeeded, v_unsuccessful, v_added, v_now);
      v_ready_users := v_ready_users || v_counted.ready_users;
      v_ready := v_ready || v_counted.ready_steps;
      v_drafts := v_drafts || v_counted.drafts;
    end if;

    -- A retry that is not due yet waits without a place.
    if p_outcomes && array['retry', 'defer'] then
      insert into ready_steps (user_id, step_id, agent_id, rank, placed, due_at, paused, since)
      select m.user_id, m.id, m.agent_id, v_now + (p_bodies[m.n] ->> 'after_ms')::bigint * interval '1 millisecond', false,
             v_now + (p_bodies[m.n] ->> 'after_ms')::bigint * interval '1 millisecond', p.paused_at is not null, v_now
      from unnest(v_moved) m join plans p on p.user_id = m.user_id and p.id = m.plan_id
      where m.state = 'ready' and (p_bodies[m.n] ->> 'after_ms')::bigint > 0;
    end if;

    v_admitted := pg_temp.steps_admit(v_ready_users, v_ready, v_freed_users, v_freed_agents,
                                      array_fill(1, array[coalesce(cardinality(v_freed_agents), 0)]), v_now);
    v_feed_users := v_feed_users || v_admitted.feed_users;
    v_feed_deltas := v_feed_deltas || v_admitted.feed_deltas;
    v_drafts := v_drafts || v_admitted.drafts;
  end if;

  -- Claims come last: what has just become ready competes with all that waited before it.
  if p_limit > 0 then
    v_taken := pg_temp.steps_take(p_worker, p_limit, p_limits, p_clock);
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
