//! The transitions that a worker makes: finish and claim, renew, wake, reap.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use crate::{
    error::StoreError,
    fault,
    id::{AgentId, PlanId, SessionId, StepId, UserId, WorkerId},
    scope::UserScope,
    step::{
        Outcome, StepKind,
        claimed::{Claim, Trust},
    },
    store::Store,
};

/// A step to finish: who, under which token, with what.
#[derive(Debug)]
pub struct Finish<'a> {
    /// Whose.
    pub user: UserId,
    /// Plan.
    pub plan: PlanId,
    /// Step.
    pub step: StepId,
    /// The fence.
    pub token: i64,
    /// How it ended.
    pub outcome: &'a Outcome,
}

/// A step whose lease was gone: its outcome was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// The step.
    pub step: StepId,
    /// The token that no longer holds.
    pub token: i64,
}

/// What one round trip brought.
#[derive(Debug, Default)]
pub struct Turn {
    /// Steps claimed, best first.
    pub claimed: Vec<Claim>,
    /// Outcomes that were dropped.
    pub fenced: Vec<Fenced>,
}

/// A lease that is still held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Renewed {
    /// The step.
    pub id: StepId,
    /// Its token.
    pub token: i64,
    /// Its plan is being cancelled.
    pub cancelling: bool,
}

#[derive(sqlx::FromRow)]
struct TurnRow {
    verdict: String,
    user_id: UserId,
    id: StepId,
    plan_id: Option<PlanId>,
    session_id: Option<SessionId>,
    agent_id: Option<AgentId>,
    key: Option<String>,
    kind: Option<String>,
    spec: Option<Value>,
    token: i64,
    attempt: Option<i16>,
    cancelling: Option<bool>,
    round: Option<i16>,
    depth: Option<i16>,
    woken: Option<Value>,
    failures: Option<i16>,
    failing_ms: Option<i64>,
}

impl Store {
    /// Commits outcomes and claims up to `limit` steps in the same round trip. All or nothing: after an error nothing was
    /// committed, or everything was and the reply was lost; the fence makes a second try harmless.
    pub async fn turn(
        &self,
        finishes: &[Finish<'_>],
        worker: WorkerId,
        limit: usize,
    ) -> Result<Turn, StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.turn_on(&mut connection, finishes, worker, limit).await
    }

