//! Questions to the person: a step waits for each of them, without a lease or a place, until it is decided or its time is up.

use axum::extract::State;
use chrono::{DateTime, Utc};
use engine::{
    id::{PlanId, WaitId},
    store,
    wait::Decision,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    my::messages::says_something,
    page::{self, Page},
    problem::{Code, FieldError, Problem, ProblemBody},
};

/// A question.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Approval {
    id: Uuid,
    /// `decision` (a step has failed for good), `outcome_unknown` (nobody knows whether a call happened), or `tool` (may a tool be
    /// called?).
    #[serde(rename = "type")]
    #[schema(example = "decision")]
    kind: String,
    /// `pending`, or how it ended: `approved`, `rejected`, `answered`, `edited`, `timed_out`, `cancelled`.
    #[schema(example = "pending")]
    status: String,
    plan_id: Uuid,
    step_id: Uuid,
    /// Name of the step.
    step_key: String,
    session_id: Option<Uuid>,
    /// What it is about, as it is stored: the error, or the tool with its arguments.
    #[schema(value_type = Object)]
    details: Value,
    /// The answers that it takes.
    #[schema(example = json!(["retry", "edit", "agent", "skip", "accept_partial", "stop"]))]
    choices: Vec<String>,
    /// Until when.
    deadline: Option<DateTime<Utc>>,
    /// What was answered.
    #[schema(value_type = Option<Object>)]
    answer: Option<Value>,
    created_at: DateTime<Utc>,
    /// When it was decided, else when it was asked.
    updated_at: DateTime<Utc>,
}

/// Which questions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApprovalQuery {
    /// `pending`: only those that can be decided, the most urgent first, on one page. Absent: all, newest first.
    status: Option<String>,
    /// Most items to give; 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// An answer.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Answer {
    /// One of the question's choices.
    #[garde(skip)]
    #[schema(example = "retry")]
    choice: Option<String>,
    /// The same for a question about a tool: `approve` or `reject`.
    #[garde(skip)]
    #[schema(example = "approve")]
    decision: Option<String>,
    /// With `edit`: what the agent is asked now.
    #[garde(inner(custom(says_something)), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    prompt: Option<String>,
    /// With `agent`: name or id of the agent that does it now.
    #[garde(skip)]
    agent: Option<String>,
    /// With `done`: what the call brought, as far as you know.
    #[garde(length(chars, max = 32_768))]
    #[schema(max_length = 32768)]
    result: Option<String>,
    /// A word to the agent.
    #[garde(length(chars, max = 4096))]
    #[schema(max_length = 4096)]
    note: Option<String>,
}

impl From<store::Approval> for Approval {
    fn from(approval: store::Approval) -> Self {
        let text = |field: &str| approval.payload.get(field).and_then(Value::as_str);
        let status = match approval.decision {
            None if approval.overdue => Decision::TimedOut.as_str(),
            None => "pending",
            Some(decision) => decision.as_str(),
        };
        Self {
            kind: text("type").unwrap_or("input").to_owned(),
            status: status.to_owned(),
            choices: choices(&approval),
            id: approval.id.0,
            plan_id: approval.plan_id.0,
            step_id: approval.step_id.0,
            step_key: approval.step_key,
            session_id: approval.session_id.map(Uuid::from),
            details: approval.payload,
            deadline: approval.deadline,
            answer: approval.answer.filter(|answer| !answer.is_null()),
            created_at: approval.created_at,
            updated_at: approval.decided_at.unwrap_or(approval.created_at),
        }
    }
}

fn choices(approval: &store::Approval) -> Vec<String> {
    let choices = approval.payload.get("choices").and_then(Value::as_array);
    let texts = choices.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Questions to you.
#[utoipa::path(get, path = "/approvals/", operation_id = "list_approvals", tag = "approvals", params(ApprovalQuery), responses(
    (status = 200, description = "A page of questions", body = Page<Approval>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ApprovalQuery>,
) -> Result<Json<Page<Approval>>, Problem> {
    let page = page::PageQuery::new(query.limit, query.cursor);
    let limit = page.limit()?;
    let cursor = page.cursor()?;
    match query.status.as_deref() {
        None => {
            let found = app
                .store
                .approvals(caller.scope, cursor, page::rows(limit))
                .await?;
            Ok(Json(Page::of(found, limit, |last| {
                last.id.0.simple().to_string()
            })))
        }
        Some("pending") => {
            let mut found = app
                .store
                .open_approvals(caller.scope, i64::from(page::LIMIT))
                .await?;
            found.retain(|approval| !approval.overdue);
            found.truncate(limit);
            Ok(Json(Page::of(found, limit, |_| String::new())))
        }
        Some(_) => Err(Problem::query(
            "status",
            "unknown_value",
            "status is pending or absent",
        )),
    }
}

/// One question.
#[utoipa::path(get, path = "/approvals/{id}/", operation_id = "get_approval", tag = "approvals", params(("id" = Uuid, Path, description = "The question")), responses(
    (status = 200, description = "The question", body = Approval)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
) -> Result<Json<Approval>, Problem> {
    let found = app.store.approval(caller.scope, id).await?;
    found
        .map(|approval| Json(approval.into()))
        .ok_or_else(Problem::not_found)
}

