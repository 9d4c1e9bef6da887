//! What an executor returns; `finish` commits it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    id::{MessageId, WaitId},
    llm::LlmError,
    plan::NewStep,
    tool::Entry,
};

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The step is done.
    Succeed {
        /// What it found.
        result: Value,
        /// The answer to the person, if this step gives it.
        reply: Option<Reply>,
    },
    /// The step is done, and the plan goes on with these.
    Expand {
        /// What it found.
        result: Value,
        /// Steps to add; their needs name each other.
        steps: Vec<NewStep>,
    },
    /// Passing trouble outside (a provider limits or is down, the database is away): worth another run, counts no failure,
    /// and is borne until the step's patience is used up. The place is given back meanwhile.
    Defer {
        /// Not before this much time has passed.
        after: Duration,
        /// Why.
        error: StepError,
        /// What the person hears if this was the last run.
        last_words: Option<Reply>,
    },
    /// Failed; worth another run until the step's failures are used up.
    Retry {
        /// Not before this much time has passed; the place is given back meanwhile.
        after: Duration,
        /// Why.
        error: StepError,
        /// What the person hears if this was the last run.
        last_words: Option<Reply>,
    },
    /// Given back unfinished (shutdown, or the plan is being cancelled); costs no failure.
    Yield,
    /// Waits without a lease, a place or a connection.
    Suspend {
        /// What for.
        wait: NewWait,
    },
    /// Waits for steps of its own making.
    Spawn {
        /// What they are for.
        wait: NewWait,
        /// The steps; their needs name each other.
        children: Vec<NewStep>,
        /// How often work was delegated on the way to them, 0 to 3.
        depth: u16,
    },
    /// Failed for good. Where its plan asks, the person decides before anything is given up.
    Fail {
        /// Why.
        error: StepError,
        /// What the person hears.
        reply: Option<Reply>,
    },
    /// Failed for good, and nobody is asked: the person has decided already, or did not answer.
    GiveUp {
        /// Why.
        error: StepError,
        /// What the person hears.
        reply: Option<Reply>,
    },
    /// The person goes on without it.
    Skip,
    /// Another outcome, together with what the journal has to learn in the same commit.
    Journaled {
        /// The entries.
        entries: Vec<Entry>,
        /// The outcome.
        then: Box<Outcome>,
    },
    /// The reaper's word: the lease expired.
    Lost,
}

/// A wait to open.
#[derive(Debug, Clone)]
pub struct NewWait {
    /// Its id.
    pub id: WaitId,
    /// Who or what ends it.
    pub kind: WaitKind,
    /// What is asked.
    pub payload: Value,
    /// From now by the database's clock; none: for ever.
    pub deadline: Option<Duration>,
}

pub use crate::wait::WaitKind;

/// An answer to the person, written in the transaction that ends its step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Id of the message.
    pub id: MessageId,
    /// Its text.
    pub content: String,
}

/// Why a step failed, kept with it and shown to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// What to do about it.
    pub class: ErrorClass,
    /// Stable word.
    pub code: String,
    /// For people, without secrets, at most 500 bytes.
    pub message: String,
}

/// Classes of errors; they decide whether a step is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Passes by itself.
    Transient,
    /// The provider asks to wait.
    RateLimited,
    /// The request is wrong; again would be the same.
    Invalid,
    /// The model declined.
    Refused,
    /// Money is out.
    Budget,
    /// Ours.
    Bug,
}

impl Outcome {
    /// The word that `step_finish` knows.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Succeed { .. } => "succeed",
            Self::Expand { .. } => "expand",
            Self::Defer { .. } => "defer",
            Self::Retry { .. } => "retry",
            Self::Yield => "yield",
            Self::Suspend { .. } | Self::Spawn { .. } => "suspend",
            Self::Fail { .. } | Self::GiveUp { .. } => "fail",
            Self::Skip => "skip",
            Self::Lost => "lost",
            Self::Journaled { then, .. } => then.word(),
        }
    }

    /// What `step_finish` gets with the word.
    pub fn body(&self) -> Value {
        match self {
            Self::Succeed { result, reply } => {
                with_reply(json!({ "result": result }), reply.as_ref())
            }
            Self::Expand { result, steps } => json!({ "result": result, "steps": steps }),
            Self::Retry {
                after,
                error,
                last_words,
            }
            | Self::Defer {
                after,
                error,
                last_words,
            } => with_reply(
                json!({ "after_ms": millis(*after), "error": error, "card": WaitId::new() }),
                last_words.as_ref(),
            ),
            Self::Yield | Self::Skip => json!({}),
            Self::Lost => json!({ "card": WaitId::new() }),
            Self::Suspend { wait } => wait.body(),
            Self::Spawn {
                wait,
                children,
                depth,
            } => {
                let mut body = wait.body();
                body["children"] = json!(children);
                body["depth"] = json!(depth);
                body
            }
            Self::Fail { error, reply } => with_reply(
                json!({ "error": error, "card": WaitId::new() }),
                reply.as_ref(),
            ),
            Self::GiveUp { error, reply } => with_reply(json!({ "error": error }), reply.as_ref()),
            Self::Journaled { entries, then } => {
                let mut body = then.body();
                body["journal"] = json!(entries);
                body
            }
        }
    }
}

impl NewWait {
    fn body(&self) -> Value {
        json!({
            "id": self.id, "kind": self.kind, "payload": self.payload, "deadline_ms": self.deadline.map(millis),
        })
    }
}

impl StepError {
    /// A defect of ours.
    pub fn bug(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Bug, code, message)
    }

    /// An error of a class.
    pub fn new(class: ErrorClass, code: &str, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((end, _)) = message.char_indices().nth(500) {
            message.truncate(end);
        }
        Self {
            class,
            code: code.to_owned(),
            message,
        }
    }
}

impl From<&LlmError> for StepError {
    fn from(error: &LlmError) -> Self {
        let (class, code) = match error {
            LlmError::RateLimited { .. } => (ErrorClass::RateLimited, "model_rate_limited"),
            LlmError::Transient(_) => (ErrorClass::Transient, "model_failed"),
            LlmError::Budget(_) => (ErrorClass::Budget, "model_budget"),
            LlmError::Invalid(_) => (ErrorClass::Invalid, "model_call_invalid"),
            LlmError::Refused(_) => (ErrorClass::Refused, "model_refused"),
        };
        Self::new(class, code, error.to_string())
    }
}

fn with_reply(mut body: Value, reply: Option<&Reply>) -> Value {
    if let (Some(reply), Some(fields)) = (reply, body.as_object_mut()) {
        fields.insert(
            "reply".to_owned(),
            json!({ "id": reply.id, "content": reply.content }),
        );
    }
    body
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