    /// The same on a connection that the caller keeps: each return to the pool costs a ping of its own.
    pub(super) async fn turn_on(
        &self,
        connection: &mut PgConnection,
        finishes: &[Finish<'_>],
        worker: WorkerId,
        limit: usize,
    ) -> Result<Turn, StoreError> {
        let users: Vec<Uuid> = finishes.iter().map(|finish| finish.user.0).collect();
        let plans: Vec<Uuid> = finishes.iter().map(|finish| finish.plan.0).collect();
        let steps: Vec<Uuid> = finishes.iter().map(|finish| finish.step.0).collect();
        let tokens: Vec<i64> = finishes.iter().map(|finish| finish.token).collect();
        let outcomes: Vec<&str> = finishes
            .iter()
            .map(|finish| finish.outcome.word())
            .collect();
        let bodies: Vec<Value> = finishes
            .iter()
            .map(|finish| finish.outcome.body())
            .collect();
        fault::point("turn.before");
        let rows: Vec<TurnRow> = sqlx::query_as(
            "select * from pg_temp.step_finish($1, $2, $3, $4, $5, $6, $7, $8, row($9, $10, $11, $12, $13)::pg_temp.limits, $14)",
        )
        .bind(users)
        .bind(plans)
        .bind(steps)
        .bind(tokens)
        .bind(outcomes)
        .bind(bodies)
        .bind(worker)
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(interval(self.lease))
        .bind(interval(self.limits.run))
        .bind(interval(self.limits.step))
        .bind(interval(self.limits.patience))
        .bind(interval(self.limits.card))
        .bind(self.clock.instant())
        .fetch_all(connection)
        .await?;
        fault::point("turn.after");
        let mut turn = Turn::default();
        for row in rows {
            if row.verdict == "claimed" {
                turn.claimed.extend(row.into_claim());
            } else {
                turn.fenced.push(Fenced {
                    step: row.id,
                    token: row.token,
                });
            }
        }
        Ok(turn)
    }

    /// Claims up to `limit` steps.
    pub async fn claim(&self, worker: WorkerId, limit: usize) -> Result<Vec<Claim>, StoreError> {
        Ok(self.turn(&[], worker, limit).await?.claimed)
    }

    /// Commits one outcome; `false`: the lease was gone and nothing changed.
    pub async fn finish(&self, claim: &Claim, outcome: &Outcome) -> Result<bool, StoreError> {
        let turn = self
            .turn(&[Finish::of(claim, outcome)], WorkerId(Uuid::nil()), 0)
            .await?;
        Ok(turn.fenced.is_empty())
    }

    /// Extends leases; those missing from the answer are lost.
    pub async fn renew(&self, held: &[(UserId, StepId, i64)]) -> Result<Vec<Renewed>, StoreError> {
        fault::point("renew.before");
        let renewed = self.look(held, Some(interval(self.lease))).await;
        fault::point("renew.after");
        renewed
    }

    /// Which leases are still held, and which steps want to be cancelled; extends nothing.
    pub async fn watch(&self, held: &[(UserId, StepId, i64)]) -> Result<Vec<Renewed>, StoreError> {
        self.look(held, None).await
    }

    async fn look(
        &self,
        held: &[(UserId, StepId, i64)],
        lease: Option<PgInterval>,
    ) -> Result<Vec<Renewed>, StoreError> {
        let renewed = sqlx::query_as(
            "select id, token, cancelling from pg_temp.lease_renew($1, $2, $3, $4, $5)",
        )
        .bind(
            held.iter()
                .map(|(user, _, _)| user.0)
                .collect::<Vec<Uuid>>(),
        )
        .bind(
            held.iter()
                .map(|(_, step, _)| step.0)
                .collect::<Vec<Uuid>>(),
        )
        .bind(
            held.iter()
                .map(|(_, _, token)| *token)
                .collect::<Vec<i64>>(),
        )
        .bind(lease)
        .bind(self.clock.instant())
        .fetch_all(&self.pool)
        .await?;
        Ok(renewed)
    }

    /// Leases that a worker holds by the rows' account: what a lost reply may have granted without its knowing.
    pub async fn leases_of(
        &self,
        worker: WorkerId,
    ) -> Result<Vec<(UserId, PlanId, StepId, i64)>, StoreError> {
        let leases = sqlx::query_as(
            "select l.user_id, s.plan_id, l.step_id, l.token from leases l
             join steps s on s.user_id = l.user_id and s.id = l.step_id where l.worker_id = $1",
        )
        .bind(worker)
        .fetch_all(&self.pool)
        .await?;
        Ok(leases)
    }

    /// Takes expired leases away: their steps become ready again, or fail once they have failed too often. Returns how many.
    pub async fn reap(&self, limit: i64) -> Result<usize, StoreError> {
        // Leases first, whatever the planner thinks of their many dead rows: from the other side it would read every step there is.
        let expired: Vec<(UserId, PlanId, StepId, i64)> = sqlx::query_as(
            "with expired as materialized (
               select user_id, step_id, token from leases where expires_at <= coalesce($1, clock_timestamp()) limit $2)
             select e.user_id, s.plan_id, e.step_id, e.token
             from expired e cross join lateral (
               select plan_id from steps where user_id = e.user_id and id = e.step_id offset 0) s",
        )
        .bind(self.clock.instant())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        if expired.is_empty() {
            return Ok(0);
        }
        fault::point("reap.before");
        let lost = Outcome::Lost;
        let finishes: Vec<Finish<'_>> = expired
            .iter()
            .map(|&(user, plan, step, token)| Finish {
                user,
                plan,
                step,
                token,
                outcome: &lost,
            })
            .collect();
        let turn = self.turn(&finishes, WorkerId(Uuid::nil()), 0).await?;
        fault::point("reap.after");
        self.tell(expired.iter().map(|(user, ..)| *user));
        Ok(expired.len() - turn.fenced.len())
    }

