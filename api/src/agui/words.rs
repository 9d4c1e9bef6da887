//! The words of AG-UI 1.0, as far as they are said here.

use serde_json::{Map, Value, json};

/// The version that is spoken.
pub(super) const VERSION: &str = "1.0";
/// What precedes the names of events that AG-UI has no word for.
const OWN: &str = "codelab.";

/// An event with its fields; what is null is left out, as the protocol wants it.
pub(super) fn event(kind: &str, fields: Value) -> Value {
    let mut event = Map::from_iter([("type".to_owned(), json!(kind))]);
    if let Value::Object(fields) = fields {
        event.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(event)
}

/// An event that AG-UI has no word for.
pub(super) fn custom(name: &str, value: &Value) -> Value {
    event(
        "CUSTOM",
        json!({ "name": format!("{OWN}{name}"), "value": value }),
    )
}

pub(super) fn run_started(thread: &str, run: &str) -> Value {
    let fields = json!({ "threadId": thread, "runId": run, "protocolVersion": VERSION });
    event("RUN_STARTED", fields)
}

pub(super) fn run_finished(thread: &str, run: &str, outcome: &Value, result: &Value) -> Value {
    let fields = json!({ "threadId": thread, "runId": run, "outcome": outcome, "result": result });
    event("RUN_FINISHED", fields)
}

pub(super) fn run_error(code: &str, message: &str) -> Value {
    event("RUN_ERROR", json!({ "code": code, "message": message }))
}

/// A change of the state, by RFC 6902.
pub(super) fn state_delta(delta: &Value) -> Value {
    event("STATE_DELTA", json!({ "delta": delta }))
}

/// A message without what is null in it.
pub(super) fn message(message: &Value) -> Value {
    let fields = message.as_object().into_iter().flatten();
    fields
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<Map<String, Value>>()
        .into()
}

/// The text of a field; empty where it has none.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number of a field; 0 where it has none.
pub(super) fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}
