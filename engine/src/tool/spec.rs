//! A tool as its owner described it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tool::Effect;

/// A tool of a person's agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Tool {
    /// Unique among its owner's: `[a-z][a-z0-9_]{0,63}`.
    pub name: String,
    /// Counts changes, from 1; a consent holds for one version.
    pub version: i32,
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments, an object.
    pub input_schema: Value,
    /// What carries it out.
    #[sqlx(json)]
    pub executor: Executor,
    /// What a call does to the world.
    #[sqlx(try_from = "String")]
    pub effect: Effect,
    /// How bad a wrong call is.
    #[sqlx(try_from = "String")]
    pub risk: Risk,
    /// Whether the person is asked before each call, where no rule says otherwise.
    #[sqlx(try_from = "String")]
    pub consent: Consent,
    /// Longest call, in seconds, 1 to 300.
    pub timeout_seconds: i16,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// What carries a tool out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Executor {
    /// A POST of the arguments to an address; its answer is the result.
    Http {
        /// The address.
        url: String,
    },
    /// The person's own program: it hears of the call in the feed and posts the result.
    Client,
}

/// How bad a wrong call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Hardly.
    Low,
    /// It costs something to put right.
    Medium,
    /// It cannot be put right; never covered by a grant.
    High,
}

impl Risk {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// What is assumed of a tool whose owner does not say.
    pub fn of(effect: Effect) -> Self {
        match effect {
            Effect::Read | Effect::Idempotent => Self::Low,
            Effect::Reversible => Self::Medium,
            Effect::Irreversible => Self::High,
        }
    }
}

/// Whether the person is asked before each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// It is called.
    Auto,
    /// The person approves the exact call first.
    Ask,
}

impl Consent {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ask => "ask",
        }
    }
}

/// A word in a row that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no word that this program knows")]
pub struct UnknownWord(String);

impl TryFrom<String> for Consent {
    type Error = UnknownWord;
    fn try_from(word: String) -> Result<Self, UnknownWord> {
        serde_json::from_value(Value::String(word.clone())).map_err(|_| UnknownWord(word))
    }
}

impl TryFrom<String> for Risk {
    type Error = UnknownWord;
    fn try_from(word: String) -> Result<Self, UnknownWord> {
        serde_json::from_value(Value::String(word.clone())).map_err(|_| UnknownWord(word))
    }
}

impl TryFrom<String> for Effect {
    type Error = UnknownWord;
    fn try_from(word: String) -> Result<Self, UnknownWord> {
        serde_json::from_value(Value::String(word.clone())).map_err(|_| UnknownWord(word))
    }
}