    /// Lets in the steps whose backoff has passed; returns how many.
    pub async fn admit_due(&self, limit: i32) -> Result<usize, StoreError> {
        fault::point("due.before");
        let due: i32 = sqlx::query_scalar("select pg_temp.steps_due($1, $2)")
            .bind(limit)
            .bind(self.clock.instant())
            .fetch_one(&self.pool)
            .await?;
        fault::point("due.after");
        if due > 0 {
            self.hints.work();
        }
        Ok(usize::try_from(due).unwrap_or(0))
    }

    /// Grants free places to waiting steps of all agents: the net under every other admission. Returns how many.
    pub async fn admit_all(&self) -> Result<usize, StoreError> {
        let admitted: i32 = sqlx::query_scalar("select pg_temp.agents_admit(null, null, $1)")
            .bind(self.clock.instant())
            .fetch_one(&self.pool)
            .await?;
        if admitted > 0 {
            self.hints.work();
        }
        Ok(usize::try_from(admitted).unwrap_or(0))
    }

    /// Says that there may be work, and that a person's feed has grown.
    pub(super) fn moved(&self, user: UserId) {
        self.hints.work();
        self.hints.feed(user);
    }

    pub(super) fn tell(&self, users: impl IntoIterator<Item = UserId>) {
        for user in users {
            self.hints.feed(user);
        }
    }

    /// Stops the plans whose time is up. Returns how many.
    pub async fn stop_overdue_plans(&self, limit: i64) -> Result<usize, StoreError> {
        let overdue: Vec<(UserId, PlanId)> = sqlx::query_as(
            "select user_id, id from plans where deadline <= coalesce($1, clock_timestamp()) order by deadline limit $2",
        )
        .bind(self.clock.instant())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        for (user, plan) in &overdue {
            self.stop_plan(UserScope::vouched(*user), *plan, "timed_out")
                .await?;
        }
        Ok(overdue.len())
    }

    /// Tells people of steps that have been ready for more than five seconds, once each. Returns how many people.
    pub async fn tell_of_waiting(&self, limit: i32) -> Result<usize, StoreError> {
        self.tell_those("select pg_temp.steps_tell($1, $2)", limit)
            .await
    }

    /// Writes events by a function of (limit, clock) that returns whose they are. Returns how many people.
    pub(super) async fn tell_those(
        &self,
        sql: &'static str,
        limit: i32,
    ) -> Result<usize, StoreError> {
        let told: Vec<UserId> = sqlx::query_scalar(sql)
            .bind(limit)
            .bind(self.clock.instant())
            .fetch_all(&self.pool)
            .await?;
        self.tell(told.iter().copied());
        Ok(told.len())
    }
}

/// A length as Postgres has it. Ours are seconds to days; an interval holds 292,000 years.
pub(super) fn interval(length: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(length.as_micros()).unwrap_or(i64::MAX),
    }
}

impl<'a> Finish<'a> {
    /// The finish of a claim.
    pub fn of(claim: &Claim, outcome: &'a Outcome) -> Self {
        Self {
            user: claim.scope.user(),
            plan: claim.plan,
            step: claim.id,
            token: claim.token,
            outcome,
        }
    }
}

impl TurnRow {
    fn into_claim(self) -> Option<Claim> {
        let claim = Claim {
            scope: UserScope::vouched(self.user_id),
            id: self.id,
            plan: self.plan_id?,
            session: self.session_id,
            agent: self.agent_id,
            key: self.key?,
            // A word or a spec that this program cannot read fails its step and nothing else.
            kind: StepKind::parse(&self.kind?),
            spec: serde_json::from_value(self.spec?).ok(),
            token: self.token,
            attempt: u16::try_from(self.attempt?).unwrap_or(u16::MAX),
            round: u16::try_from(self.round?).unwrap_or(0),
            depth: u16::try_from(self.depth?).unwrap_or(0),
            woken: self
                .woken
                .and_then(|woken| serde_json::from_value(woken).ok()),
            failures: u16::try_from(self.failures?).unwrap_or(0),
            failing_for: Duration::from_millis(
                u64::try_from(self.failing_ms.unwrap_or(0)).unwrap_or(0),
            ),
            trust: Trust::default(),
            lost: tokio_util::sync::CancellationToken::new(),
            cancelled: tokio_util::sync::CancellationToken::new(),
        };
        if self.cancelling == Some(true) {
            claim.cancelled.cancel();
        }
        Some(claim)
    }
}
