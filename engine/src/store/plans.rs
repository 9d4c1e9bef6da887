//! Plans: acceptance, reading, cancelling.

use std::time::Duration;

use sqlx::PgExecutor;

use crate::{
    error::StoreError,
    fault,
    id::{AgentId, MessageId, PlanId, SessionId},
    plan::{Class, NewStep, OnFailure, Plan, PlanMode, PlanState, Step},
    scope::UserScope,
    step::{StepKind, StepSpec},
    store::{Store, transitions::interval},
};

/// Messages of one session that may wait for their turn.
const SESSION_QUEUE: i32 = 10;
/// Ready steps of one agent that messages may add to.
const AGENT_QUEUE: i32 = 100;

/// A message to accept.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Where it was said.
    pub session: SessionId,
    /// What was said.
    pub content: String,
    /// The agent addressed: direct mode. None: the orchestrator plans.
    pub target: Option<AgentId>,
}

/// A plan of the person's own; its graph has been checked (`plan::graph::check`).
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// Session whose feed shall show it.
    pub session: Option<SessionId>,
    /// What is wanted.
    pub goal: String,
    /// The steps, in an order in which each comes after what it needs or not: any order.
    pub steps: Vec<NewStep>,
    /// What happens when one fails for good.
    pub on_failure: OnFailure,
    /// Longest time until its end; then it is stopped.
    pub timeout: Option<Duration>,
    /// Priority; `Planned` unless it may wait.
    pub class: Class,
}

/// What became of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is a plan now.
    Plan {
        /// The plan.
        plan: PlanId,
        /// The message, if there was one.
        message: Option<MessageId>,
        /// Position just before its first event.
        cursor: i64,
    },
    /// There is no such session.
    NoSession,
    /// Ten messages of the session are waiting already.
    SessionFull,
    /// A hundred steps of the agent are waiting already.
    AgentFull,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// Every step has ended.
    Done,
    /// Some steps run; they end cancelled.
    Underway,
    /// The plan had ended before.
    AlreadyClosed,
    /// There is no such plan.
    Gone,
}

/// What a [`Plan`] is read from, for one and for lists.
macro_rules! plan_columns {
    () => {
        "select p.id, p.session_id, p.message_id, p.mode, p.goal, p.state, p.queued, p.revision, p.on_failure, p.paused_at, p.deadline,
                    p.cancel_requested_at, p.cancel_reason, p.created_at, p.updated_at, p.finished_at, c.counts, c.planning,
                    p.state = 'active' and exists (select 1 from steps s join waits w on w.step_id = s.id and w.user_id = s.user_id
                      where s.user_id = p.user_id and s.plan_id = p.id and s.state = 'suspended' and w.decision is null
                        and w.kind in ('approval', 'input')) as asking
             from plans p cross join lateral (
               select coalesce(jsonb_object_agg(k.state, k.n), '{}') as counts, coalesce(bool_or(k.planning), false) as planning from (
                 select s.state, count(*) as n, bool_or(s.kind = 'planning' and s.finished_at is null) as planning
                 from steps s where s.user_id = p.user_id and s.plan_id = p.id group by s.state) k) c"
    };
}

impl Store {
    /// Accepts a message: it is durable, has a plan, and its first step is on its way when this returns.
    pub async fn accept_message(
        &self,
        scope: UserScope,
        message: &NewMessage,
    ) -> Result<Accepted, StoreError> {
        self.accept_message_as(scope, MessageId::new(), message)
            .await
    }

    /// The same under an id of the caller's. A second message of that id is a conflict with `messages_pkey`, and changes nothing.
    pub async fn accept_message_as(
        &self,
        scope: UserScope,
        id: MessageId,
        message: &NewMessage,
    ) -> Result<Accepted, StoreError> {
        let (mode, kind) = match message.target {
            Some(_) => (PlanMode::Direct, StepKind::Agent),
            None => (PlanMode::Orchestrated, StepKind::Planning),
        };
        let first = NewStep {
            key: if message.target.is_some() {
                "answer".to_owned()
            } else {
                "planning".to_owned()
            },
            agent_id: message.target,
            spec: StepSpec {
                answers: message.target.is_some(),
                ..StepSpec::default()
            },
            ..NewStep::new("", kind)
        };
        let draft = Draft {
            session: Some(message.session),
            message: Some(id),
            mode,
            goal: &message.content,
            class: Class::Interactive,
            target: message.target,
            // A message to one agent is answered, if only by an apology; a team's work is worth a question.
            on_failure: match message.target {
                Some(_) => OnFailure::Continue,
                None => OnFailure::Decide,
            },
            timeout: None,
            steps: std::slice::from_ref(&first),
        };
        self.accept(scope, &draft).await
    }

