//! The planner of a person. Until it is set, the defaults hold.

use axum::extract::State;
use chrono::{DateTime, Utc};
use engine::agent;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App, auth::Caller, extract::Json, my::agent_config::OrchestratorConfig, problem::Problem,
};

/// The planner as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Orchestrator {
    /// Null while the defaults hold.
    id: Option<Uuid>,
    /// Counts changes; 0 while the defaults hold.
    version: i32,
    config: OrchestratorConfig,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
}

impl From<agent::Orchestrator> for Orchestrator {
    fn from(orchestrator: agent::Orchestrator) -> Self {
        Self {
            id: Some(orchestrator.id),
            version: orchestrator.version,
            config: orchestrator.config.into(),
            created_at: Some(orchestrator.created_at),
            updated_at: Some(orchestrator.updated_at),
        }
    }
}

/// Your planner.
#[utoipa::path(get, path = "/orchestrator/", operation_id = "get_orchestrator", tag = "orchestrator", responses(
    (status = 200, description = "The planner", body = Orchestrator)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<Orchestrator>, Problem> {
    let defaults = || Orchestrator {
        id: None,
        version: 0,
        config: agent::OrchestratorConfig::default().into(),
        created_at: None,
        updated_at: None,
    };
    let known = app.store.orchestrator(caller.scope).await?;
    Ok(Json(known.map_or_else(defaults, Orchestrator::from)))
}

/// Sets your planner.
#[utoipa::path(put, path = "/orchestrator/", operation_id = "replace_orchestrator", tag = "orchestrator", request_body = OrchestratorConfig, responses(
    (status = 200, description = "The planner in its new version", body = Orchestrator)))]
pub(crate) async fn replace(
    State(app): State<App>,
    caller: Caller,
    Json(config): Json<OrchestratorConfig>,
) -> Result<Json<Orchestrator>, Problem> {
    Ok(Json(
        app.store
            .put_orchestrator(caller.scope, &config.into())
            .await?
            .into(),
    ))
}
