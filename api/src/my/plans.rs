//! Plans: read and cancelled. Made from messages, or by the person ([`crate::my::new_plan`]).

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use engine::{
    id::PlanId,
    plan::{self, OnFailure, Phase, PlanMode, PlanState, explain::Explained},
    store::{Cancelled, Held},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    page::{self, Page, PageQuery},
    problem::{Code, Problem, ProblemBody},
};

/// A plan as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Plan {
    id: Uuid,
    session_id: Option<Uuid>,
    /// The message that it answers, if it answers one.
    message_id: Option<Uuid>,
    /// `direct`, `orchestrated` or `explicit`.
    #[schema(value_type = String, example = "orchestrated")]
    mode: PlanMode,
    /// `active`, `succeeded`, `partial`, `failed` or `cancelled`.
    #[schema(value_type = String, example = "active")]
    state: PlanState,
    /// `queued`, `planning`, `running`, `paused`, `awaiting_approval`, `cancelling` or `done`.
    #[schema(value_type = String, example = "running")]
    phase: Phase,
    goal: String,
    /// `decide`, `continue` or `abort`: what happens when a step fails for good.
    #[schema(value_type = String, example = "decide")]
    on_failure: OnFailure,
    /// Counts changes of the graph.
    revision: i32,
    /// Steps by state.
    #[schema(example = json!({"succeeded": 3, "running": 1}))]
    counts: BTreeMap<String, i64>,
    /// Since when you hold it.
    paused_at: Option<DateTime<Utc>>,
    /// When it is stopped.
    deadline: Option<DateTime<Utc>>,
    cancel_requested_at: Option<DateTime<Utc>>,
    /// `person` or `timed_out`: who stopped it.
    cancel_reason: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// What a cancel came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancellation {
    /// `cancelled`, or `active` while steps still run; they end cancelled.
    #[schema(value_type = String, example = "active")]
    state: PlanState,
    /// `done` or `cancelling`.
    #[schema(value_type = String, example = "cancelling")]
    phase: Phase,
}

impl From<plan::Plan> for Plan {
    fn from(plan: plan::Plan) -> Self {
        Self {
            id: plan.id.0,
            session_id: plan.session_id.map(Uuid::from),
            message_id: plan.message_id.map(Uuid::from),
            mode: plan.mode,
            state: plan.state,
            phase: plan.phase(),
            goal: plan.goal,
            revision: plan.revision,
            counts: plan.counts,
            on_failure: plan.on_failure,
            paused_at: plan.paused_at,
            deadline: plan.deadline,
            cancel_requested_at: plan.cancel_requested_at,
            cancel_reason: plan.cancel_reason,
            created_at: plan.created_at,
            updated_at: plan.updated_at,
            finished_at: plan.finished_at,
        }
    }
}

/// Your plans, newest first.
#[utoipa::path(get, path = "/plans/", operation_id = "list_plans", tag = "plans", params(PageQuery), responses(
    (status = 200, description = "A page of plans", body = Page<Plan>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Plan>>, Problem> {
    let limit = page.limit()?;
    let found = app
        .store
        .plans(caller.scope, page.cursor()?, page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |plan| {
        plan.id.0.simple().to_string()
    })))
}

/// One plan.
#[utoipa::path(get, path = "/plans/{id}/", operation_id = "get_plan", tag = "plans", params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 200, description = "The plan", body = Plan)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
) -> Result<Json<Plan>, Problem> {
    let plan = app
        .store
        .plan(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    Ok(Json(plan.into()))
}

/// Stops a plan. Steps that run are told at once. Cancelling twice is cancelling once.
#[utoipa::path(post, path = "/plans/{id}/cancel/", operation_id = "cancel_plan", tag = "plans", params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 202, description = "It is cancelled, or will be when its running steps have ended", body = Cancellation),
    (status = 409, description = "The plan has ended otherwise", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
) -> Result<impl IntoResponse, Problem> {
    let done = Cancellation {
        state: PlanState::Cancelled,
        phase: Phase::Done,
    };
    let cancellation = match app.store.cancel_plan(caller.scope, id).await? {
        Cancelled::Done => done,
        Cancelled::Underway => Cancellation {
            state: PlanState::Active,
            phase: Phase::Cancelling,
        },
        Cancelled::Gone => return Err(Problem::not_found()),
        Cancelled::AlreadyClosed => {
            let plan = app
                .store
                .plan(caller.scope, id)
                .await?
                .ok_or_else(Problem::not_found)?;
            if plan.state != PlanState::Cancelled {
                let detail = format!(
                    "the plan has ended ({}) and cannot be cancelled",
                    plan.state.as_str()
                );
                return Err(Problem::new(Code::PlanClosed, detail));
            }
            done
        }
    };
    Ok((StatusCode::ACCEPTED, Json(cancellation)))
}

/// Holds a plan: what runs may end, nothing else begins. Holding it twice is holding it once.
#[utoipa::path(post, path = "/plans/{id}/pause/", operation_id = "pause_plan", tag = "plans", params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 200, description = "It is held", body = Plan),
    (status = 409, description = "The plan has ended, or is being cancelled", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
) -> Result<Json<Plan>, Problem> {
    let held = app.store.pause_plan(caller.scope, id).await?;
    after(&app, caller, id, held).await
}

/// Lets a plan that is held go on.
#[utoipa::path(post, path = "/plans/{id}/resume/", operation_id = "resume_plan", tag = "plans", params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 200, description = "It goes on", body = Plan)))]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
) -> Result<Json<Plan>, Problem> {
    let held = app.store.resume_plan(caller.scope, id).await?;
    after(&app, caller, id, held).await
}

async fn after(app: &App, caller: Caller, id: PlanId, held: Held) -> Result<Json<Plan>, Problem> {
    if held == Held::Closed {
        let detail = "the plan has ended or is being cancelled, and cannot be held";
        return Err(Problem::new(Code::PlanClosed, detail));
    }
    let plan = app.store.plan(caller.scope, id).await?;
    plan.map(|plan| Json(plan.into()))
        .ok_or_else(Problem::not_found)
}

/// Why nothing is happening.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    plan_id: Uuid,
    /// `active`, or how it ended.
    #[schema(value_type = String, example = "active")]
    state: PlanState,
    /// What it is at.
    #[schema(value_type = String, example = "running")]
    phase: Phase,
    /// For each step that has not ended `{id, key, state, reason}` with the facts of that reason: `session_turn`, `waits_for_steps`,
    /// `plan_paused`, `agent_full`, `provider_limited`, `retry_later`, `no_worker_online`, `queued`, `running`, `cancelling`,
    /// `worker_lost`, `approval`, `input`, `client_tool`, `timer`, `children`.
    #[schema(value_type = Vec<Object>, example = json!([{"id": "01890000-0000-7000-8000-000000000000", "key": "draft", "state": "blocked",
        "reason": "waits_for_steps", "needs": [{"key": "facts", "state": "running", "when": "success"}]}]))]
    steps: Vec<Explained>,
}

/// Why each step that has not ended is where it is.
#[utoipa::path(get, path = "/plans/{id}/explain/", operation_id = "explain_plan", tag = "plans", params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 200, description = "One reason a step, with its facts", body = Explanation)))]
pub(crate) async fn explain(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
) -> Result<Json<Explanation>, Problem> {
    let plan = app
        .store
        .plan(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let steps = app.store.explain(caller.scope, id).await?;
    Ok(Json(Explanation {
        plan_id: plan.id.0,
        state: plan.state,
        phase: plan.phase(),
        steps,
    }))
}