    /// Accepts a plan of the person's own. The caller has checked its graph.
    pub async fn accept_plan(
        &self,
        scope: UserScope,
        plan: &NewPlan,
    ) -> Result<Accepted, StoreError> {
        let draft = Draft {
            session: plan.session,
            message: None,
            mode: PlanMode::Explicit,
            goal: &plan.goal,
            class: plan.class,
            target: None,
            on_failure: plan.on_failure,
            timeout: plan.timeout,
            steps: &plan.steps,
        };
        self.accept(scope, &draft).await
    }

    async fn accept(&self, scope: UserScope, draft: &Draft<'_>) -> Result<Accepted, StoreError> {
        let plan = PlanId::new();
        let steps = serde_json::to_value(draft.steps).map_err(|source| StoreError::Decode {
            what: "new steps",
            source,
        })?;
        fault::point("accept.before");
        let (verdict, cursor): (String, i64) =
            sqlx::query_as("select verdict, cursor from pg_temp.plan_accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)")
                .bind(scope.user())
                .bind(plan)
                .bind(draft.session)
                .bind(draft.message)
                .bind(draft.mode)
                .bind(draft.goal)
                .bind(draft.class as i16)
                .bind(draft.target)
                .bind(steps)
                .bind(draft.on_failure)
                .bind(draft.timeout.map(interval))
                .bind(SESSION_QUEUE)
                .bind(AGENT_QUEUE)
                .bind(self.clock.instant())
                .fetch_one(&self.pool)
                .await?;
        fault::point("accept.after");
        Ok(match verdict.as_str() {
            "no_session" => Accepted::NoSession,
            "session_full" => Accepted::SessionFull,
            "agent_full" => Accepted::AgentFull,
            _ => {
                self.moved(scope.user());
                Accepted::Plan {
                    plan,
                    message: draft.message,
                    cursor,
                }
            }
        })
    }

    /// Stops a plan. Running steps are told at once and end cancelled.
    pub async fn cancel_plan(
        &self,
        scope: UserScope,
        plan: PlanId,
    ) -> Result<Cancelled, StoreError> {
        self.stop_plan(scope, plan, "person").await
    }

    pub(super) async fn stop_plan(
        &self,
        scope: UserScope,
        plan: PlanId,
        reason: &'static str,
    ) -> Result<Cancelled, StoreError> {
        fault::point("cancel.before");
        let verdict: String =
            sqlx::query_scalar("select verdict from pg_temp.plan_cancel($1, $2, $3, $4)")
                .bind(scope.user())
                .bind(plan)
                .bind(reason)
                .bind(self.clock.instant())
                .fetch_one(&self.pool)
                .await?;
        fault::point("cancel.after");
        Ok(self.told_of_cancel(scope, plan, &verdict))
    }

    pub(super) fn told_of_cancel(
        &self,
        scope: UserScope,
        plan: PlanId,
        verdict: &str,
    ) -> Cancelled {
        let cancelled = match verdict {
            "cancelled" => Cancelled::Done,
            "cancelling" => Cancelled::Underway,
            "closed" => Cancelled::AlreadyClosed,
            _ => Cancelled::Gone,
        };
        if matches!(cancelled, Cancelled::Done | Cancelled::Underway) {
            self.hints.cancel(plan);
            self.moved(scope.user());
        }
        cancelled
    }

