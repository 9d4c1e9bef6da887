//! Tools: what your agents may call.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use chrono::{DateTime, Utc};
use engine::{
    store::NewTool,
    tool::{self, ASK_USER, Consent, DELEGATE, Effect, Executor, Risk},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    page::{self, Page, PageQuery},
    problem::{Problem, ProblemBody},
};

/// Bytes of a schema as JSON text.
const SCHEMA_BYTES: usize = 64 * 1024;
/// Levels of a schema.
const SCHEMA_DEPTH: usize = 32;

/// A tool as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tool {
    /// Unique among your tools.
    name: String,
    /// Counts changes, from 1; a consent holds for one version.
    version: i32,
    /// What it does, for the model.
    description: String,
    /// JSON Schema of its arguments.
    #[schema(value_type = Object)]
    input_schema: Value,
    /// What carries it out.
    #[schema(value_type = Object, example = json!({"kind": "http", "url": "https://example.com/search"}))]
    executor: Executor,
    /// `read`, `idempotent`, `reversible` or `irreversible`: what a call does to the world.
    #[schema(value_type = String, example = "read")]
    effect: Effect,
    /// `low`, `medium` or `high`: how bad a wrong call is.
    #[schema(value_type = String, example = "low")]
    risk: Risk,
    /// `auto`, or `ask`: you approve each call, where no rule of yours says otherwise.
    #[schema(value_type = String, example = "auto")]
    consent: Consent,
    timeout_seconds: i16,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A tool to make, or to put in another's place.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct ToolInput {
    /// 1 to 64 of a-z, 0-9 and _, beginning with a letter. A tool keeps its name: in a replacement it is absent or the same.
    #[garde(inner(custom(is_tool_name)))]
    #[schema(pattern = "^[a-z][a-z0-9_]{0,63}$", example = "search")]
    name: Option<String>,
    /// What it does, for the model.
    #[serde(default)]
    #[garde(length(chars, max = 2000))]
    #[schema(max_length = 2000)]
    description: String,
    /// JSON Schema of its arguments, an object; at most 64 KiB, and without references to elsewhere.
    #[serde(default = "any_object")]
    #[garde(custom(is_schema))]
    #[schema(value_type = Object)]
    input_schema: Value,
    /// What carries it out: `{"kind": "http", "url"}`, a POST of the arguments; or `{"kind": "client"}`, a program of yours that
    /// hears `tool_request` in the feed and posts the result to `/my/tool-calls/{call_id}/result/`.
    #[garde(custom(is_executor))]
    #[schema(value_type = Object, example = json!({"kind": "http", "url": "https://example.com/search"}))]
    executor: Executor,
    /// `read`, `idempotent`, `reversible` or `irreversible` (the default: the most careful).
    #[serde(default = "irreversible")]
    #[garde(skip)]
    #[schema(value_type = String, example = "read")]
    effect: Effect,
    /// `low`, `medium` or `high`; by default what the effect suggests.
    #[garde(skip)]
    #[schema(value_type = Option<String>, example = "low")]
    risk: Option<Risk>,
    /// `auto` or `ask`; by default what only reads is called, and everything else asks.
    #[garde(skip)]
    #[schema(value_type = Option<String>, example = "ask")]
    consent: Option<Consent>,
    /// Longest call.
    #[serde(default = "half_a_minute")]
    #[garde(range(min = 1, max = 300))]
    #[schema(minimum = 1, maximum = 300, default = 30)]
    timeout_seconds: i16,
}

fn any_object() -> Value {
    json!({ "type": "object" })
}

fn irreversible() -> Effect {
    Effect::Irreversible
}

fn half_a_minute() -> i16 {
    30
}

/// Whether a text may name a tool.
pub(crate) fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= 64
}

fn is_tool_name<C>(name: &str, _: &C) -> garde::Result {
    if [DELEGATE, ASK_USER].contains(&name) {
        return Err(garde::Error::new("this name belongs to a builtin tool"));
    }
    if is_name(name) {
        return Ok(());
    }
    Err(garde::Error::new(
        "use 1 to 64 of a-z, 0-9 and _, beginning with a letter",
    ))
}

fn is_schema<C>(schema: &Value, _: &C) -> garde::Result {
    if !schema.is_object() {
        return Err(garde::Error::new("a schema is an object"));
    }
    if schema.to_string().len() > SCHEMA_BYTES {
        return Err(garde::Error::new("the schema is longer than 64 KiB"));
    }
    if schema.get("type").is_some_and(|kind| kind != "object") {
        return Err(garde::Error::new(
            "arguments are an object: type must be object",
        ));
    }
    if deeper(schema, SCHEMA_DEPTH) {
        return Err(garde::Error::new("the schema has more than 32 levels"));
    }
    if refers_elsewhere(schema) {
        return Err(garde::Error::new(
            "$ref may only point into the schema itself: begin it with #",
        ));
    }
    Ok(())
}

fn deeper(value: &Value, levels: usize) -> bool {
    let Some(rest) = levels.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| deeper(item, rest)),
        Value::Object(fields) => fields.values().any(|field| deeper(field, rest)),
        _ => false,
    }
}

