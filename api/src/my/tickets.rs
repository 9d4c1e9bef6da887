//! Passes to a stream for browsers: `EventSource` cannot send a header, and a token has no business in an address.

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use engine::id::SessionId;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{App, auth::Caller, extract::Json, openapi::MY, problem::Problem};

/// What stream.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct TicketInput {
    /// The conversation whose stream it shall open; absent: your whole feed.
    #[garde(skip)]
    session_id: Option<Uuid>,
}

/// A pass to one stream, good once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pass {
    /// What goes into the query of the stream's address.
    ticket: String,
    /// The stream's path with the ticket; add `&after=` with the seq of the last event that you have seen.
    #[schema(example = "/my/events/?ticket=0123abcd")]
    path: String,
    /// Until when it can be used.
    expires_at: DateTime<Utc>,
}

/// Buy a ticket for a stream.
///
/// It opens one stream, once, within 30 seconds; the stream ends when your token does. `EventSource` comes back with the same
/// address, which is used up by then: close it on an error, buy another ticket, and open a new one with `after`.
#[utoipa::path(post, path = "/stream-tickets/", operation_id = "buy_stream_ticket", tag = "feed", request_body = TicketInput, responses(
    (status = 201, description = "A ticket", body = Pass),
    (status = 404, description = "There is no such conversation", body = crate::problem::ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn buy(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<TicketInput>,
) -> Result<impl IntoResponse, Problem> {
    let session = input.session_id.map(SessionId);
    if let Some(session) = session {
        app.store
            .session(caller.scope, session)
            .await?
            .ok_or_else(Problem::not_found)?;
    }
    let sold = app
        .store
        .sell_ticket(caller.scope, session, caller.expires_at)
        .await?;
    let stream = session.map_or_else(
        || "events".to_owned(),
        |session| format!("chat/{session}/events"),
    );
    let ticket = Pass {
        path: format!("{MY}/{stream}/?ticket={}", sold.secret),
        ticket: sold.secret,
        expires_at: sold.expires_at,
    };
    Ok((StatusCode::CREATED, Json(ticket)))
}
