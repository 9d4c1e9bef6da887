//! Waits: their end by a decision or by the deadline, and those that a person decides.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    clock::Clock,
    error::StoreError,
    fault,
    id::{PlanId, SessionId, StepId, UserId, WaitId},
    scope::UserScope,
    store::{NewGrant, Store},
    wait::{Decision, WaitKind},
};

/// A wait that a person decides, as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Approval {
    /// Its id.
    pub id: WaitId,
    /// What ends it: a decision, or data.
    pub kind: WaitKind,
    /// What is asked; `type` says what kind of question it is.
    pub payload: Value,
    /// The suspended step.
    pub step_id: StepId,
    /// Its name.
    pub step_key: String,
    /// Its plan.
    pub plan_id: PlanId,
    /// Its session, if any.
    pub session_id: Option<SessionId>,
    /// Until when, by the database's clock.
    pub deadline: Option<DateTime<Utc>>,
    /// Whether that has passed.
    pub overdue: bool,
    /// When the person was told that the deadline is near.
    pub warned_at: Option<DateTime<Utc>>,
    /// The question that it takes up again.
    pub reopened_from: Option<WaitId>,
    /// How often it has been taken up.
    pub reopenings: i16,
    /// Who decided.
    pub decided_by: Option<Value>,
    /// How it ended; none: it is open.
    pub decision: Option<Decision>,
    /// What came with the decision.
    pub answer: Option<Value>,
    /// Suspension.
    pub created_at: DateTime<Utc>,
    /// Decision.
    pub decided_at: Option<DateTime<Utc>>,
}

impl Approval {
    /// `pending`, or the word of its end; one past its deadline has timed out, though nobody has come round to it yet.
    pub fn status(&self) -> &'static str {
        match self.decision {
            None if self.overdue => Decision::TimedOut.as_str(),
            None => "pending",
            Some(decision) => decision.as_str(),
        }
    }
}

/// A decision as it is to be kept.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// How the wait ends.
    pub decision: Decision,
    /// What comes with it.
    pub answer: Value,
    /// Who decides; null: not said.
    pub by: Value,
    /// Consent ahead, given in the same commit.
    pub grant: Option<NewGrant>,
}

/// What became of a reopening.
#[derive(Debug, Clone, PartialEq)]
pub enum Reopened {
    /// There is a new question.
    As(WaitId),
    /// There is no such question.
    Gone,
    /// Ten seconds have not passed.
    TooSoon,
    /// Tool or agent are not what they were.
    Changed(Value),
    /// It cannot be: `open`, `decided`, `again`, `too_often`, `busy`, `child`, `cancelled`.
    Refused(String),
}

/// What an approval is read from, for one and for lists. The step's key comes by both keys of its own: in a join the planner, while
/// it has no statistics, may read all steps of the person for each row.
macro_rules! approval_columns {
    () => {
        "select w.id, w.kind, w.payload, w.step_id,
                (select s.key from steps s where s.user_id = w.user_id and s.id = w.step_id) as step_key, w.plan_id, w.session_id, w.deadline,
                coalesce(w.deadline <= coalesce($3, clock_timestamp()), false) as overdue,
                w.warned_at, w.reopened_from, w.reopenings, w.decided_by, w.decision, w.answer, w.created_at, w.decided_at
         from waits w"
    };
}

/// Open waits of some kinds, of one session or of all, the most urgent first.
pub(super) async fn open_waits(
    executor: impl PgExecutor<'_>,
    clock: &Clock,
    scope: UserScope,
    session: Option<SessionId>,
    kinds: &[WaitKind],
    limit: i64,
) -> Result<Vec<Approval>, sqlx::Error> {
    sqlx::query_as(concat!(
        approval_columns!(),
        " where w.user_id = $1 and num_nulls(w.decision) = 1 and w.kind = any ($4) and ($5 is null or w.session_id = $5)
          order by w.deadline nulls last, w.id limit $2"
    ))
    .bind(scope.user())
    .bind(limit)
    .bind(clock.instant())
    .bind(kinds)
    .bind(session)
    .fetch_all(executor)
    .await
}

