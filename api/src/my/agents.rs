//! Agents. Every change is a new version; a running step keeps the one it began with.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use chrono::{DateTime, Utc};
use engine::{
    agent::{self, AgentStatus},
    id::AgentId,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{self, Json, Path, Query},
    my::agent_config::AgentConfig,
    page::{self, Page, PageQuery},
    problem::{Code, Problem, ProblemBody},
};

/// Longest name, in characters.
const NAME_LIMIT: usize = 100;
/// How often a change is tried when others change the same agent.
const CHANGE_ATTEMPTS: u32 = 5;

/// An agent as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Agent {
    id: Uuid,
    /// Unique among your agents.
    name: String,
    /// Counts changes, from 1.
    version: i32,
    /// `busy` while it works on a step.
    #[schema(value_type = String, example = "ready")]
    status: AgentStatus,
    config: AgentConfig,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// An agent to make, or to put in another's place.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct AgentInput {
    /// Unique among your agents.
    #[garde(custom(is_name))]
    #[schema(min_length = 1, max_length = 100, example = "coder")]
    name: String,
    #[serde(default, deserialize_with = "extract::object")]
    #[garde(dive)]
    config: AgentConfig,
}

/// What to change of an agent.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct AgentPatch {
    /// The new name.
    #[garde(inner(custom(is_name)))]
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Fields of the configuration to set; null takes one back to its default.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
}

fn is_name<C>(name: &str, _: &C) -> garde::Result {
    if name.chars().any(char::is_control) {
        return Err(garde::Error::new("a name has no control characters"));
    }
    match name.trim().chars().count() {
        0 => Err(garde::Error::new(
            "a name has at least one character that can be seen",
        )),
        1..=NAME_LIMIT => Ok(()),
        _ => Err(garde::Error::new("length is greater than 100")),
    }
}

impl From<agent::Agent> for Agent {
    fn from(agent: agent::Agent) -> Self {
        Self {
            id: agent.id.0,
            status: agent.status(),
            name: agent.name,
            version: agent.version,
            config: agent.config.into(),
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        }
    }
}

/// Makes an agent.
#[utoipa::path(post, path = "/agents/", operation_id = "create_agent", tag = "agents", request_body = AgentInput, responses(
    (status = 201, description = "The agent", body = Agent, headers(("Location" = String, description = "Where it is"))),
    (status = 409, description = "An agent of yours has this name", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<AgentInput>,
) -> Result<impl IntoResponse, Problem> {
    let agent = app
        .store
        .create_agent(caller.scope, input.name.trim(), &input.config.into())
        .await?;
    let location = format!("/my/agents/{}/", agent.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Agent::from(agent)),
    ))
}

/// Your agents, newest first.
#[utoipa::path(get, path = "/agents/", operation_id = "list_agents", tag = "agents", params(PageQuery), responses(
    (status = 200, description = "A page of agents", body = Page<Agent>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Agent>>, Problem> {
    let limit = page.limit()?;
    let found = app
        .store
        .agents(caller.scope, page.cursor()?, page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |agent| {
        agent.id.0.simple().to_string()
    })))
}

/// One agent.
#[utoipa::path(get, path = "/agents/{id}/", operation_id = "get_agent", tag = "agents", params(("id" = Uuid, Path, description = "The agent")), responses(
    (status = 200, description = "The agent", body = Agent)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
) -> Result<Json<Agent>, Problem> {
    let agent = app
        .store
        .agent(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    Ok(Json(agent.into()))
}

/// Puts another name and configuration in place of an agent's.
#[utoipa::path(put, path = "/agents/{id}/", operation_id = "replace_agent", tag = "agents", params(("id" = Uuid, Path, description = "The agent")), request_body = AgentInput,
    responses(
    (status = 200, description = "The agent in its new version", body = Agent),
    (status = 409, description = "An agent of yours has this name", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn replace(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
    Json(input): Json<AgentInput>,
) -> Result<Json<Agent>, Problem> {
    let agent = app
        .store
        .update_agent(caller.scope, id, input.name.trim(), &input.config.into())
        .await?;
    Ok(Json(agent.ok_or_else(Problem::not_found)?.into()))
}

/// Changes what is given of an agent, and leaves the rest.
#[utoipa::path(patch, path = "/agents/{id}/", operation_id = "change_agent", tag = "agents", params(("id" = Uuid, Path, description = "The agent")), request_body = AgentPatch,
    responses(
    (status = 200, description = "The agent in its new version", body = Agent),
    (status = 409, description = "An agent of yours has this name", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
    Json(patch): Json<AgentPatch>,
) -> Result<Json<Agent>, Problem> {
    for _ in 0..CHANGE_ATTEMPTS {
        let known = app
            .store
            .agent(caller.scope, id)
            .await?
            .ok_or_else(Problem::not_found)?;
        let name = patch.name.as_deref().map_or(known.name.as_str(), str::trim);
        let config = merged(known.config.into(), &patch.config)?;
        // None: it was changed since it was read. Its newest version is the one to change.
        if let Some(agent) = app
            .store
            .update_agent_from(caller.scope, known.version, id, name, &config.into())
            .await?
        {
            return Ok(Json(agent.into()));
        }
    }
    Err(Problem::new(
        Code::Unavailable,
        "others are changing this agent; try again",
    )
    .retry_after(1))
}

/// The configuration with some fields set anew.
fn merged(known: AgentConfig, changes: &Map<String, Value>) -> Result<AgentConfig, Problem> {
    let mut fields = match serde_json::to_value(known) {
        Ok(Value::Object(fields)) => fields,
        // A configuration is an object.
        _ => Map::new(),
    };
    for (field, value) in changes {
        if value.is_null() {
            fields.remove(field)
        } else {
            fields.insert(field.clone(), value.clone())
        };
    }
    extract::decode_at(Value::Object(fields), "/config")
}

/// Retires an agent: its name is free again, and steps that still wait for it fail when their turn comes.
#[utoipa::path(delete, path = "/agents/{id}/", operation_id = "delete_agent", tag = "agents", params(("id" = Uuid, Path, description = "The agent")), responses(
    (status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
) -> Result<StatusCode, Problem> {
    if app.store.delete_agent(caller.scope, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found())
    }
}
