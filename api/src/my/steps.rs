//! Steps of a plan, in the order in which it was written; one can be ended, and a failed one can be run again.

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use engine::{
    id::{PlanId, StepId},
    plan::{self, NeedView},
    step::StateName,
    store::{Cancelled, Retried, Retry},
    wait::WaitKind,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    my::{approvals::agent_id, messages::says_something},
    page::{self, Page, PageQuery},
    problem::{Code, Problem, ProblemBody},
};

/// A step as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Step {
    id: Uuid,
    /// Its name within the plan.
    key: String,
    /// `planning`, `agent`, `summary`, `timer` or `map`.
    kind: String,
    agent_id: Option<Uuid>,
    /// The agent's name.
    agent: Option<String>,
    /// `blocked`, `ready`, `running`, `suspended`, `succeeded`, `failed`, `skipped` or `cancelled`.
    #[schema(value_type = String, example = "running")]
    state: StateName,
    /// The step that made it: a map its items, an agent what it delegates.
    parent_id: Option<Uuid>,
    /// What it waits for.
    needs: Vec<Need>,
    /// `all` or `any`: which of its needs it waits for.
    #[schema(value_type = String, example = "all")]
    join: plan::Join,
    /// Runs so far.
    attempt: i16,
    /// Why it is suspended.
    wait: Option<Wait>,
    /// What it has to do, as the plan says.
    #[schema(value_type = Object)]
    spec: Value,
    /// What it returned.
    result: Option<Value>,
    /// Why it failed.
    error: Option<Value>,
    /// Why its newest run did not come to an end.
    last_error: Option<Value>,
    /// What its running turn has said so far, at most a second old.
    partial_text: Option<String>,
    created_at: DateTime<Utc>,
    /// Last of: planned, begun, ended.
    updated_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

/// What a step waits for before it may begin.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Need {
    /// The step needed.
    key: String,
    /// `success`, `done` or `failure`: which of its ends counts.
    #[schema(value_type = String, example = "success")]
    when: plan::graph::When,
}

/// Why a step is suspended, and until when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Wait {
    id: Uuid,
    /// `approval`, `input`, `client_tool`, `timer` or `child`.
    #[schema(value_type = Option<String>, example = "approval")]
    kind: Option<WaitKind>,
    /// What kind of approval: `decision`, `outcome_unknown`, `tool`.
    r#type: Option<String>,
    /// Null: for ever.
    deadline: Option<DateTime<Utc>>,
}

impl From<NeedView> for Need {
    fn from(need: NeedView) -> Self {
        Self {
            key: need.key,
            when: need.when,
        }
    }
}

impl From<plan::Step> for Step {
    fn from(step: plan::Step) -> Self {
        Self {
            id: step.id.0,
            key: step.key,
            kind: step.kind,
            agent_id: step.agent_id.map(Uuid::from),
            agent: step.agent_name,
            state: step.state,
            parent_id: step.parent_id.map(Uuid::from),
            join: step.joins,
            needs: step.needs.into_iter().map(Need::from).collect(),
            attempt: step.attempt,
            wait: step.wait_id.map(|id| Wait {
                id: id.0,
                kind: step.wait_kind,
                r#type: step.wait_type,
                deadline: step.wait_deadline,
            }),
            spec: step.spec,
            result: step.result,
            error: step.error,
            last_error: step.last_error,
            partial_text: step.partial,
            created_at: step.created_at,
            updated_at: step
                .finished_at
                .or(step.started_at)
                .unwrap_or(step.created_at),
            started_at: step.started_at,
            finished_at: step.finished_at,
        }
    }
}

