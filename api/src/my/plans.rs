//! Plans: read and cancelled. Made from messages, or by the person ([`crate::my::new_plan`]).

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use engine::{
    id::PlanId,
    plan::{
        self, OnFailure, Phase, PlanMode, PlanState,
        draft::{DraftError, DraftStep, PlanDraft},
        explain::Explained,
        graph::Limits,
    },
    store::{Cancelled, Edited, Held},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query, objects},
    my::{approvals::Approval, messages::says_something},
    page::{self, Page, PageQuery},
    problem::{Code, FieldError, Problem, ProblemBody},
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

/// Another draft of a plan that waits for your consent.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct PlanPatch {
    /// All of its steps as they shall be: what is left out is removed. The summary is added by itself.
    #[serde(deserialize_with = "objects")]
    #[garde(length(min = 1, max = 50), dive)]
    #[schema(min_items = 1, max_items = 50)]
    steps: Vec<DraftStepInput>,
}

/// A step of it.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct DraftStepInput {
    /// Its name within the plan.
    #[garde(skip)]
    #[schema(example = "draft", pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    key: String,
    /// Name of the agent that does it.
    #[garde(skip)]
    agent: String,
    /// What the agent is asked; absent: the plan's goal.
    #[garde(inner(custom(says_something)), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    prompt: Option<String>,
    /// Keys of the steps whose results it builds on.
    #[serde(default)]
    #[garde(skip)]
    needs: Vec<String>,
}

/// Changes a plan while it waits for your consent: steps changed, removed, added, in another order, by other agents. It is checked
/// like any plan and gets a new digest; once approved it stays as it is.
#[utoipa::path(patch, path = "/plans/{id}/", operation_id = "edit_plan", tag = "plans", request_body = PlanPatch,
    params(("id" = Uuid, Path, description = "The plan")), responses(
    (status = 200, description = "The question about the plan as it is now", body = Approval),
    (status = 409, description = "Nothing is asked about the plan", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn edit(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
    Json(patch): Json<PlanPatch>,
) -> Result<Json<Approval>, Problem> {
    app.store
        .plan(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let steps = patch.steps.into_iter().map(|step| DraftStep {
        key: step.key,
        agent: step.agent,
        prompt: step.prompt,
        needs: step.needs,
    });
    let draft = PlanDraft {
        steps: steps.collect(),
    };
    let names: Vec<String> = draft.steps.iter().map(|step| step.agent.clone()).collect();
    let agents = app.store.resolve_agents(caller.scope, &names).await?;
    let id_of = |name: &str| {
        let place = names.iter().position(|known| known == name)?;
        agents.get(place).copied().flatten()
    };
    draft
        .to_steps(Limits::PLANNED.steps, id_of)
        .map_err(|error| {
            Problem::invalid(match error {
                DraftError::Graph(errors) => errors.iter().map(FieldError::from).collect(),
                DraftError::Agent { index, .. } => vec![FieldError::body(
                    format!("/steps/{index}/agent"),
                    "unknown_agent",
                    "you have no agent of this name",
                )],
            })
        })?;
    let wait = match app.store.edit_plan(caller.scope, id, &draft).await? {
        Edited::Now(wait) => wait,
        Edited::Gone => return Err(Problem::not_found()),
        Edited::Frozen => {
            let detail = "nothing is asked about this plan: what was approved stays as it is";
            return Err(Problem::new(Code::PlanFrozen, detail));
        }
    };
    let approval = app.store.approval(caller.scope, wait).await?;
    approval
        .map(|approval| Json(approval.into()))
        .ok_or_else(Problem::not_found)
}
