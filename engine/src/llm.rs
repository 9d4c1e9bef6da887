//! The words every model speaks: a prompt goes in, a turn comes out, deltas on the way.
//!
//! No HTTP here: the vendors live in `worker/src/llm`. What is here is what a plan needs to know
//! of a model, and the classes of error that decide whether a step is tried again.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who said a line of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person, or the orchestrator that speaks for them.
    User,
    /// The model.
    Assistant,
    /// A tool that the model has called.
    Tool,
}

/// One line of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// Tools that the model called with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// Which call this answers ([`Role::Tool`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_call: Option<String>,
}

impl Line {
    /// A line without calls.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            calls: Vec::new(),
            answers_call: None,
        }
    }
}

/// A tool that a model wants to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The vendor's name for the call; the answer names it.
    pub id: String,
    /// Name of the tool; whatever the model wrote.
    pub name: String,
    /// The arguments as the model wrote them: mostly, not always, a JSON object.
    pub arguments: String,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedTool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its arguments.
    pub schema: Value,
}

/// Which call of which run asks; for receipts in tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallId {
    /// The step.
    pub step: String,
    /// Token of its lease.
    pub token: i64,
    /// Its run.
    pub attempt: u16,
    /// Place in its journal.
    pub ordinal: u32,
}

/// What a model is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// The model's own name, without the provider (`gpt-4o`, not `openai/gpt-4o`).
    pub model: String,
    /// The system prompt.
    pub system: Option<String>,
    /// The conversation, oldest first; the last line is the question.
    pub lines: Vec<Line>,
    /// Tools that the model may call.
    pub tools: Vec<OfferedTool>,
    /// Who asks.
    pub call: CallId,
    /// Binds the answer to this JSON Schema where the vendor can.
    pub schema: Option<AnswerSchema>,
    /// Sampling temperature, 0 to 2.
    pub temperature: Option<f32>,
    /// Upper bound on generated tokens.
    pub max_tokens: Option<u32>,
    /// What the `scripted` model shall do; other vendors ignore it.
    pub script: Option<Value>,
    /// Which attempt of the step asks, 1 for the first; 0 counts as 1. Only `scripted` reads it: it
    /// keeps no state, so this is how it fails the first calls and answers the next.
    pub attempt: u32,
}

/// A JSON Schema that the answer must satisfy.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerSchema {
    /// A short name, letters, digits and `_`.
    pub name: &'static str,
    /// The schema itself, draft 2020-12.
    pub schema: Value,
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The whole text.
    pub text: String,
    /// Why the model stopped.
    pub stop: Stop,
    /// Tokens, where the vendor said so.
    pub usage: Option<Usage>,
    /// Tools that it wants to be called before it goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It had said all.
    End,
    /// It ran into `max_tokens`; the text is cut.
    Length,
    /// It wants tools to be called.
    Tools,
    /// Any other word of the vendor's, kept as it came (at most 64 bytes).
    Other(String),
}

/// Tokens of one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u32,
    /// Tokens written.
    pub output_tokens: u32,
}

/// Why a model call failed, by what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlmError {
    /// The vendor asks to wait: 429, or 529/503 with `Retry-After`.
    #[error("the model's provider limits the rate: {detail}")]
    RateLimited {
        /// What the vendor said, without secrets, at most 500 bytes.
        detail: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// Worth another try: 408, 409, 5xx, a connection that failed, a stream cut or stalled.
    #[error("the model's provider failed: {0}")]
    Transient(String),
    /// Money is out: 402, `insufficient_quota`. Never tried again.
    #[error("the model's account has no credit: {0}")]
    Budget(String),
    /// Ours or the user's mistake: 400, 401, 403, 404, 413, 422, an unknown model.
    #[error("the model call is not valid: {0}")]
    Invalid(String),
    /// The model declined to answer.
    #[error("the model refused: {0}")]
    Refused(String),
}

/// Called with each piece of text as it arrives, in order. Must not block.
pub type OnDelta<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// A model vendor. Dropping the future cancels the call and closes its connection.
pub trait Llm: Send + Sync {
    /// Runs one turn to its end, streaming.
    fn turn<'a>(
        &'a self,
        prompt: &'a Prompt,
        on_delta: OnDelta<'a>,
    ) -> BoxFuture<'a, Result<Turn, LlmError>>;
}
