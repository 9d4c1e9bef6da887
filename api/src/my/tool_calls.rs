//! Calls that a program of the person's own carries out: it hears of them in the feed and posts what they brought.

use axum::extract::State;
use engine::{id::WaitId, store, wait::Decision};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path},
    page::{self, Page},
    problem::{Code, Problem, ProblemBody},
};

/// Bytes of a result.
const RESULT_BYTES: usize = 256 * 1024;

/// What a call brought.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct CallResult {
    /// Any JSON, at most 256 KiB.
    #[garde(skip)]
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Or why there is none, for the agent.
    #[garde(length(chars, min = 1, max = 4096))]
    #[schema(min_length = 1, max_length = 4096)]
    error: Option<String>,
}

/// A call as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolCall {
    id: Uuid,
    plan_id: Uuid,
    step_id: Uuid,
    /// `pending`, `answered`, `timed_out` or `cancelled`.
    #[schema(example = "answered")]
    status: String,
    /// What is called, with which arguments.
    #[schema(value_type = Object)]
    details: Value,
    /// Until when.
    deadline: Option<chrono::DateTime<chrono::Utc>>,
}

impl From<store::Approval> for ToolCall {
    fn from(call: store::Approval) -> Self {
        Self {
            id: call.id.0,
            plan_id: call.plan_id.0,
            step_id: call.step_id.0,
            status: call.status().to_owned(),
            details: call.payload,
            deadline: call.deadline,
        }
    }
}

/// Calls that wait for a program of yours, the most urgent first, on one page. What comes later is in the feed (`tool_request`).
#[utoipa::path(get, path = "/tool-calls/", operation_id = "list_tool_calls", tag = "tools", responses(
    (status = 200, description = "Open calls", body = Page<ToolCall>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<Page<ToolCall>>, Problem> {
    let mut found = app
        .store
        .open_tool_calls(caller.scope, i64::from(page::LIMIT))
        .await?;
    found.retain(|call| !call.overdue);
    Ok(Json(Page::of(found, page::LIMIT.into(), |_| String::new())))
}

/// One call.
#[utoipa::path(get, path = "/tool-calls/{id}/", operation_id = "get_tool_call", tag = "tools", params(("id" = Uuid, Path, description = "The call")), responses(
    (status = 200, description = "The call", body = ToolCall)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
) -> Result<Json<ToolCall>, Problem> {
    let found = app.store.tool_call(caller.scope, id).await?;
    found
        .map(|call| Json(call.into()))
        .ok_or_else(Problem::not_found)
}

/// Hands in what a call brought; its step goes on in the same transaction. The same result once more gets the same reply.
#[utoipa::path(post, path = "/tool-calls/{id}/result/", operation_id = "put_tool_call_result", tag = "tools", request_body = CallResult,
    params(("id" = Uuid, Path, description = "The call")), responses(
    (status = 200, description = "It was taken", body = ToolCall),
    (status = 409, description = "Another result was taken before, or the call was cancelled", body = ProblemBody, content_type = "application/problem+json"),
    (status = 410, description = "Its time is up", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn result(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
    Json(came): Json<CallResult>,
) -> Result<Json<ToolCall>, Problem> {
    hand_in(&app, caller, id, came).await.map(Json)
}

/// Takes what a call brought.
pub(crate) async fn hand_in(
    app: &App,
    caller: Caller,
    id: WaitId,
    came: CallResult,
) -> Result<ToolCall, Problem> {
    let stored = came.stored()?;
    app.store
        .tool_call(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let taken = app
        .store
        .resolve_wait(caller.scope, id, Decision::Answered, stored.clone())
        .await?;
    let now = app.store.tool_call(caller.scope, id).await?;
    let now = now.ok_or_else(Problem::not_found)?;
    if taken || now.answer.as_ref() == Some(&stored) {
        return Ok(now.into());
    }
    match now.decision {
        None | Some(Decision::TimedOut) => Err(Problem::new(
            Code::TimedOut,
            "the call's time was up before its result came (timed_out)",
        )),
        Some(other) => Err(Problem::new(
            Code::AlreadyDecided,
            format!("the call has ended before ({})", other.as_str()),
        )),
    }
}

impl CallResult {
    /// As the agent will read it.
    fn stored(self) -> Result<Value, Problem> {
        match (self.result, self.error) {
            (Some(result), None) if result.to_string().len() > RESULT_BYTES => Err(Problem::field(
                "/result",
                "too_long",
                "a result has at most 256 KiB",
            )),
            (Some(result), None) => Ok(result),
            (None, Some(error)) => Ok(json!({ "error": error })),
            (None, None) => Err(Problem::field(
                "/result",
                "missing_field",
                "give a result, or an error",
            )),
            (Some(_), Some(_)) => Err(Problem::field(
                "/error",
                "misplaced_field",
                "give a result or an error, not both",
            )),
        }
    }
}
