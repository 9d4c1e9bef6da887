//! `ask_user`: an agent asks the person something, and gets the answer as the result of its call.

use engine::{
    id::WaitId,
    step::{
        claimed::Woken,
        outcome::{NewWait, WaitKind},
    },
    tool::{Effect, Entry, EntryKind, schema},
    wait::Decision,
};
use serde_json::{Value, json};

use crate::{
    exec::{
        calls::{HandOut, Step, told},
        card::said,
    },
    run::Runner,
};

/// Characters of a question.
const QUESTION_LIMIT: usize = 4000;
/// Bytes of the form of an answer.
const SCHEMA_BYTES: usize = 16 * 1024;

/// What follows from what is known of a question.
pub(super) fn next<'a>(
    runner: &Runner,
    woken: Option<&Woken>,
    ordinal: u32,
    arguments: &Value,
) -> Step<'a> {
    match woken.filter(|woken| woken.kind == WaitKind::Input) {
        Some(woken) if woken.decision == Decision::Answered => {
            Step::Answer(told(ordinal, &json!({ "answer": said(woken, "input") })))
        }
        Some(woken) => Step::Answer(told(
            ordinal,
            &json!({ "declined": woken.decision.as_str(), "note": said(woken, "note") }),
        )),
        None => match wait(runner, ordinal, arguments) {
            Ok(wait) => Step::HandOut(HandOut {
                intent: intent(ordinal, arguments),
                wait,
                otherwise: None,
            }),
            Err(why) => Step::Answer(told(ordinal, &json!({ "error": why }))),
        },
    }
}

fn intent(ordinal: u32, arguments: &Value) -> Entry {
    Entry {
        state: engine::tool::EntryState::Intent,
        result: None,
        request: json!({ "tool": engine::tool::ASK_USER, "arguments": arguments }),
        ..Entry::done(ordinal, EntryKind::Tool, Effect::Read, Value::Null)
    }
}

fn wait(runner: &Runner, ordinal: u32, arguments: &Value) -> Result<NewWait, String> {
    let question = arguments.get("question").and_then(Value::as_str);
    let Some(question) = question.filter(|text| !text.trim().is_empty()) else {
        return Err("ask_user takes a question, a text".to_owned());
    };
    if question.chars().count() > QUESTION_LIMIT {
        return Err(format!(
            "a question has at most {QUESTION_LIMIT} characters"
        ));
    }
    let form = arguments.get("schema").filter(|form| !form.is_null());
    if let Some(form) = form {
        if form.to_string().len() > SCHEMA_BYTES {
            return Err(format!("a form has at most {SCHEMA_BYTES} bytes"));
        }
        if let Err(why @ schema::Refusal::Schema(_)) = schema::check(form, &Value::Null) {
            return Err(why.to_string());
        }
    }
    Ok(NewWait {
        id: WaitId::new(),
        kind: WaitKind::Input,
        payload: json!({
            "type": "input", "ordinal": ordinal, "question": question, "schema": form, "choices": ["answer", "reject"],
        }),
        deadline: Some(runner.store.limits().card),
    })
}
