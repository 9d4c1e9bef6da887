//! The facts behind `plan::explain`.

use crate::{
    error::StoreError,
    id::PlanId,
    plan::explain::{Explained, Facts},
    scope::UserScope,
    store::Store,
};

/// Everything by keys: the plan's open steps, and for each what its state has. Counts stop at 1,000.
const FACTS: &str = "
  select s.id, s.key, s.state, s.attempt, s.failures, s.last_error, s.open_children, p.queued, p.paused_at,
    p.cancel_requested_at is not null or coalesce(s.id = any (p.cancelling_steps), false) as cancelling,
    case when p.queued then 1 + (select count(*) from plans q where q.user_id = p.user_id and q.session_id = p.session_id
      and q.queued and q.id < p.id) else 0 end as turns_ahead,
    coalesce((select jsonb_agg(jsonb_build_object('key', n.key, 'state', n.state, 'when', e.met_when) order by n.position)
      from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
      where s.state = 'blocked' and e.user_id = s.user_id and e.step_id = s.id and n.finished_at is null), '[]') as needs,
    s.agent_id, a.name as agent_name, a.max_concurrency as agent_limit,
    coalesce((select jsonb_agg(jsonb_build_object('plan_id', x.plan_id, 'key', x.key)) from (
      select o.plan_id, o.key from leases l join steps o on o.user_id = l.user_id and o.id = l.step_id
      where r.placed = false and r.due_at is null and l.user_id = s.user_id and o.agent_id = s.agent_id limit 10) x), '[]') as agent_runs,
    r.placed, r.due_at,
    case when r.placed then (select count(*) from (
        select 1 from ready_steps b where b.placed and (b.rank, b.step_id) < (r.rank, r.step_id) limit 1000) f)
      when r.placed = false and r.due_at is null then (select count(*) from (
        select 1 from ready_steps b where b.user_id = r.user_id and b.agent_id = r.agent_id and not b.placed and b.due_at is null
          and not b.paused and (b.rank, b.step_id) < (r.rank, r.step_id) limit 1000) f)
      else 0 end as ahead,
    l.claimed_at, l.run_until, l.expires_at, k.seen_at as worker_seen_at,
    w.id as wait_id, w.kind as wait_kind, w.payload ->> 'type' as wait_type, w.deadline,
    (select count(*) from workers o where o.seen_at > coalesce($3, clock_timestamp()) - interval '15 seconds') as workers,
    (select max(o.seen_at) from workers o) as worker_last_seen,
    coalesce($3, clock_timestamp()) as now
  from steps s
  join plans p on p.user_id = s.user_id and p.id = s.plan_id
  left join user_agents a on a.user_id = s.user_id and a.id = s.agent_id
  left join ready_steps r on r.step_id = s.id and r.user_id = s.user_id
  left join leases l on l.user_id = s.user_id and l.step_id = s.id
  left join workers k on k.id = l.worker_id
  left join waits w on w.step_id = s.id and w.user_id = s.user_id and w.decision is null
  where s.user_id = $1 and s.plan_id = $2 and s.finished_at is null
  order by s.position limit 2000";

impl Store {
    /// For every step of the plan that has not ended, why it is where it is; in the plan's order, at most 2,000.
    pub async fn explain(
        &self,
        scope: UserScope,
        plan: PlanId,
    ) -> Result<Vec<Explained>, StoreError> {
        let facts: Vec<Facts> = sqlx::query_as(FACTS)
            .bind(scope.user())
            .bind(plan)
            .bind(self.clock.instant())
            .fetch_all(&self.pool)
            .await?;
        Ok(facts.into_iter().filter_map(Facts::explain).collect())
    }
}
