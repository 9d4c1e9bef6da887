//! For whoever watches over the process. Without a token, and without a word about what is inside.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    App,
    extract::Json,
    problem::{Code, Problem, ProblemBody, chain},
};

/// Longest look at the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// All is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// The process lives.
#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, description = "It lives", body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The process can serve: Postgres answers, and it has not been told to stop.
#[utoipa::path(get, path = "/ready", tag = "operations", responses(
    (status = 200, description = "It can serve", body = Health),
    (status = 503, description = "It cannot serve now", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.stop.is_cancelled() {
        return Err(Problem::new(Code::Unavailable, "this process is stopping").retry_after(1));
    }
    match timeout(PATIENCE, app.store.ping()).await {
        Ok(Ok(())) => return Ok(Json(Health { status: "ok" })),
        Ok(Err(error)) => warn!(error = chain(&error), "not ready: the database"),
        Err(_) => warn!("not ready: the database did not answer within {PATIENCE:?}"),
    }
    Err(Problem::new(Code::Unavailable, "the database does not answer").retry_after(1))
}