/// Depth is bounded by [`deeper`] before.
fn refers_elsewhere(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(refers_elsewhere),
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            let reference = matches!(name.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef");
            (reference && field.as_str().is_some_and(|to| !to.starts_with('#')))
                || refers_elsewhere(field)
        }),
        _ => false,
    }
}

fn is_executor<C>(executor: &Executor, _: &C) -> garde::Result {
    let Executor::Http { url } = executor else {
        return Ok(());
    };
    let plain = !url
        .chars()
        .any(|letter| letter.is_whitespace() || letter.is_control());
    let http = url.starts_with("https://") || url.starts_with("http://");
    // Where it leads is checked when it is called, against what the name stands for then.
    if plain && http && url.len() <= 2000 {
        return Ok(());
    }
    Err(garde::Error::new(
        "url must be an http(s) address without spaces, in at most 2,000 bytes",
    ))
}

impl ToolInput {
    fn named(self, name: String) -> NewTool {
        NewTool {
            name,
            description: self.description,
            input_schema: self.input_schema,
            executor: self.executor,
            effect: self.effect,
            risk: self.risk.unwrap_or_else(|| Risk::of(self.effect)),
            consent: self.consent.unwrap_or(match self.effect {
                Effect::Read => Consent::Auto,
                Effect::Idempotent | Effect::Reversible | Effect::Irreversible => Consent::Ask,
            }),
            timeout_seconds: self.timeout_seconds,
        }
    }
}

impl From<tool::Tool> for Tool {
    fn from(tool: tool::Tool) -> Self {
        Self {
            name: tool.name,
            version: tool.version,
            description: tool.description,
            input_schema: tool.input_schema,
            executor: tool.executor,
            effect: tool.effect,
            risk: tool.risk,
            consent: tool.consent,
            timeout_seconds: tool.timeout_seconds,
            created_at: tool.created_at,
            updated_at: tool.updated_at,
        }
    }
}

/// A new tool.
#[utoipa::path(post, path = "/tools/", operation_id = "create_tool", tag = "tools", request_body = ToolInput, responses(
    (status = 201, description = "The tool", body = Tool, headers(("Location" = String, description = "Where it is"))),
    (status = 409, description = "A tool of yours has this name", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(mut input): Json<ToolInput>,
) -> Result<impl IntoResponse, Problem> {
    let Some(name) = input.name.take() else {
        return Err(wrong_name("missing_field", "a tool has a name"));
    };
    let tool = app
        .store
        .create_tool(caller.scope, &input.named(name))
        .await?;
    let location = format!("/my/tools/{}/", tool.name);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Tool::from(tool)),
    ))
}

/// Your tools, by name.
#[utoipa::path(get, path = "/tools/", operation_id = "list_tools", tag = "tools", params(PageQuery), responses(
    (status = 200, description = "A page of tools", body = Page<Tool>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Tool>>, Problem> {
    let limit = page.limit()?;
    let after: Option<String> = page.cursor()?;
    if after.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(Problem::query(
            "cursor",
            "bad_cursor",
            "this is not a next_cursor of this list",
        ));
    }
    let found = app
        .store
        .tools(caller.scope, after.as_deref(), page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |tool| tool.name.clone())))
}

/// One tool.
#[utoipa::path(get, path = "/tools/{name}/", operation_id = "get_tool", tag = "tools", params(("name" = String, Path, description = "The tool")), responses(
    (status = 200, description = "The tool", body = Tool)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Tool>, Problem> {
    let found = app.store.tool(caller.scope, known(&name)?).await?;
    found
        .map(|tool| Json(tool.into()))
        .ok_or_else(Problem::not_found)
}

/// Puts another tool in its place, under the same name.
#[utoipa::path(put, path = "/tools/{name}/", operation_id = "replace_tool", tag = "tools", request_body = ToolInput,
    params(("name" = String, Path, description = "The tool")), responses(
    (status = 200, description = "The tool in its new version", body = Tool)))]
pub(crate) async fn replace(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(input): Json<ToolInput>,
) -> Result<Json<Tool>, Problem> {
    let name = known(&name)?.to_owned();
    if input.name.as_ref().is_some_and(|other| *other != name) {
        let detail = "a tool keeps its name; leave the field out";
        return Err(wrong_name("unchangeable", detail));
    }
    let replaced = app
        .store
        .replace_tool(caller.scope, &input.named(name))
        .await?;
    replaced
        .map(|tool| Json(tool.into()))
        .ok_or_else(Problem::not_found)
}

fn wrong_name(code: &str, detail: &str) -> Problem {
    Problem::field("/name", code, detail)
}

/// Removes a tool. Agents that name it go on without.
#[utoipa::path(delete, path = "/tools/{name}/", operation_id = "delete_tool", tag = "tools", params(("name" = String, Path, description = "The tool")), responses(
    (status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    if app.store.delete_tool(caller.scope, known(&name)?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found())
    }
}

/// What can be no tool's name is not there.
fn known(name: &str) -> Result<&str, Problem> {
    if is_name(name) {
        Ok(name)
    } else {
        Err(Problem::not_found())
    }
}
