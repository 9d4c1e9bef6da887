//! Questions to the person: a step waits for each of them, without a lease or a place, until it is decided or its time is up.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header::IF_MATCH},
};
use chrono::{DateTime, Utc};
use engine::{
    id::{PlanId, WaitId},
    store::{self, NewGrant, Reopened, Ruling},
    tool::{
        digest,
        schema::{self, Refusal},
    },
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

/// Bytes of an answer to an agent's question.
const INPUT_BYTES: usize = 64 * 1024;

/// A question.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Approval {
    id: Uuid,
    /// `decision` (a step has failed for good), `outcome_unknown` (nobody knows whether a call happened), `tool` (may a tool be
    /// called?), `plan` (may it be carried out?) or `input` (an agent asks you).
    #[serde(rename = "type")]
    #[schema(example = "decision")]
    kind: String,
    /// `pending`, or how it ended: `approved`, `rejected`, `answered`, `edited`, `timed_out`, `cancelled`, `superseded` (what it was
    /// asked about has changed; a new question came).
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
    /// What is asked, with every control character and every sign that turns the direction of text made visible (`\u{202e}`): for
    /// showing. `details` is what was stored.
    #[schema(value_type = Object)]
    shown: Value,
    /// What an answer is bound to; send it as `If-Match`.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    digest: String,
    /// The answers that it takes.
    #[schema(example = json!(["retry", "edit", "agent", "skip", "accept_partial", "stop"]))]
    choices: Vec<String>,
    /// Until when.
    deadline: Option<DateTime<Utc>>,
    /// When you were told that the deadline is near.
    warned_at: Option<DateTime<Utc>>,
    /// The question that it takes up again.
    reopened_from: Option<Uuid>,
    /// How often it has been taken up; three times at most.
    reopenings: i16,
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
    /// With `approve`, for a tool: other arguments; they have to fit the tool's schema.
    #[garde(skip)]
    #[schema(value_type = Option<Object>)]
    edited_payload: Option<Value>,
    /// With `approve`, for a tool that is not of high risk: consent ahead for further calls.
    #[garde(dive)]
    grant: Option<GrantInput>,
    /// With `answer`: the answer to an agent's question; it has to fit the question's form.
    #[garde(skip)]
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
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
        Self {
            kind: text("type").unwrap_or("input").to_owned(),
            status: approval.status().to_owned(),
            choices: choices(&approval),
            id: approval.id.0,
            plan_id: approval.plan_id.0,
            step_id: approval.step_id.0,
            step_key: approval.step_key,
            session_id: approval.session_id.map(Uuid::from),
            shown: visible(&approval.payload),
            digest: digest_of(&approval.payload),
            details: approval.payload,
            warned_at: approval.warned_at,
            reopened_from: approval.reopened_from.map(Uuid::from),
            reopenings: approval.reopenings,
            deadline: approval.deadline,
            answer: approval.answer.filter(|answer| !answer.is_null()),
            created_at: approval.created_at,
            updated_at: approval.decided_at.unwrap_or(approval.created_at),
        }
    }
}

/// Consent ahead.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct GrantInput {
    /// `exact`: this call again, with these arguments; `tool`: any call of the tool.
    #[serde(rename = "match")]
    #[garde(skip)]
    covers: Covers,
    /// How many calls.
    #[garde(range(min = 1, max = 100))]
    #[schema(minimum = 1, maximum = 100)]
    uses: i32,
    /// For how long.
    #[garde(range(min = 1, max = 86_400))]
    #[schema(minimum = 1, maximum = 86_400)]
    for_seconds: i64,
}

/// What a grant covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Covers {
    /// The same call: tool, version, arguments.
    Exact,
    /// Any call of this version of the tool.
    Tool,
}

fn digest_of(payload: &Value) -> String {
    match payload.get("digest").and_then(Value::as_str) {
        Some(digest) => digest.to_owned(),
        None => digest::of(payload),
    }
}