impl Store {
    /// Open questions to the person, the most urgent first, at most `limit`.
    pub async fn open_approvals(
        &self,
        scope: UserScope,
        limit: i64,
    ) -> Result<Vec<Approval>, StoreError> {
        let kinds = [WaitKind::Approval, WaitKind::Input];
        Ok(open_waits(&self.pool, &self.clock, scope, None, &kinds, limit).await?)
    }

    /// Calls that the person's own program has not carried out yet, the most urgent first, at most `limit`.
    pub async fn open_tool_calls(
        &self,
        scope: UserScope,
        limit: i64,
    ) -> Result<Vec<Approval>, StoreError> {
        let kinds = [WaitKind::ClientTool];
        Ok(open_waits(&self.pool, &self.clock, scope, None, &kinds, limit).await?)
    }

    /// Questions to the person, open and decided, newest first, older than `before`.
    pub async fn approvals(
        &self,
        scope: UserScope,
        before: Option<WaitId>,
        limit: i64,
    ) -> Result<Vec<Approval>, StoreError> {
        Ok(sqlx::query_as(concat!(
            approval_columns!(),
            " where w.user_id = $1 and w.kind in ('approval', 'input')
                and w.id < coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff') order by w.id desc limit $2"
        ))
        .bind(scope.user())
        .bind(limit)
        .bind(self.clock.instant())
        .bind(before)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One question.
    pub async fn approval(
        &self,
        scope: UserScope,
        id: WaitId,
    ) -> Result<Option<Approval>, StoreError> {
        self.wait(scope, id, &[WaitKind::Approval, WaitKind::Input])
            .await
    }

    /// A wait for the person's own program, by the id of its call.
    pub async fn tool_call(
        &self,
        scope: UserScope,
        id: WaitId,
    ) -> Result<Option<Approval>, StoreError> {
        self.wait(scope, id, &[WaitKind::ClientTool]).await
    }

    async fn wait(
        &self,
        scope: UserScope,
        id: WaitId,
        kinds: &[WaitKind],
    ) -> Result<Option<Approval>, StoreError> {
        Ok(sqlx::query_as(concat!(
            approval_columns!(),
            " where w.user_id = $1 and w.id = $2 and w.kind = any ($4)"
        ))
        .bind(scope.user())
        .bind(id)
        .bind(self.clock.instant())
        .bind(kinds)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Takes a question up again that got a no, or no answer in time.
    pub async fn reopen(&self, scope: UserScope, wait: WaitId) -> Result<Reopened, StoreError> {
        let new = WaitId::new();
        let (verdict, difference): (String, Option<Value>) = sqlx::query_as(
            "select verdict, difference from pg_temp.wait_reopen($1, $2, $3, $4, $5)",
        )
        .bind(scope.user())
        .bind(wait)
        .bind(new)
        .bind(super::transitions::interval(self.limits.card))
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?;
        Ok(match verdict.as_str() {
            "reopened" => {
                self.tell([scope.user()]);
                Reopened::As(new)
            }
            "gone" => Reopened::Gone,
            "too_soon" => Reopened::TooSoon,
            "changed" => Reopened::Changed(difference.unwrap_or_default()),
            _ => Reopened::Refused(verdict),
        })
    }

    /// Tells people of questions whose deadline is near, once each. Returns how many people.
    pub async fn warn_of_deadlines(&self, limit: i32) -> Result<usize, StoreError> {
        self.tell_those("select pg_temp.waits_warn($1, $2)", limit)
            .await
    }

    /// What was made under an approval: `{ordinal, state, request, result, created_at, done_at}`, if it has come to that.
    pub async fn executed(
        &self,
        scope: UserScope,
        id: WaitId,
    ) -> Result<Option<Value>, StoreError> {
        Ok(sqlx::query_scalar(
            "select jsonb_build_object('ordinal', e.ordinal, 'state', e.state, 'request', e.request, 'result', e.result,
               'created_at', e.created_at, 'done_at', e.done_at)
             from effects e where e.approval_id = $2 and e.user_id = $1",
        )
        .bind(scope.user())
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Ends the waits whose deadline has passed: timers ring, everything else timed out. Returns how many.
    pub async fn expire_waits(&self, limit: i64) -> Result<usize, StoreError> {
        if fault::mutant("deadlines_in_memory") {
            return Ok(0);
        }
        let due: Vec<(UserId, WaitId, WaitKind)> = sqlx::query_as(
            "select user_id, id, kind from waits
             where decision is null and deadline <= coalesce($1, clock_timestamp()) order by deadline limit $2",
        )
        .bind(self.clock.instant())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        if due.is_empty() {
            return Ok(0);
        }
        fault::point("wake.before");
        let decisions = due.iter().map(|(_, _, kind)| kind.at_deadline()).collect();
        let closed = self
            .close_waits(
                due.iter().map(|(user, wait, _)| (*user, *wait)).collect(),
                decisions,
                vec![Value::Null; due.len()],
                true,
                None,
            )
            .await?;
        fault::point("wake.after");
        Ok(closed.len())
    }

    /// Decides a wait and wakes its step; `false`: it is decided, past its deadline, not there, or what was asked about has changed.
    pub async fn resolve_wait(
        &self,
        scope: UserScope,
        wait: WaitId,
        decision: Decision,
        answer: Value,
    ) -> Result<bool, StoreError> {
        let ruling = Ruling {
            decision,
            answer,
            by: Value::Null,
            grant: None,
        };
        let decided = self.decide(scope, wait, &ruling).await?;
        Ok(decided == Some(decision))
    }

    /// The same, with who decided, and with what is granted ahead; how it was decided, if it was just now.
    pub async fn decide(
        &self,
        scope: UserScope,
        wait: WaitId,
        ruling: &Ruling,
    ) -> Result<Option<Decision>, StoreError> {
        fault::point("decide.before");
        let closed = self
            .close_waits(
                vec![(scope.user(), wait)],
                vec![ruling.decision],
                vec![ruling.answer.clone()],
                false,
                Some(ruling),
            )
            .await?;
        fault::point("decide.after");
        Ok(closed.first().copied())
    }

    async fn close_waits(
        &self,
        waits: Vec<(UserId, WaitId)>,
        decisions: Vec<Decision>,
        answers: Vec<Value>,
        expire: bool,
        ruling: Option<&Ruling>,
    ) -> Result<Vec<Decision>, StoreError> {
        let closed: Vec<(UserId, Decision)> = sqlx::query_as(
            "select user_id, decision from pg_temp.waits_close($1, $2, $3::wait_decision[], $4, $5, $6, $7, $8)",
        )
        .bind(waits.iter().map(|(user, _)| user.0).collect::<Vec<Uuid>>())
        .bind(waits.iter().map(|(_, wait)| wait.0).collect::<Vec<Uuid>>())
        .bind(
            decisions
                .iter()
                .map(|decision| decision.as_str())
                .collect::<Vec<&str>>(),
        )
        .bind(answers)
        .bind(expire)
        .bind(ruling.map(|ruling| &ruling.by).filter(|by| !by.is_null()))
        .bind(ruling.and_then(|ruling| ruling.grant.as_ref()?.document().into()))
        .bind(self.clock.instant())
        .fetch_all(&self.pool)
        .await?;
        if !closed.is_empty() {
            self.hints.work();
            self.tell(closed.iter().map(|(user, _)| *user));
        }
        Ok(closed.into_iter().map(|(_, decision)| decision).collect())
    }
}
