//! Steering a plan that is under way: hold it, let it go on, end a step, run a failed one again.

use crate::{
    error::StoreError,
    fault,
    id::{AgentId, PlanId, StepId, WaitId},
    plan::draft::PlanDraft,
    scope::UserScope,
    store::Store,
};

/// What became of a hold or of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is as was asked.
    Done,
    /// It was so before.
    Already,
    /// The plan has ended, or is being cancelled.
    Closed,
    /// There is no such plan.
    Gone,
}

/// What became of a retry in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It is ready again.
    Done,
    /// Only a failed step can be retried.
    NotFailed,
    /// It was made by another step, which has taken note of its failure.
    Child,
    /// The plan was cancelled.
    Cancelled,
    /// There is no such step.
    Gone,
}

/// What became of a change of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// The person is asked about the new one, by this question.
    Now(WaitId),
    /// Nothing is asked about the plan: what was approved stays as it is.
    Frozen,
    /// There is no such plan.
    Gone,
}

/// How a failed step shall run again.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// Another question; begins a new journal.
    pub prompt: Option<String>,
    /// Another agent; begins a new journal.
    pub agent: Option<AgentId>,
    /// Begin a new journal: nothing is answered from what was done before.
    pub fresh: bool,
}

impl Store {
    /// Holds a plan: what runs may end, nothing else begins.
    pub async fn pause_plan(&self, scope: UserScope, plan: PlanId) -> Result<Held, StoreError> {
        let sql = "select verdict from pg_temp.plan_pause($1, $2, $3)";
        self.hold(sql, scope, plan).await
    }

    /// Lets a held plan go on.
    pub async fn resume_plan(&self, scope: UserScope, plan: PlanId) -> Result<Held, StoreError> {
        let sql = "select verdict from pg_temp.plan_resume($1, $2, $3)";
        self.hold(sql, scope, plan).await
    }

    async fn hold(
        &self,
        sql: &'static str,
        scope: UserScope,
        plan: PlanId,
    ) -> Result<Held, StoreError> {
        let verdict: String = sqlx::query_scalar(sql)
            .bind(scope.user())
            .bind(plan)
            .bind(self.clock.instant())
            .fetch_one(&self.pool)
            .await?;
        Ok(match verdict.as_str() {
            "paused" | "resumed" => {
                self.moved(scope.user());
                Held::Done
            }
            "again" => Held::Already,
            "closed" => Held::Closed,
            _ => Held::Gone,
        })
    }

    /// Puts another draft in the place of the one that the person is asked about.
    pub async fn edit_plan(
        &self,
        scope: UserScope,
        plan: PlanId,
        draft: &PlanDraft,
    ) -> Result<Edited, StoreError> {
        let (verdict, wait): (String, Option<WaitId>) = sqlx::query_as(
            "select verdict, wait_id from pg_temp.plan_edit($1, $2, $3, $4, $5, $6)",
        )
        .bind(scope.user())
        .bind(plan)
        .bind(draft.steps_json())
        .bind(draft.estimate())
        .bind(draft.digest())
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?;
        Ok(match (verdict.as_str(), wait) {
            ("edited", Some(wait)) => {
                self.hints.feed(scope.user());
                Edited::Now(wait)
            }
            ("gone", _) => Edited::Gone,
            _ => Edited::Frozen,
        })
    }

    /// Ends one step and all that it made. One that runs is told at once.
    pub async fn cancel_step(
        &self,
        scope: UserScope,
        plan: PlanId,
        step: StepId,
    ) -> Result<super::Cancelled, StoreError> {
        fault::point("cancel.before");
        let verdict: String =
            sqlx::query_scalar("select verdict from pg_temp.step_cancel($1, $2, $3, $4)")
                .bind(scope.user())
                .bind(plan)
                .bind(step)
                .bind(self.clock.instant())
                .fetch_one(&self.pool)
                .await?;
        fault::point("cancel.after");
        Ok(self.told_of_cancel(scope, plan, &verdict))
    }

    /// Runs a failed step of the plan's own again. What was skipped because of it comes back; what succeeded stays.
    pub async fn retry_step(
        &self,
        scope: UserScope,
        plan: PlanId,
        step: StepId,
        how: &Retry,
    ) -> Result<Retried, StoreError> {
        let verdict: String = sqlx::query_scalar(
            "select verdict from pg_temp.step_retry($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(scope.user())
        .bind(plan)
        .bind(step)
        .bind(&how.prompt)
        .bind(how.agent)
        .bind(how.fresh)
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?;
        Ok(match verdict.as_str() {
            "retried" => {
                self.moved(scope.user());
                Retried::Done
            }
            "not_failed" => Retried::NotFailed,
            "child" => Retried::Child,
            "cancelled" => Retried::Cancelled,
            _ => Retried::Gone,
        })
    }
}