/// The same with what cannot be seen, or turns text around, written out.
fn visible(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(written_out(text)),
        Value::Array(items) => items.iter().map(visible).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| (written_out(name), visible(value));
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn written_out(text: &str) -> String {
    let hidden = |letter: char| {
        (letter.is_control() && letter != '\n')
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}'
                | '\u{061c}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().fold(String::new(), |mut shown, letter| {
        if hidden(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
        shown
    })
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
    (status = 409, description = "It was decided otherwise, or what it was asked about has changed", body = ProblemBody, content_type = "application/problem+json"),
    (status = 410, description = "Its time is up", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn confirm(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
    headers: HeaderMap,
    Json(answer): Json<Answer>,
) -> Result<Json<Approval>, Problem> {
    let if_match = headers.get(IF_MATCH).map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.trim().trim_matches('"').to_owned()
    });
    settle(&app, caller, id, if_match.as_deref(), &answer)
        .await
        .map(Json)
}

/// Decides one question.
pub(crate) async fn settle(
    app: &App,
    caller: Caller,
    id: WaitId,
    if_match: Option<&str>,
    answer: &Answer,
) -> Result<Approval, Problem> {
    let asked = app
        .store
        .approval(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    if if_match.is_some_and(|digest| digest != "*" && digest != digest_of(&asked.payload)) {
        return Err(Problem::new(
            Code::PreconditionFailed,
            "If-Match names another digest: what is asked is not what you have seen; read it again",
        ));
    }
    let (decision, stored) = decision(app, caller, &asked, answer).await?;
    let by = json!({ "token_expires_at": caller.expires_at });
    let ruling = Ruling {
        decision,
        answer: stored,
        by,
        grant: answer.grant.as_ref().map(|grant| grant.of(&asked, answer)),
    };
    let decided = app.store.decide(caller.scope, id, &ruling).await? == Some(decision);
    let stored = ruling.answer;
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
        return Ok(now.into());
    }
    match now.decision {
        Some(Decision::TimedOut) | None => Err(gone()),
        Some(Decision::Superseded) => Err(Problem::new(
            Code::AlreadyDecided,
            "the tool or the agent is not what it was: a new question comes (superseded)",
        )),
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
pub(crate) async fn decision(
    app: &App,
    caller: Caller,
    asked: &store::Approval,
    answer: &Answer,
) -> Result<(Decision, Value), Problem> {
    let choices = choices(asked);
    let choice = match (&answer.choice, &answer.decision) {
        (Some(choice), None) | (None, Some(choice)) if choices.contains(choice) => choice.as_str(),
        (Some(_), Some(_)) => {
            return Err(Problem::field(
                "/decision",
                "misplaced_field",
                "give a choice or a decision, not both",
            ));
        }
        (None, None) => {
            let detail = format!("one of {choices:?} is needed");
            return Err(Problem::field("/choice", "missing_field", &detail));
        }
        (choice, _) => {
            let field = if choice.is_some() {
                "/choice"
            } else {
                "/decision"
            };
            let detail = format!("it must be one of {choices:?}");
            return Err(Problem::field(field, "unknown_choice", &detail));
        }
    };
    misplaced(choice, asked, answer)?;
    let mut kept = Map::from_iter([("choice".to_owned(), json!(choice))]);
    for (field, value) in [("note", &answer.note), ("result", &answer.result)] {
        if let Some(value) = value {
            kept.insert(field.to_owned(), json!(value));
        }
    }
    if let Some(arguments) = &answer.edited_payload {
        fits(app, caller, asked, arguments).await?;
        kept.insert("arguments".to_owned(), arguments.clone());
    }
    if let Some(input) = input(choice, asked, answer)? {
        kept.insert("input".to_owned(), input);
    }
    if let Some(patch) = patch(app, caller, choice, answer).await? {
        kept.insert("patch".to_owned(), patch);
    }
    let decision = match choice {
        "approve" if answer.edited_payload.is_some() => Decision::Edited,
        "approve" => Decision::Approved,
        "reject" => Decision::Rejected,
        "edit" | "agent" => Decision::Edited,
        _ => Decision::Answered,
    };
    Ok((decision, Value::Object(kept)))
}

/// Fields that do not go with the choice.
fn misplaced(choice: &str, asked: &store::Approval, answer: &Answer) -> Result<(), Problem> {
    let about = |field: &str| asked.payload.get(field).and_then(Value::as_str);
    let stray = |field: &str, only: &str| {
        let detail = format!("this field goes with {only}");
        Err(Problem::field(
            format!("/{field}"),
            "misplaced_field",
            &detail,
        ))
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
    if answer.input.is_some() && choice != "answer" {
        return stray("input", "answer");
    }
    let approves_a_tool = choice == "approve" && about("type") == Some("tool");
    if answer.edited_payload.is_some() && !approves_a_tool {
        return stray("edited_payload", "the approval of a tool");
    }
    if answer.grant.is_some() && !approves_a_tool {
        return stray("grant", "the approval of a tool");
    }
    if answer.grant.is_some() && about("risk") == Some("high") {
        let detail = "a tool of high risk is approved call by call";
        return Err(Problem::field("/grant", "high_risk", detail));
    }
    Ok(())
}

/// Whether other arguments fit the tool as it is now.
async fn fits(
    app: &App,
    caller: Caller,
    asked: &store::Approval,
    arguments: &Value,
) -> Result<(), Problem> {
    if !arguments.is_object() {
        return Err(Problem::field(
            "/edited_payload",
            "wrong_type",
            "arguments are an object",
        ));
    }
    let name = asked.payload.get("tool").and_then(Value::as_str);
    let tool = app
        .store
        .tool(caller.scope, name.unwrap_or_default())
        .await?;
    let Some(tool) = tool else {
        return Err(Problem::field(
            "/edited_payload",
            "no_tool",
            "the tool is not there any more",
        ));
    };
    misfits("/edited_payload", &tool.input_schema, arguments)
}

/// The answer to an agent's question.
fn input(choice: &str, asked: &store::Approval, answer: &Answer) -> Result<Option<Value>, Problem> {
    if choice != "answer" {
        return Ok(None);
    }
    let Some(input) = &answer.input else {
        return Err(Problem::field(
            "/input",
            "missing_field",
            "an answer needs an input",
        ));
    };
    if input.to_string().len() > INPUT_BYTES {
        return Err(Problem::field(
            "/input",
            "too_long",
            "an answer has at most 64 KiB",
        ));
    }
    match asked.payload.get("schema").filter(|form| !form.is_null()) {
        Some(form) => misfits("/input", form, input)?,
        None if input.is_string() => {}
        None => {
            return Err(Problem::field(
                "/input",
                "wrong_type",
                "this question takes a text",
            ));
        }
    }
    Ok(Some(input.clone()))
}

/// Every place where a value does not fit its schema.
pub(crate) fn misfits(pointer: &str, schema: &Value, value: &Value) -> Result<(), Problem> {
    match schema::check(schema, value) {
        Ok(()) => Ok(()),
        Err(Refusal::Schema(why)) => Err(Problem::field(pointer, "no_schema", &why)),
        Err(Refusal::Value(misfits)) => {
            let error = |misfit: schema::Misfit| {
                let at = format!("{pointer}{}", misfit.pointer);
                FieldError::body(at, "misfit", misfit.message)
            };
            Err(Problem::invalid(misfits.into_iter().map(error).collect()))
        }
    }
}

impl GrantInput {
    /// The exact call is the one that is approved: with the person's arguments, where they were changed.
    fn of(&self, asked: &store::Approval, answer: &Answer) -> NewGrant {
        let exact = || match &answer.edited_payload {
            Some(arguments) => {
                let field = |name: &str| asked.payload.get(name);
                let tool = field("tool").and_then(Value::as_str).unwrap_or_default();
                let version = field("tool_version").and_then(Value::as_i64);
                let version = version.and_then(|version| i32::try_from(version).ok());
                digest::of_call(tool, version.unwrap_or_default(), arguments)
            }
            None => digest_of(&asked.payload),
        };
        NewGrant {
            digest: (self.covers == Covers::Exact).then(exact),
            uses: self.uses,
            lasts: Duration::from_secs(self.for_seconds.unsigned_abs()),
        }
    }
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
                return Err(Problem::field(
                    "/prompt",
                    "missing_field",
                    "edit needs a prompt",
                ));
            };
            Ok(Some(json!({ "prompt": prompt })))
        }
        "agent" => {
            let Some(name) = &answer.agent else {
                return Err(Problem::field(
                    "/agent",
                    "missing_field",
                    "agent needs an agent",
                ));
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
        Problem::field(
            "/agent",
            "unknown_agent",
            "you have no agent of this name or id",
        )
    })
}

/// Takes a question up again that got a no, or no answer in time: its step waits for you once more, and what was skipped because
/// of it comes back. Three times at most, ten seconds apart, and only while tool and agent are what they were.
#[utoipa::path(post, path = "/approvals/{id}/reopen/", operation_id = "reopen_approval", tag = "approvals",
    params(("id" = Uuid, Path, description = "The question")), responses(
    (status = 201, description = "The new question", body = Approval),
    (status = 409, description = "It cannot be taken up again; for a tool or agent that has changed the errors say how", body = ProblemBody,
        content_type = "application/problem+json"),
    (status = 429, description = "Ten seconds have not passed", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn reopen(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
) -> Result<(StatusCode, Json<Approval>), Problem> {
    let refuse = |detail: &str| Err(Problem::new(Code::CannotReopen, detail));
    let new = match app.store.reopen(caller.scope, id).await? {
        Reopened::As(new) => new,
        Reopened::Gone => return Err(Problem::not_found()),
        Reopened::TooSoon => {
            let problem = Problem::new(
                Code::TooSoon,
                "ten seconds have to pass before it is taken up again",
            );
            return Err(problem.retry_after(10));
        }
        Reopened::Changed(difference) => {
            return refuse(&format!(
                "what it was asked about has changed: {difference}"
            ));
        }
        Reopened::Refused(why) => {
            return refuse(match why.as_str() {
                "open" => "it is still open: answer it",
                "again" => "it was taken up again before; see the newer question",
                "too_often" => "it was taken up three times already",
                "busy" => "its step is at work",
                "child" => "its step was made by another one, which has taken note of the answer",
                "cancelled" => "its plan was cancelled",
                _ => "it was not declined",
            });
        }
    };
    let approval = app.store.approval(caller.scope, new).await?;
    let approval = approval.ok_or_else(Problem::not_found)?;
    Ok((StatusCode::CREATED, Json(approval.into())))
}

/// Something that happened to a question.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Happening {
    /// When.
    at: DateTime<Utc>,
    /// `asked`, `warned`, how it was decided, `called`, `came_back`, `reopened`.
    #[schema(example = "approved")]
    what: String,
    /// What belongs to it: the answer and who gave it, the call and its result.
    #[schema(value_type = Option<Object>)]
    with: Option<Value>,
}

/// What happened to a question.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    id: Uuid,
    /// What an answer was bound to.
    digest: String,
    items: Vec<Happening>,
}

/// What happened to a question: when it was asked, decided and by whom, and what was called because of it.
#[utoipa::path(get, path = "/approvals/{id}/history/", operation_id = "get_approval_history", tag = "approvals",
    params(("id" = Uuid, Path, description = "The question")), responses(
    (status = 200, description = "In the order of time", body = History)))]
