//! The journal of a step: each call that costs money or changes the world is written down before and after.
//!
//! An intent is committed before the call, its result after it. A new attempt answers finished entries from the journal. What
//! may be done about an intent without a result follows from the call's [`Effect`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{GrantId, WaitId};

/// What a call does to the world. The order is that of caution: a later one is trusted with less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing.
    Read,
    /// The same however often it is made with the same key.
    Idempotent,
    /// Something that can be taken back.
    Reversible,
    /// Something that stays.
    Irreversible,
}

impl Effect {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Idempotent => "idempotent",
            Self::Reversible => "reversible",
            Self::Irreversible => "irreversible",
        }
    }

    /// Whether a call of which nobody knows if it happened may be made again without asking.
    pub fn may_repeat(self) -> bool {
        match self {
            Self::Read | Self::Idempotent => true,
            Self::Reversible | Self::Irreversible => crate::fault::mutant("repeat_all_effects"),
        }
    }
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A turn of a model.
    Model,
    /// A tool.
    Tool,
}

/// What is known of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// It was about to be made.
    Intent,
    /// It came back.
    Done,
    /// The person is asked, or was asked, whether it happened.
    Unknown,
    /// It was not made after all; the entry is taken out. Never read.
    Withdrawn,
}

/// One call in the journal of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Place among the step's calls, from 0; the same in every attempt.
    pub ordinal: u32,
    /// What was called.
    pub kind: EntryKind,
    /// What it does to the world.
    pub effect: Effect,
    /// What is known of it.
    pub state: EntryState,
    /// What was asked; empty: as it was written before.
    #[serde(default)]
    pub request: Value,
    /// What came back, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The approval that it uses up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<WaitId>,
    /// The grant that it counts against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
}

impl Entry {
    /// A model turn that came to its end.
    pub fn turn_done(ordinal: u32, result: Value) -> Self {
        Self::done(ordinal, EntryKind::Model, Effect::Idempotent, result)
    }

    /// A model turn about to be asked for.
    pub fn turn_begun(ordinal: u32) -> Self {
        Self {
            result: None,
            state: EntryState::Intent,
            ..Self::turn_done(ordinal, Value::Null)
        }
    }

    /// A call that came to its end.
    pub fn done(ordinal: u32, kind: EntryKind, effect: Effect, result: Value) -> Self {
        Self {
            ordinal,
            kind,
            effect,
            state: EntryState::Done,
            request: Value::Object(serde_json::Map::new()),
            result: Some(result),
            approval: None,
            grant: None,
        }
    }
}
