//! The chunks of a streamed answer, and what they add up to.
//!
//! The shapes are as loose as servers are: only what is read is named, all of it may be absent or
//! null. Nothing is ever sized or indexed by a number from the wire.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use engine::llm::{LlmError, OnDelta, Stop, ToolCall, Turn, Usage};

use crate::llm::failure::cut;

/// Bytes of a foreign reason to stop.
const STOP_LIMIT: usize = 64;
/// Tool calls of one turn; further ones are not heard.
const CALLS_LIMIT: usize = 32;

/// One event of the stream.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    error: Option<Value>,
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: Option<u64>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<Content>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallPiece>>,
}

/// A piece of a tool call: the first one names the tool, the others bring more of its arguments.
#[derive(Debug, Deserialize)]
struct CallPiece {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Debug, Deserialize)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<String>,
}

/// Text, or the list of parts in which some servers mix it with reasoning.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    text: Option<String>,
}

impl Chunk {
    /// `None` when `data` is not such JSON. `kind` is the event's type, which some servers use for errors.
    pub(super) fn parse(kind: &str, data: &str) -> Option<Self> {
        if kind == "error" {
            let error =
                serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.to_owned()));
            return Some(Self {
                error: Some(error),
                choices: None,
                usage: None,
            });
        }
        serde_json::from_str(data).ok()
    }

    /// What the server reports in place of an answer.
    pub(super) fn error(&self) -> Option<&Value> {
        self.error.as_ref()
    }
}

/// Whether the model was offered tools; what it says of tools otherwise is noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Offered {
    #[default]
    Nothing,
    Tools,
}

/// What has been said so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    offered: Offered,
    text: String,
    refusal: String,
    /// By the vendor's index, which orders them and means nothing else.
    calls: BTreeMap<u64, ToolCall>,
    stop: Option<String>,
    usage: Option<Usage>,
}

impl Answer {
    /// Of a model that was offered this.
    pub(super) fn to(offered: Offered) -> Self {
        Self {
            offered,
            ..Self::default()
        }
    }

    /// Adds a chunk and passes its text on.
    pub(super) fn take(&mut self, chunk: Chunk, on_delta: OnDelta<'_>) {
        // Some servers count after each chunk; the last count is the whole.
        self.usage = chunk.usage.as_ref().and_then(usage).or(self.usage);
        let choices = chunk.choices.into_iter().flatten();
        for choice in choices.filter(|choice| choice.index.unwrap_or_default() == 0) {
            if let Some(delta) = choice.delta {
                self.say(delta, on_delta);
            }
            self.stop = choice
                .finish_reason
                .filter(|reason| !reason.is_empty())
                .or_else(|| self.stop.take());
        }
    }

    fn say(&mut self, delta: Delta, on_delta: OnDelta<'_>) {
        self.refusal
            .push_str(delta.refusal.as_deref().unwrap_or_default());
        if self.offered == Offered::Tools {
            for piece in delta.tool_calls.into_iter().flatten() {
                self.call(piece);
            }
        }
        let text = match delta.content {
            None => return,
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
        };
        if !text.is_empty() {
            self.text.push_str(&text);
            on_delta(&text);
        }
    }

    fn call(&mut self, piece: CallPiece) {
        let index = piece.index.unwrap_or(0);
        if self.calls.len() >= CALLS_LIMIT && !self.calls.contains_key(&index) {
            return;
        }
        let call = self.calls.entry(index).or_insert_with(|| ToolCall {
            id: String::new(),
            name: String::new(),
            arguments: String::new(),
        });
        if let Some(id) = piece.id.filter(|_| call.id.is_empty()) {
            call.id = id;
        }
        let Some(function) = piece.function else {
            return;
        };
        if let Some(name) = function.name.filter(|_| call.name.is_empty()) {
            call.name = name;
        }
        call.arguments
            .push_str(function.arguments.as_deref().unwrap_or_default());
    }