    /// One plan.
    pub async fn plan(&self, scope: UserScope, id: PlanId) -> Result<Option<Plan>, StoreError> {
        Ok(sqlx::query_as(concat!(
            plan_columns!(),
            " where p.user_id = $1 and p.id = $2"
        ))
        .bind(scope.user())
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Whether a plan has ended, by its key alone; a plan that is not there counts as ended.
    pub async fn plan_closed(&self, scope: UserScope, id: PlanId) -> Result<bool, StoreError> {
        let state: Option<PlanState> =
            sqlx::query_scalar("select state from plans where user_id = $1 and id = $2")
                .bind(scope.user())
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        Ok(state != Some(PlanState::Active))
    }

    /// Plans, newest first, older than `before`.
    pub async fn plans(
        &self,
        scope: UserScope,
        before: Option<PlanId>,
        limit: i64,
    ) -> Result<Vec<Plan>, StoreError> {
        Ok(sqlx::query_as(
            concat!(
                plan_columns!(),
                " where p.user_id = $1 and p.id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff') order by p.id desc limit $3"
            ),
        )
        .bind(scope.user())
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Steps of a plan in the order in which it was written, after position `after` (-1: from the first).
    pub async fn steps(
        &self,
        scope: UserScope,
        plan: PlanId,
        after: i32,
        limit: i64,
    ) -> Result<Vec<Step>, StoreError> {
        Ok(steps(&self.pool, scope, plan, after, limit).await?)
    }

    /// All steps of a plan in the order in which it was written, as the graph needs them: what they have to do, returned or
    /// failed with is left out, so that two thousand of them stay small.
    pub async fn outline(&self, scope: UserScope, plan: PlanId) -> Result<Vec<Step>, StoreError> {
        Ok(sqlx::query_as(
            "select s.id, s.key, s.kind, s.agent_id, a.name as agent_name, '{}'::jsonb as spec, s.state, s.attempt, s.failures,
                    coalesce((select jsonb_agg(jsonb_build_object('key', n.key, 'when', e.met_when) order by n.position)
                     from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
                     where e.user_id = s.user_id and e.step_id = s.id), '[]') as needs,
                    s.joins, s.parent_id, null::jsonb as last_error, null as partial,
                    null::uuid as wait_id, null::wait_kind as wait_kind, null as wait_type, null::timestamptz as wait_deadline,
                    null::jsonb as result, null::jsonb as error, s.created_at, s.started_at, s.finished_at
             from steps s
             left join user_agents a on a.user_id = s.user_id and a.id = s.agent_id
             where s.user_id = $1 and s.plan_id = $2
             order by s.position",
        )
        .bind(scope.user())
        .bind(plan)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// Steps of a plan, after a position.
pub(super) async fn steps(
    executor: impl PgExecutor<'_>,
    scope: UserScope,
    plan: PlanId,
    after: i32,
    limit: i64,
) -> Result<Vec<Step>, sqlx::Error> {
    sqlx::query_as(
            "select s.id, s.key, s.kind, s.agent_id, a.name as agent_name, s.spec, s.state, s.attempt, s.failures,
                coalesce((select jsonb_agg(jsonb_build_object('key', n.key, 'when', e.met_when) order by n.position)
                 from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
                 where e.user_id = s.user_id and e.step_id = s.id), '[]') as needs,
                s.joins, s.parent_id, s.last_error,
                case when s.state = 'running' then (
                  select e.partial from effects e where e.user_id = s.user_id and e.step_id = s.id and e.round = s.round
                    and e.partial is not null order by e.ordinal desc limit 1) end as partial,
                w.id as wait_id, w.kind as wait_kind, w.payload ->> 'type' as wait_type, w.deadline as wait_deadline,
                s.result, s.error, s.created_at, s.started_at, s.finished_at
         from steps s
         left join user_agents a on a.user_id = s.user_id and a.id = s.agent_id
         left join waits w on w.user_id = s.user_id and w.step_id = s.id and w.decision is null
         where s.user_id = $1 and s.plan_id = $2 and s.position > $3
         order by s.position limit $4",
    )
    .bind(scope.user())
    .bind(plan)
    .bind(after)
    .bind(limit)
    .fetch_all(executor)
    .await
}

/// The plans of a session that have not ended, the oldest first.
pub(super) async fn open_plans(
    executor: impl PgExecutor<'_>,
    scope: UserScope,
    session: SessionId,
    limit: i64,
) -> Result<Vec<Plan>, sqlx::Error> {
    sqlx::query_as(concat!(
        plan_columns!(),
        " where p.user_id = $1 and p.session_id = $2 and p.state = 'active' order by p.id limit $3"
    ))
    .bind(scope.user())
    .bind(session)
    .bind(limit)
    .fetch_all(executor)
    .await
}

/// What `plan_accept` gets.
struct Draft<'a> {
    session: Option<SessionId>,
    message: Option<MessageId>,
    mode: PlanMode,
    goal: &'a str,
    class: Class,
    target: Option<AgentId>,
    on_failure: OnFailure,
    timeout: Option<Duration>,
    steps: &'a [NewStep],
}
