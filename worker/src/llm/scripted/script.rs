//! The script of an agent: what `scripted` shall do in place of its own answer.
//!
//! ```json
//! {"turns": [
//!   {"until_attempt": 2, "error": {"class": "transient"}},
//!   {"until_results": 1, "tool_calls": [{"name": "look", "arguments": {"at": "sky"}}]},
//!   {"match": "weather", "text": "You asked: {{last}}", "delay_ms": 20},
//!   {"deltas": ["one ", "two"], "delta_delay_ms": 5}
//! ]}
//! ```
//!
//! A turn object alone stands for a list of one. The first turn that applies is played; when none
//! applies, or the one that does says only delays, the model answers by itself.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use engine::llm::LlmError;

/// What to play.
#[derive(Debug, Default)]
pub(super) struct Playing {
    /// Before anything is said or fails.
    pub(super) delay: Duration,
    /// Between two deltas.
    pub(super) delta_delay: Duration,
    /// The act itself.
    pub(super) act: Act,
}

/// The act of a turn.
#[derive(Debug, Default)]
pub(super) enum Act {
    /// The model's own answer.
    #[default]
    Answer,
    Text(String),
    Json(Value),
    Deltas(Vec<String>),
    Calls(Vec<Call>),
    Fail(Failure),
    Hang,
    Panic,
}

/// A tool to call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub(super) name: String,
    #[serde(default)]
    pub(super) arguments: Value,
}

/// How a turn fails.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) detail: Option<String>,
    pub(super) retry_after_ms: Option<u64>,
}

/// The classes of [`LlmError`], by their wire names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    Transient,
    RateLimited,
    Invalid,
    Budget,
    Refused,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    turns: Vec<ScriptTurn>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptTurn {
    text: Option<String>,
    // Apart from absent: `"json": null` answers `null`.
    #[serde(default, deserialize_with = "present")]
    json: Option<Value>,
    deltas: Option<Vec<String>>,
    tool_calls: Option<Vec<Call>>,
    error: Option<Failure>,
    #[serde(default)]
    hang: bool,
    #[serde(default)]
    panic: bool,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    delta_delay_ms: u64,
    #[serde(rename = "match")]
    matches: Option<String>,
    until_attempt: Option<u32>,
    until_results: Option<usize>,
}

/// Finds the turn that applies to the last line and the attempt.
///
/// [`LlmError::Invalid`] names the field that is unknown or wrong, in any turn of the script.
pub(super) fn read(
    script: &Value,
    last: &str,
    attempt: u32,
    answered: usize,
) -> Result<Playing, LlmError> {
    let wrong = |error: serde_json::Error| LlmError::Invalid(format!("script: {error}"));
    let turns = if script.get("turns").is_some() {
        Script::deserialize(script).map_err(wrong)?.turns
    } else {
        vec![ScriptTurn::deserialize(script).map_err(wrong)?]
    };
    if let Some(index) = turns.iter().position(|turn| turn.acts() > 1) {
        return Err(LlmError::Invalid(format!(
            "script: turn {index} has more than one of `text`, `json`, `deltas`, `tool_calls`, `error`, `hang`, `panic`"
        )));
    }
    let chosen = turns
        .into_iter()
        .find(|turn| turn.applies(last, std::cmp::max(1, attempt), answered));
    Ok(chosen.map(ScriptTurn::into_playing).unwrap_or_default())
}

impl ScriptTurn {
    fn applies(&self, last: &str, attempt: u32, answered: usize) -> bool {
        self.matches
            .as_deref()
            .is_none_or(|part| last.contains(part))
            && self.until_attempt.is_none_or(|until| attempt <= until)
            && self.until_results.is_none_or(|until| answered < until)
    }

    fn acts(&self) -> usize {
        let acts = [
            self.text.is_some(),
            self.json.is_some(),
            self.deltas.is_some(),
            self.tool_calls.is_some(),
            self.error.is_some(),
            self.hang,
            self.panic,
        ];
        acts.into_iter().filter(|&there| there).count()
    }

    fn into_playing(self) -> Playing {
        let none = if self.hang {
            Act::Hang
        } else if self.panic {
            Act::Panic
        } else {
            Act::Answer
        };
        let acts = [
            self.text.map(Act::Text),
            self.json.map(Act::Json),
            self.deltas.map(Act::Deltas),
            self.tool_calls.map(Act::Calls),
            self.error.map(Act::Fail),
        ];
        Playing {
            delay: Duration::from_millis(self.delay_ms),
            delta_delay: Duration::from_millis(self.delta_delay_ms),
            act: acts.into_iter().flatten().next().unwrap_or(none),
        }
    }
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}