    /// Has the model said why it stopped?
    pub(super) fn has_stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// The finished turn. Without a reason to stop it is truncated, even after `[DONE]`: proxies
    /// close with `[DONE]` whatever became of the stream behind them.
    pub(super) fn finish(self) -> Result<Turn, LlmError> {
        let stop = match self.stop.as_deref() {
            None => {
                return Err(LlmError::Transient(
                    "the stream was truncated: no reason to stop was given".to_owned(),
                ));
            }
            Some(_) if !self.refusal.is_empty() => return Err(LlmError::Refused(self.refusal)),
            Some("content_filter") => {
                return Err(LlmError::Refused(
                    "the provider's content filter stopped the answer".to_owned(),
                ));
            }
            Some("tool_calls" | "function_call") if self.offered == Offered::Nothing => {
                return Err(LlmError::Invalid(
                    "the model asked for a tool although none was offered".to_owned(),
                ));
            }
            Some("tool_calls" | "function_call") if self.calls.is_empty() => {
                return Err(LlmError::Transient(
                    "the model stopped for tools and named none".to_owned(),
                ));
            }
            // Some servers say `stop` after calls.
            Some("tool_calls" | "function_call" | "stop") if !self.calls.is_empty() => Stop::Tools,
            Some("stop") => Stop::End,
            Some("length") => Stop::Length,
            Some(foreign) => Stop::Other(cut(foreign, STOP_LIMIT).to_owned()),
        };
        Ok(Turn {
            text: self.text,
            calls: if stop == Stop::Tools {
                named(self.calls)
            } else {
                Vec::new()
            },
            stop,
            usage: self.usage,
        })
    }
}

/// The calls in order, each with an id: a server that gives none would get its answers mixed up.
fn named(calls: BTreeMap<u64, ToolCall>) -> Vec<ToolCall> {
    let with_id = |(place, mut call): (usize, ToolCall)| {
        if call.id.is_empty() {
            call.id = format!("call_{place}");
        }
        call
    };
    calls.into_values().enumerate().map(with_id).collect()
}

fn usage(value: &Value) -> Option<Usage> {
    let tokens = |key| {
        value
            .get(key)
            .and_then(Value::as_u64)
            .map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
    };
    Some(Usage {
        input_tokens: tokens("prompt_tokens")?,
        output_tokens: tokens("completion_tokens")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(chunks: &[&str]) -> Option<Answer> {
        let mut answer = Answer::default();
        for data in chunks {
            answer.take(Chunk::parse("message", data)?, &|_| {});
        }
        Some(answer)
    }

    #[test]
    fn nulls_parts_foreign_fields_and_other_choices_do_no_harm() {
        let heard = answer(&[
            r#"{"choices":null,"usage":null}"#,
            r#"{"choices":[{"delta":null}],"x_groq":{"id":1}}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"hi"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":4000000000}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":99999999999,"completion_tokens":2}}"#,
        ]);
        let turn = heard.map(Answer::finish);
        let usage = Some(Usage {
            input_tokens: u32::MAX,
            output_tokens: 2,
        });
        assert_eq!(
            turn,
            Some(Ok(Turn {
                text: "hi".to_owned(),
                stop: Stop::End,
                usage,
                calls: Vec::new(),
            }))
        );
    }

    #[test]
    fn a_turn_that_stops_for_a_tool_is_not_valid() {
        let turn = answer(&[r#"{"choices":[{"finish_reason":"tool_calls"}]}"#]).map(Answer::finish);
        assert!(matches!(turn, Some(Err(LlmError::Invalid(_)))), "{turn:?}");
    }

    #[test]
    fn calls_come_in_pieces_and_only_to_those_who_offered() {
        let pieces = [
            r#"{"choices":[{"delta":{"tool_calls":[{"index":7,"id":"b","function":{"name":"look","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"add","arguments":"{\"n\""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]},"finish_reason":"tool_calls"}]}"#,
        ];
        let mut heard = Answer::to(Offered::Tools);
        for data in pieces {
            if let Some(chunk) = Chunk::parse("message", data) {
                heard.take(chunk, &|_| {});
            }
        }
        let calls = heard.finish().map(|turn| turn.calls);
        let calls = calls.map(|calls| {
            calls
                .into_iter()
                .map(|call| format!("{} {} {}", call.id, call.name, call.arguments))
                .collect::<Vec<_>>()
        });
        assert_eq!(
            calls,
            Ok(vec!["a add {\"n\":1}".to_owned(), "b look {}".to_owned()])
        );
    }

    #[test]
    fn a_foreign_reason_to_stop_is_kept_but_not_whole() {
        let chunk = format!(
            r#"{{"choices":[{{"finish_reason":"{}"}}]}}"#,
            "é".repeat(100)
        );
        let turn = answer(&[&chunk]).map(Answer::finish);
        assert!(matches!(turn, Some(Ok(Turn { stop: Stop::Other(word), .. })) if word.len() == 64));
    }
}
