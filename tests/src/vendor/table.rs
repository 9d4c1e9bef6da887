//! The table of behaviours.

use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::play::Act;
use super::{GOOD, Request};

/// What the server does with a call.
pub(super) enum Reply {
    /// Answers at once.
    Whole(Response),
    /// Answers by and by.
    Stream(Vec<Act>),
    /// Never answers.
    Silence,
}

/// Looks the model up. `first` is true at the model's first call.
pub(super) fn reply(request: &Request, first: bool, authorization: &str) -> Reply {
    match request.model.as_str() {
        "rate-once" | "cut-once" if !first => Reply::Stream(good(GOOD)),
        "no-headers" => Reply::Silence,
        model => match stream(model, request) {
            Some(acts) => Reply::Stream(acts),
            None => Reply::Whole(whole(model, authorization)),
        },
    }
}

fn stream(model: &str, request: &Request) -> Option<Vec<Act>> {
    complete(model, request)
        .or_else(|| failing(model))
        .or_else(|| unending(model))
}

/// Streams with a proper end.
fn complete(model: &str, request: &Request) -> Option<Vec<Act>> {
    let refusal = || event(&json!({"choices": [{"delta": {"refusal": "I will not."}}]}));
    let comment = |_| [raw(": still here\n\n".to_owned()), gap()];
    let piece = |number: usize| [gap(), delta(&format!("{number} "))];
    Some(match model {
        "good" => good(GOOD),
        "plan" => good(&plan(request).unwrap_or_else(|| GOOD.to_owned())),
        "planjunk-then-plan" => good(&repaired(request).unwrap_or_else(junk)),
        "planjunk" => good(&junk()),
        "no-done" => [words(GOOD), vec![finish("stop")]].concat(),
        "foreign-finish" => [words(GOOD), vec![finish("eos_token"), usage(), done()]].concat(),
        "tool-noise" => [vec![tool_noise()], good(GOOD)].concat(),
        "tool-calls" => vec![tool_noise(), finish("tool_calls"), done()],
        "refuse" => vec![refusal(), finish("stop"), done()],
        "filtered" => [some(2), vec![finish("content_filter"), done()]].concat(),
        "keep-alive" => [(0..20).flat_map(comment).collect(), good(GOOD)].concat(),
        "slow" => [
            (0..20).flat_map(piece).collect(),
            vec![finish("stop"), usage(), done()],
        ]
        .concat(),
        _ => return None,
    })
}

/// Streams that break off or break the rules.
fn failing(model: &str) -> Option<Vec<Act>> {
    let overloaded = json!({"error": {"message": "overloaded", "type": "overloaded_error"}});
    let no_money = json!({"error": {"message": "no money", "code": "insufficient_quota"}});
    let rest = match model {
        "cut" | "cut-once" => vec![gap(), Act::Cut],
        "eof" => vec![],
        "eof-done" => vec![done()],
        "broken-json" => vec![send("{\"choices\":[{\"delta\":"), finish("stop")],
        "mid-error" => vec![event(&overloaded)],
        "mid-quota" => vec![event(&no_money)],
        _ => return None,
    };
    Some([some(2), rest].concat())
}

/// Streams that the client has to end.
fn unending(model: &str) -> Option<Vec<Act>> {
    let endless = || {
        format!(
            "data: {}\n\n",
            chunk(&json!({"content": "on and on ".repeat(100)}))
        )
    };
    Some(match model {
        "open-end" => [words(GOOD), vec![finish("stop"), Act::Stall]].concat(),
        "stall" => [some(1), vec![Act::Stall]].concat(),
        "silent" => vec![Act::Stall],
        "huge-line" => vec![raw("data: ".to_owned()), many("x".repeat(60_000), 10_000)],
        "endless" => vec![many(endless(), usize::MAX)],
        _ => return None,
    })
}

