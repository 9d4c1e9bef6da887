//! Conversations.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use chrono::{DateTime, Utc};
use engine::{id::SessionId, store};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Change, Json, Path, Query},
    page::{self, Page, PageQuery},
    problem::Problem,
};

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    id: Uuid,
    title: Option<String>,
    /// The plan whose turn it is, if any: messages of one session run one after another.
    active_plan_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A conversation to open.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct SessionInput {
    /// What you call it.
    #[garde(inner(custom(is_title)))]
    #[schema(min_length = 1, max_length = 200)]
    title: Option<String>,
}

/// What to change of a conversation.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct SessionPatch {
    /// What you call it; null: nothing any more.
    #[serde(default)]
    #[garde(custom(is_new_title))]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    title: Change<String>,
}

fn is_new_title<C>(change: &Change<String>, context: &C) -> garde::Result {
    match change {
        Change::To(Some(title)) => is_title(title, context),
        Change::To(None) | Change::Keep => Ok(()),
    }
}

fn is_title<C>(title: &str, _: &C) -> garde::Result {
    if title.chars().any(char::is_control) {
        return Err(garde::Error::new("a title has no control characters"));
    }
    match title.chars().count() {
        0 => Err(garde::Error::new("length is lower than 1")),
        1..=200 => Ok(()),
        _ => Err(garde::Error::new("length is greater than 200")),
    }
}

impl From<store::Session> for Session {
    fn from(session: store::Session) -> Self {
        Self {
            id: session.id.0,
            title: session.title,
            active_plan_id: session.active_plan_id.map(Uuid::from),
            created_at: session.created_at,
            updated_at: session.updated_at,
        }
    }
}

/// Opens a conversation.
#[utoipa::path(post, path = "/chat/sessions/", operation_id = "create_session", tag = "chat", request_body = SessionInput, responses(
    (status = 201, description = "The conversation", body = Session, headers(("Location" = String, description = "Where it is")))))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<SessionInput>,
) -> Result<impl IntoResponse, Problem> {
    let session = app
        .store
        .create_session(caller.scope, input.title.as_deref())
        .await?;
    let location = format!("/my/chat/sessions/{}/", session.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Session::from(session)),
    ))
}

/// Your conversations, newest first.
#[utoipa::path(get, path = "/chat/sessions/", operation_id = "list_sessions", tag = "chat", params(PageQuery), responses(
    (status = 200, description = "A page of conversations", body = Page<Session>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Session>>, Problem> {
    let limit = page.limit()?;
    let found = app
        .store
        .sessions(caller.scope, page.cursor()?, page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |session| {
        session.id.0.simple().to_string()
    })))
}

/// One conversation.
#[utoipa::path(get, path = "/chat/sessions/{sid}/", operation_id = "get_session", tag = "chat", params(("sid" = Uuid, Path, description = "The conversation")), responses(
    (status = 200, description = "The conversation", body = Session)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<SessionId>,
) -> Result<Json<Session>, Problem> {
    let session = app
        .store
        .session(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    Ok(Json(session.into()))
}

/// Renames a conversation.
#[utoipa::path(patch, path = "/chat/sessions/{sid}/", operation_id = "change_session", tag = "chat", params(("sid" = Uuid, Path, description = "The conversation")),
    request_body = SessionPatch, responses(
    (status = 200, description = "The conversation", body = Session)))]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<SessionId>,
    Json(patch): Json<SessionPatch>,
) -> Result<Json<Session>, Problem> {
    let session = match patch.title {
        Change::To(title) => {
            app.store
                .rename_session(caller.scope, id, title.as_deref())
                .await?
        }
        Change::Keep => app.store.session(caller.scope, id).await?,
    };
    Ok(Json(session.ok_or_else(Problem::not_found)?.into()))
}

/// Closes a conversation and cancels its open plans.
#[utoipa::path(delete, path = "/chat/sessions/{sid}/", operation_id = "delete_session", tag = "chat", params(("sid" = Uuid, Path, description = "The conversation")), responses(
    (status = 204, description = "It is closed")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<SessionId>,
) -> Result<StatusCode, Problem> {
    if app.store.delete_session(caller.scope, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found())
    }
}