pub(crate) async fn history(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WaitId>,
) -> Result<Json<History>, Problem> {
    let found = app.store.approval(caller.scope, id).await?;
    let approval = found.ok_or_else(Problem::not_found)?;
    let happening = |at, what: &str, with| Happening {
        at,
        what: what.to_owned(),
        with,
    };
    let from = approval
        .reopened_from
        .map(|from| json!({ "reopened_from": from }));
    let mut items = vec![happening(approval.created_at, "asked", from)];
    if let Some(at) = approval.warned_at {
        items.push(happening(at, "warned", None));
    }
    if let (Some(at), Some(decision)) = (approval.decided_at, approval.decision) {
        let with = json!({ "answer": approval.answer, "by": approval.decided_by });
        items.push(happening(at, decision.as_str(), Some(with)));
    }
    if let Some(call) = app.store.executed(caller.scope, id).await? {
        let instant = |field: &str| {
            let text = call.get(field)?.as_str()?;
            DateTime::parse_from_rfc3339(text)
                .ok()
                .map(DateTime::<Utc>::from)
        };
        if let Some(at) = instant("created_at") {
            items.push(happening(at, "called", call.get("request").cloned()));
        }
        if let Some(at) = instant("done_at") {
            items.push(happening(at, "came_back", call.get("result").cloned()));
        }
    }
    Ok(Json(History {
        id: id.0,
        digest: digest_of(&approval.payload),
        items,
    }))
}
