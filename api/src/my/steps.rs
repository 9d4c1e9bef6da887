//! Steps of a plan, in the order in which it was written.

use axum::extract::State;
use chrono::{DateTime, Utc};
use engine::{
    id::PlanId,
    plan::{self, NeedView},
    step::StateName,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    page::{self, Page, PageQuery},
    problem::Problem,
};

/// A step as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Step {
    id: Uuid,
    /// Its name within the plan.
    key: String,
    /// `planning`, `agent`, `summary` or `timer`.
    kind: String,
    agent_id: Option<Uuid>,
    /// The agent's name.
    agent: Option<String>,
    /// `blocked`, `ready`, `running`, `suspended`, `succeeded`, `failed`, `skipped` or `cancelled`.
    #[schema(value_type = String, example = "running")]
    state: StateName,
    /// What it waits for.
    needs: Vec<Need>,
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
            needs: step.needs.into_iter().map(Need::from).collect(),
            attempt: step.attempt,
            wait: step.wait_id.map(|id| Wait {
                id: id.0,
                deadline: step.wait_deadline,
            }),
            spec: step.spec,
            result: step.result,
            error: step.error,
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