fn whole(model: &str, authorization: &str) -> Response {
    let slow_down = || error(429, "rate_limit_exceeded", "slow down");
    match model {
        "rate-once" | "rate-always" => (retry_after("1"), slow_down()).into_response(),
        "rate-date" => (retry_after(&in_half_a_minute()), slow_down()).into_response(),
        "quota" => error(429, "insufficient_quota", "you exceeded your current quota"),
        "no-credit" => error(402, "payment_required", "no credit"),
        "html-502" => (StatusCode::BAD_GATEWAY, page()).into_response(),
        "overloaded-529" => error(529, "overloaded_error", "overloaded"),
        "busy-503" => (retry_after("2"), error(503, "unavailable", "busy")).into_response(),
        "echo-key" => error(
            401,
            "invalid_api_key",
            &format!("not accepted: Authorization: {authorization}"),
        ),
        "redirect" => (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, "/elsewhere")],
        )
            .into_response(),
        "json-error" => error(200, "overloaded_error", "overloaded"),
        "web-page" => page(),
        other => match other
            .strip_prefix("status-")
            .and_then(|code| code.parse().ok())
        {
            Some(status) => error(status, "some_code", "as you wished"),
            None => error(
                404,
                "model_not_found",
                &format!("the model `{model}` does not exist"),
            ),
        },
    }
}

fn page() -> Response {
    let html = "<html><body><h1>Something</h1></body></html>";
    ([(header::CONTENT_TYPE, "text/html")], html).into_response()
}

fn in_half_a_minute() -> String {
    (Utc::now() + TimeDelta::seconds(30))
        .to_rfc2822()
        .replace("+0000", "GMT")
}

fn retry_after(value: &str) -> [(header::HeaderName, String); 1] {
    [(header::RETRY_AFTER, value.to_owned())]
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        Json(json!({"error": {"message": message, "type": code, "code": code}})),
    )
        .into_response()
}

fn good(text: &str) -> Vec<Act> {
    [words(text), vec![finish("stop"), usage(), done()]].concat()
}

/// The first words of what `good` says.
fn some(count: usize) -> Vec<Act> {
    words(GOOD).into_iter().take(count).collect()
}

fn words(text: &str) -> Vec<Act> {
    text.split_inclusive(' ').map(delta).collect()
}

fn delta(text: &str) -> Act {
    event(&chunk(&json!({"content": text})))
}

fn chunk(delta: &Value) -> Value {
    json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}], "usage": null})
}

fn finish(reason: &str) -> Act {
    event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": null}))
}

fn usage() -> Act {
    event(
        &json!({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}),
    )
}

fn tool_noise() -> Act {
    event(&chunk(
        &json!({"tool_calls": [{"index": 40_000_000, "id": "x", "function": {"name": "f", "arguments": "{"}}]}),
    ))
}

fn event(value: &Value) -> Act {
    send(&value.to_string())
}

fn send(data: &str) -> Act {
    raw(format!("data: {data}\n\n"))
}

fn done() -> Act {
    send("[DONE]")
}

fn gap() -> Act {
    Act::Pause(Duration::from_millis(50))
}

fn raw(text: String) -> Act {
    many(text, 1)
}

fn many(text: String, times: usize) -> Act {
    Act::Send(text.into(), times)
}

fn junk() -> String {
    "Sure! Here is your plan: {\"goal\": \"half a pl".to_owned()
}

fn is_repair(request: &Request) -> bool {
    lines(request).any(|line| line["role"] == "assistant")
}

fn repaired(request: &Request) -> Option<String> {
    plan(request).filter(|_| is_repair(request))
}

fn lines(request: &Request) -> impl DoubleEndedIterator<Item = &Value> {
    request.body["messages"].as_array().into_iter().flatten()
}

/// One step for each agent of the question, each after the one before; `None` when no plan is asked for.
fn plan(request: &Request) -> Option<String> {
    if request.body["response_format"]["json_schema"]["name"] != "plan" {
        return None;
    }
    let question = lines(request).rev().find_map(|line| {
        let value: Value = serde_json::from_str(line["content"].as_str()?).ok()?;
        value["agents"].is_array().then_some(value)
    })?;
    let step = |(place, agent): (usize, &Value)| {
        let needs: Vec<String> = place
            .checked_sub(1)
            .map(|before| format!("step-{before}"))
            .into_iter()
            .collect();
        json!({"key": format!("step-{place}"), "agent": agent["name"], "prompt": question["request"], "needs": needs})
    };
    let steps: Vec<Value> = question["agents"]
        .as_array()?
        .iter()
        .enumerate()
        .map(step)
        .collect();
    Some(json!({"goal": question["request"], "steps": steps}).to_string())
}
