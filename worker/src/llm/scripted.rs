//! The model that needs no network, no key and no money: same prompt, same turn.
//!
//! It plans a small team's work when asked for a plan, answers in a sentence otherwise, and does
//! whatever an agent's script says. It keeps no state: what changes from try to try is the
//! prompt's `attempt`. Tokens are counted as words.

mod plan;
mod script;

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::sleep;

use engine::llm::{Llm, LlmError, OnDelta, Prompt, Role, Stop, ToolCall, Turn, Usage};

use super::failure::cut;
use script::{Act, Class, Failure, Playing};

/// Characters of the last line that are planned with or quoted.
const LAST_LIMIT: usize = 2000;
/// Bytes of an answer, as for every vendor.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// Words of the last line that an answer repeats.
const ECHO_WORDS: usize = 12;
/// Pieces in which a text is streamed.
const PIECES: usize = 4;

/// The `scripted` vendor; every model name behaves the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scripted;

impl Llm for Scripted {
    fn turn<'a>(
        &'a self,
        prompt: &'a Prompt,
        on_delta: OnDelta<'a>,
    ) -> BoxFuture<'a, Result<Turn, LlmError>> {
        Box::pin(play(prompt, on_delta))
    }
}

async fn play(prompt: &Prompt, on_delta: OnDelta<'_>) -> Result<Turn, LlmError> {
    let last = prompt.lines.last().map_or("", |line| line.content.as_str());
    let answered = prompt
        .lines
        .iter()
        .filter(|line| line.role == Role::Tool)
        .count();
    let playing = match &prompt.script {
        Some(script) => script::read(script, last, prompt.attempt, answered)?,
        None => Playing::default(),
    };
    // Not even a timer's wheel is turned for nothing: this is the model of the benchmarks.
    if !playing.delay.is_zero() {
        sleep(playing.delay).await;
    }
    let deltas = match playing.act {
        Act::Answer => in_pieces(&answer(prompt, last)),
        Act::Text(text) => in_pieces(&filled(&text, last)?),
        Act::Json(value) => in_pieces(&filled_json(&value, last)?),
        Act::Deltas(deltas) => deltas
            .iter()
            .map(|delta| filled(delta, last))
            .collect::<Result<_, _>>()?,
        Act::Calls(calls) => return Ok(calling(calls, answered)),
        Act::Fail(failure) => return Err(error(failure)),
        Act::Hang => std::future::pending().await,
        Act::Panic => panic!("the script asked for a panic"),
    };
    say(&deltas, playing.delta_delay, on_delta).await;
    let text = deltas.concat();
    let usage = Some(Usage {
        input_tokens: asked_words(prompt),
        output_tokens: words(&text),
    });
    Ok(Turn {
        text,
        stop: Stop::End,
        usage,
        calls: Vec::new(),
    })
}

fn calling(calls: Vec<script::Call>, answered: usize) -> Turn {
    let call = |(place, call): (usize, script::Call)| ToolCall {
        id: format!("call_{}", answered + place),
        name: call.name,
        arguments: call.arguments.to_string(),
    };
    Turn {
        text: String::new(),
        stop: Stop::Tools,
        usage: None,
        calls: calls.into_iter().enumerate().map(call).collect(),
    }
}

async fn say(deltas: &[String], pause: Duration, on_delta: OnDelta<'_>) {
    for (index, delta) in deltas.iter().enumerate() {
        if index > 0 && !pause.is_zero() {
            sleep(pause).await;
        }
        on_delta(delta);
    }
}

fn answer(prompt: &Prompt, last: &str) -> String {
    if prompt
        .schema
        .as_ref()
        .is_some_and(|schema| schema.name == "plan")
    {
        return plan::answer(&prompt.lines);
    }
    let mut words = last.split_whitespace();
    let echo = words
        .by_ref()
        .take(ECHO_WORDS)
        .collect::<Vec<_>>()
        .join(" ");
    let more = if words.next().is_some() { " …" } else { "" };
    if echo.is_empty() {
        return "There was nothing to answer.".to_owned();
    }
    // A word has no bound of its own.
    format!(
        "You asked: \"{}{more}\". This is the scripted model's answer; no vendor was called.",
        first_chars(&echo)
    )
}

/// Cuts after spaces, so that the pieces together are the text to the byte.
fn in_pieces(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    let size = std::cmp::max(1, words.len().div_ceil(PIECES));
    words.chunks(size).map(<[&str]>::concat).collect()
}

/// Puts the last line where the text says `{{last}}`.
fn filled(template: &str, last: &str) -> Result<String, LlmError> {
    fill(template, first_chars(last))
}

/// The same inside JSON: the marker can only stand in a string, so the line goes in escaped.
fn filled_json(template: &Value, last: &str) -> Result<String, LlmError> {
    let quoted = Value::from(first_chars(last)).to_string();
    fill(&template.to_string(), &quoted[1..quoted.len() - 1])
}

fn fill(template: &str, last: &str) -> Result<String, LlmError> {
    const MARKER: &str = "{{last}}";
    // A script comes from a user: a megabyte of markers would become a gigabyte of text.
    let growth = template.matches(MARKER).count().saturating_mul(last.len());
    if template.len().saturating_add(growth) > ANSWER_LIMIT {
        return Err(LlmError::Invalid(format!(
            "script: the answer would be longer than {ANSWER_LIMIT} bytes"
        )));
    }
    Ok(template.replace(MARKER, last))
}

fn first_chars(text: &str) -> &str {
    text.char_indices()
        .nth(LAST_LIMIT)
        .map_or(text, |(end, _)| &text[..end])
}

fn error(failure: Failure) -> LlmError {
    let detail = failure
        .detail
        .unwrap_or_else(|| "the script asked for it".to_owned());
    let detail = cut(&detail, 500).to_owned();
    match failure.class {
        Class::Transient => LlmError::Transient(detail),
        Class::RateLimited => LlmError::RateLimited {
            detail,
            retry_after: failure.retry_after_ms.map(Duration::from_millis),
        },
        Class::Invalid => LlmError::Invalid(detail),
        Class::Budget => LlmError::Budget(detail),
        Class::Refused => LlmError::Refused(detail),
    }
}

fn asked_words(prompt: &Prompt) -> u32 {
    let lines = prompt.lines.iter().map(|line| words(&line.content));
    lines
        .chain(prompt.system.iter().map(|system| words(system)))
        .fold(0, u32::saturating_add)
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}
