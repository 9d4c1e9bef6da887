//! What must hold at every commit, checked against the rows; and a plan drawn as text.

use sqlx::PgPool;

use crate::{id::PlanId, scope::UserScope, store::Store};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub rule: &'static str,
    /// An example.
    pub example: String,
}

/// Each rule and the query that finds what breaks it.
const RULES: &[(&str, &str)] = &[
    ("a ready step has exactly its ready row, and only a ready step has one",
     "select s.id::text || ' is ' || s.state from steps s full join ready_steps r on r.user_id = s.user_id and r.step_id = s.id
      where (s.state = 'ready') is distinct from (r.step_id is not null)"),
    ("a running step has exactly its lease, under its token, and only a running step has one",
     "select coalesce(s.id, l.step_id)::text from steps s full join leases l on l.user_id = s.user_id and l.step_id = s.id
      where (s.state = 'running') is distinct from (l.step_id is not null) or l.token <> s.token"),
    ("a suspended step has exactly one open wait, and only a suspended step has one",
     "select s.id::text || ' is ' || s.state from steps s
      where (s.state = 'suspended') <> exists (select 1 from waits w where w.user_id = s.user_id and w.step_id = s.id and w.decision is null)"),
    ("an agent's counter is the number of its placed steps",
     "select a.id::text || ': ' || a.running_steps || ' counted' from user_agents a where a.running_steps <>
        (select count(*) from ready_steps r where r.user_id = a.user_id and r.agent_id = a.id and r.placed)
      + (select count(*) from steps s where s.user_id = a.user_id and s.agent_id = a.id and s.state = 'running')"),
    ("an agent that has room lets nothing wait",
     "select a.id::text from user_agents a where a.running_steps < a.max_concurrency
        and exists (select 1 from ready_steps r where r.user_id = a.user_id and r.agent_id = a.id and not r.placed and r.due_at is null and not r.paused)"),
    ("a user's claimable counter is the number of placed ready rows",
     "select f.user_id::text || ': ' || f.claimable_steps || ' counted' from user_feeds f
      where f.claimable_steps <> (select count(*) from ready_steps r where r.user_id = f.user_id and r.placed)"),
    ("a plan's open counter is the number of its steps that have not ended",
     "select p.id::text || ': ' || p.open_steps || ' counted' from plans p where p.open_steps <> (
        select count(*) from steps s where s.user_id = p.user_id and s.plan_id = p.id and s.finished_at is null)"),
    ("a plan's other counters count its steps",
     "select p.id::text || ': ' || p.succeeded_steps || ', ' || p.unsuccessful_steps || ' counted' from plans p
      where (p.succeeded_steps, p.unsuccessful_steps) <> (
        select count(*) filter (where s.state = 'succeeded' and s.kind not in ('planning', 'summary')),
               count(*) filter (where s.state in ('failed', 'skipped', 'cancelled'))
        from steps s where s.user_id = p.user_id and s.plan_id = p.id and s.depth = 0)"),
    ("a blocked step waits for its unmet edges, or for its session's turn",
     "select s.id::text || ' waits for ' || s.waiting_for from steps s join plans p on p.user_id = s.user_id and p.id = s.plan_id
      where s.state = 'blocked' and s.waiting_for <> (
        select case when count(*) = 0 then p.queued::integer
          when s.joins = 'any' then count(*) filter (where n.finished_at is null) else count(*) filter (where not (
          (e.met_when = 'done' and n.finished_at is not null) or (e.met_when = 'success' and (n.state = 'succeeded' or n.waived))
          or (e.met_when = 'failure' and n.state = 'failed'))) end
        from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
        where e.user_id = s.user_id and e.step_id = s.id)"),
    ("a step starts after what it needs, unless that began anew later",
     "select s.id::text from steps s
      where s.started_at is not null and exists (select 1 from step_edges e where e.user_id = s.user_id and e.step_id = s.id)
        and (select case s.joins when 'all' then bool_or(not m.before) else bool_and(not m.before) end
             from (select n.finished_at is not null and n.finished_at <= s.started_at
                     or exists (select 1 from events v where v.user_id = n.user_id and v.step_id = n.id and v.type = 'task_reopened') as before
                   from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
                   where e.user_id = s.user_id and e.step_id = s.id) m)"),
    ("a step waits for exactly the children that have not ended",
     "select s.id::text || ': ' || s.open_children || ' counted' from steps s where s.state = 'suspended' and s.open_children <> (
        select count(*) from steps c where c.user_id = s.user_id and c.parent_id = s.id and c.finished_at is null)"),
    ("a step of a plan that is held has no place",
     "select r.step_id::text from ready_steps r join steps s on s.user_id = r.user_id and s.id = r.step_id
      join plans p on p.user_id = s.user_id and p.id = s.plan_id where r.paused <> (p.paused_at is not null)"),
    ("an approval serves one call at most, and only a positive one",
     "select e.step_id::text from effects e join waits w on w.user_id = e.user_id and w.id = e.approval_id
      where w.decision is null or w.decision not in ('approved', 'edited')"),
    ("a journal has no entry of a token that was never given",
     "select e.step_id::text from effects e join steps s on s.user_id = e.user_id and s.id = e.step_id where e.token > s.token"),
    ("a session's turn belongs to an open plan of its own that does not wait",
     "select s.id::text from chat_sessions s where s.active_plan_id is not null and not exists (
        select 1 from plans p where p.user_id = s.user_id and p.id = s.active_plan_id and p.session_id = s.id
          and p.state = 'active' and not p.queued)"),
    ("nothing waits for a turn that is free",
     "select p.id::text from plans p join chat_sessions s on s.user_id = p.user_id and s.id = p.session_id
      where p.queued and s.active_plan_id is null"),
    ("a feed has no gaps",
     "select f.user_id::text || ': ' || f.last_seq from user_feeds f where f.last_seq <> (
        select case when count(*) = count(distinct e.seq) then count(*) else -1 end from events e where e.user_id = f.user_id) or f.last_seq <> (
        select coalesce(max(e.seq), 0) from events e where e.user_id = f.user_id)"),
    ("a step that ended has exactly one event that says so",
     "select s.id::text || ' ' || s.state from steps s where (s.finished_at is not null)::integer <> (
        select count(*) filter (where e.type <> 'task_reopened') - count(*) filter (where e.type = 'task_reopened')
        from events e where e.user_id = s.user_id and e.step_id = s.id
          and e.type in ('task_completed', 'task_failed', 'task_skipped', 'task_cancelled', 'task_reopened'))"),
    ("the last event of a step that ended names its state",
     "select s.id::text || ' ' || s.state from steps s where s.finished_at is not null
        and case s.state when 'succeeded' then 'task_completed' else 'task_' || s.state end is distinct from (
        select e.type from events e where e.user_id = s.user_id and e.step_id = s.id
          and e.type in ('task_completed', 'task_failed', 'task_skipped', 'task_cancelled') order by e.seq desc limit 1)"),
    ("each claim has exactly one event",
     "select s.id::text || ': ' || s.token from steps s where s.token <> (
        select count(*) from events e where e.user_id = s.user_id and e.step_id = s.id and e.type = 'task_started')"),
    ("a closed plan has exactly one event that says so",
     "select p.id::text from plans p where (p.state <> 'active')::integer <> (
        select count(*) filter (where e.type = 'plan_completed') - count(*) filter (where e.type = 'plan_reopened')
        from events e where e.user_id = p.user_id and e.plan_id = p.id)"),
];

/// Finds what breaks an invariant; empty: all hold. Consistent only while nothing commits, or under one snapshot.
pub async fn check_invariants(pool: &PgPool) -> Result<Vec<Violation>, sqlx::Error> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *snapshot)
        .await?;
    for setting in [
        "set local enable_seqscan = on",
        "set local enable_hashjoin = on",
        "set local plan_cache_mode = auto",
    ] {
        sqlx::query(setting).execute(&mut *snapshot).await?;
    }
    let mut violations = Vec::new();
    for (rule, query) in RULES {
        let examples: Vec<String> = sqlx::query_scalar(*query).fetch_all(&mut *snapshot).await?;
        if let Some(first) = examples.first() {
            violations.push(Violation {
                rule,
                example: format!("{first} ({} in all)", examples.len()),
            });
        }
    }
    Ok(violations)
}

/// A plan as text: its state, each step with its state and runs, and the events in order. For snapshots.
pub async fn picture(
    store: &Store,
    scope: UserScope,
    plan: PlanId,
) -> Result<String, crate::StoreError> {
    let Some(head) = store.plan(scope, plan).await? else {
        return Ok("no such plan\n".to_owned());
    };
    let mut lines = vec![format!("plan {} {:?}", head.state.as_str(), head.phase())];
    for step in store.steps(scope, plan, -1, 10_000).await? {
        let needs: Vec<&str> = step.needs.iter().map(|need| need.key.as_str()).collect();
        lines.push(format!(
            "  {} [{}] {} run {} needs {:?}",
            step.key,
            step.kind,
            step.state.as_str(),
            step.attempt,
            needs
        ));
    }
    for event in store.events_after(scope, None, 0.into(), 10_000).await? {
        if event.plan_id == Some(plan) {
            let key = event
                .payload
                .get("key")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("-");
            lines.push(format!("  > {} {key}", event.event_type));
        }
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}