/// Decides. The step wakes in the same transaction.
///
/// The same answer once more gets the same reply; another answer is too late (409), and so is any after the deadline (410).
#[utoipa::path(post, path = "/approvals/{id}/confirm/", operation_id = "confirm_approval", tag = "approvals", request_body = Answer,
    params(("id" = Uuid, Path, description = "The question")), responses(
    (status = 200, description = "It is decided so", body = Approval),
    (status = 409, description = "It was decided otherwise", body = ProblemBody, content_type = "application/problem+json"),
    (status = 410, description = "Its time is up", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn confirm(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
    Json(answer): Json<Answer>,
) -> Result<Json<Approval>, Problem> {
    let asked = app
        .store
        .approval(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let (decision, stored) = decision(&app, caller, &asked, &answer).await?;
    let decided = app
        .store
        .resolve_wait(caller.scope, id, decision, stored.clone())
        .await?;
    if decided && stored["choice"] == "stop" {
        app.store
            .cancel_plan(caller.scope, PlanId(asked.plan_id.0))
            .await?;
    }
    let now = app
        .store
        .approval(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    if decided || (now.decision == Some(decision) && now.answer.as_ref() == Some(&stored)) {
        return Ok(Json(now.into()));
    }
    match now.decision {
        Some(Decision::TimedOut) | None => Err(gone()),
        Some(other) => Err(Problem::new(
            Code::AlreadyDecided,
            format!("it was decided before ({})", other.as_str()),
        )),
    }
}

fn gone() -> Problem {
    Problem::new(
        Code::TimedOut,
        "its time was up before an answer came (timed_out)",
    )
}

/// What an answer means, and how it is kept.
async fn decision(
    app: &App,
    caller: Caller,
    asked: &store::Approval,
    answer: &Answer,
) -> Result<(Decision, Value), Problem> {
    let choices = choices(asked);
    let choice = match (&answer.choice, &answer.decision) {
        (Some(choice), None) | (None, Some(choice)) if choices.contains(choice) => choice.as_str(),
        (Some(_), Some(_)) => {
            return Err(wrong(
                "/decision",
                "misplaced_field",
                "give a choice or a decision, not both",
            ));
        }
        (None, None) => {
            let detail = format!("one of {choices:?} is needed");
            return Err(wrong("/choice", "missing_field", &detail));
        }
        (choice, _) => {
            let field = if choice.is_some() {
                "/choice"
            } else {
                "/decision"
            };
            let detail = format!("it must be one of {choices:?}");
            return Err(wrong(field, "unknown_choice", &detail));
        }
    };
    misplaced(choice, answer)?;
    let mut kept = Map::from_iter([("choice".to_owned(), json!(choice))]);
    for (field, value) in [("note", &answer.note), ("result", &answer.result)] {
        if let Some(value) = value {
            kept.insert(field.to_owned(), json!(value));
        }
    }
    if let Some(patch) = patch(app, caller, choice, answer).await? {
        kept.insert("patch".to_owned(), patch);
    }
    let decision = match choice {
        "approve" => Decision::Approved,
        "reject" => Decision::Rejected,
        "edit" | "agent" => Decision::Edited,
        _ => Decision::Answered,
    };
    Ok((decision, Value::Object(kept)))
}

/// Fields that do not go with the choice.
fn misplaced(choice: &str, answer: &Answer) -> Result<(), Problem> {
    let stray = |field: &str, only: &str| {
        let detail = format!("this field goes with {only}");
        Err(wrong(&format!("/{field}"), "misplaced_field", &detail))
    };
    if answer.prompt.is_some() && !matches!(choice, "edit" | "agent") {
        return stray("prompt", "edit or agent");
    }
    if answer.agent.is_some() && choice != "agent" {
        return stray("agent", "agent");
    }
    if answer.result.is_some() && choice != "done" {
        return stray("result", "done");
    }
    Ok(())
}

/// What the step shall run on with.
async fn patch(
    app: &App,
    caller: Caller,
    choice: &str,
    answer: &Answer,
) -> Result<Option<Value>, Problem> {
    match choice {
        "edit" => {
            let Some(prompt) = &answer.prompt else {
                return Err(wrong("/prompt", "missing_field", "edit needs a prompt"));
            };
            Ok(Some(json!({ "prompt": prompt })))
        }
        "agent" => {
            let Some(name) = &answer.agent else {
                return Err(wrong("/agent", "missing_field", "agent needs an agent"));
            };
            let id = agent_id(app, caller, name).await?;
            let mut patch = json!({ "agent_id": id });
            if let Some(prompt) = &answer.prompt {
                patch["prompt"] = json!(prompt);
            }
            Ok(Some(patch))
        }
        _ => Ok(None),
    }
}

/// An agent named in a field `agent`.
pub(crate) async fn agent_id(
    app: &App,
    caller: Caller,
    name: &str,
) -> Result<engine::id::AgentId, Problem> {
    let found = app
        .store
        .resolve_agents(caller.scope, &[name.to_owned()])
        .await?;
    found.into_iter().next().flatten().ok_or_else(|| {
        wrong(
            "/agent",
            "unknown_agent",
            "you have no agent of this name or id",
        )
    })
}

fn wrong(pointer: &str, code: &str, detail: &str) -> Problem {
    Problem::invalid(vec![FieldError::body(pointer, code, detail)])
}