/// The steps of a plan.
#[utoipa::path(get, path = "/plans/{id}/steps/", operation_id = "list_steps", tag = "plans", params(("id" = Uuid, Path, description = "The plan"), PageQuery), responses(
    (status = 200, description = "A page of steps", body = Page<Step>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(plan): Path<PlanId>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Step>>, Problem> {
    let limit = page.limit()?;
    let after: i32 = page.cursor()?.unwrap_or(-1);
    let found = app
        .store
        .steps(caller.scope, plan, after, page::rows(limit))
        .await?;
    // A plan has steps; none may mean that it is not there, or that the cursor is at its end.
    if found.is_empty() {
        app.store
            .plan(caller.scope, plan)
            .await?
            .ok_or_else(Problem::not_found)?;
    }
    // Positions have no gaps: the last of this page follows from how many there are.
    let last = after.saturating_add(i32::try_from(limit).unwrap_or(i32::MAX));
    Ok(Json(Page::of(found, limit, |_| last.to_string())))
}

/// Where a step is now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SteppedTo {
    /// After a cancel `cancelled`, or `running` until it has stopped; after a retry `ready`.
    #[schema(value_type = String, example = "cancelled")]
    state: StateName,
}

/// Ends one step and all that it made. One that runs is told at once; what needs its success is skipped.
#[utoipa::path(post, path = "/plans/{id}/steps/{sid}/cancel/", operation_id = "cancel_step", tag = "plans",
    params(("id" = Uuid, Path, description = "The plan"), ("sid" = Uuid, Path, description = "The step")), responses(
    (status = 202, description = "It is cancelled, or will be when its run has ended", body = SteppedTo),
    (status = 409, description = "The step has ended", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path((plan, step)): Path<(PlanId, StepId)>,
) -> Result<impl IntoResponse, Problem> {
    let state = match app.store.cancel_step(caller.scope, plan, step).await? {
        Cancelled::Done => StateName::Cancelled,
        Cancelled::Underway => StateName::Running,
        Cancelled::Gone => return Err(Problem::not_found()),
        Cancelled::AlreadyClosed => {
            return Err(Problem::new(Code::StepClosed, "the step has ended"));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(SteppedTo { state })))
}

/// How a failed step shall run again.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct RetryInput {
    /// What the agent is asked now; absent: the same.
    #[garde(inner(custom(says_something)), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    prompt: Option<String>,
    /// Name or id of the agent that does it now; absent: the same.
    #[garde(skip)]
    agent: Option<String>,
    /// Begin from nothing: calls that came to their end before are made again. Another prompt or agent does so too.
    #[serde(default)]
    #[garde(skip)]
    fresh: bool,
}

/// Runs a failed step again, with its agent as it is configured now.
///
/// What succeeded stays, what was skipped because of it comes back, and a summary will answer anew.
#[utoipa::path(post, path = "/plans/{id}/steps/{sid}/retry/", operation_id = "retry_step", tag = "plans", request_body = RetryInput,
    params(("id" = Uuid, Path, description = "The plan"), ("sid" = Uuid, Path, description = "The step")), responses(
    (status = 202, description = "It is ready again", body = SteppedTo),
    (status = 409, description = "The step has not failed, belongs to another step, or its plan was cancelled", body = ProblemBody,
        content_type = "application/problem+json")))]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path((plan, step)): Path<(PlanId, StepId)>,
    Json(input): Json<RetryInput>,
) -> Result<impl IntoResponse, Problem> {
    let agent = match &input.agent {
        Some(name) => Some(agent_id(&app, caller, name).await?),
        None => None,
    };
    let how = Retry {
        prompt: input.prompt,
        agent,
        fresh: input.fresh,
    };
    let refusal = match app.store.retry_step(caller.scope, plan, step, &how).await? {
        Retried::Done => {
            let state = StateName::Ready;
            return Ok((StatusCode::ACCEPTED, Json(SteppedTo { state })));
        }
        Retried::Gone => return Err(Problem::not_found()),
        Retried::NotFailed => {
            "only a failed step can be retried; a question about it is answered at /my/approvals/"
        }
        Retried::Child => {
            "this step was made by another one, which has taken note of its failure; retry that one"
        }
        Retried::Cancelled => "its plan was cancelled",
    };
    Err(Problem::new(Code::StepNotFailed, refusal))
}
