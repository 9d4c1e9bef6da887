//! What clients asked for and what they were told, written down as it happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It was taken.
    Taken(u16, Value),
    /// It was refused, and changed nothing.
    Refused(u16, Value),
    /// Nobody knows.
    Unknown(String),
}

impl Reply {
    /// What was answered, if it was taken.
    pub fn taken(&self) -> Option<&Value> {
        match self {
            Self::Taken(_, answer) => Some(answer),
            _ => None,
        }
    }
}

/// A plan that was sent.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Label of its program.
    pub label: String,
    /// Whose, by number.
    pub person: usize,
    /// What came of it.
    pub reply: Reply,
}

/// A cancel that was asked for.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// Of this plan.
    pub plan: Uuid,
    /// Of this step only.
    pub step: Option<String>,
    /// When it was answered with yes, if it was.
    pub taken_at: Option<DateTime<Utc>>,
}

/// A plan that was held.
#[derive(Debug, Clone)]
pub struct Pause {
    /// Which.
    pub plan: Uuid,
    /// When the pause was answered.
    pub from: DateTime<Utc>,
    /// When the resumption was asked for.
    pub to: DateTime<Utc>,
}

/// A question that a person answered.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The question.
    pub approval: Uuid,
    /// Its type.
    pub kind: String,
    /// Its step.
    pub step: Option<Uuid>,
    /// The choice sent, which never changes.
    pub choice: Value,
    /// Status of each answer, in order; 0: unknown.
    pub statuses: Vec<u16>,
    /// When the last answer came.
    pub at: DateTime<Utc>,
}

/// Everything that was written down.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Plans sent.
    pub submissions: Vec<Submission>,
    /// Cancels asked for.
    pub cancels: Vec<Cancel>,
    /// Plans held.
    pub pauses: Vec<Pause>,
    /// Questions answered.
    pub decisions: Vec<Decision>,
    /// Steps retried in place, by id, where the answer was yes or unknown.
    pub retried: Vec<Uuid>,
    /// What a client saw that nobody may ever see.
    pub outrages: Vec<String>,
}

/// The notebook of all clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Written>>);

impl History {
    /// Writes.
    pub fn write(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy.
    pub fn read(&self) -> Written {
        self.write().clone()
    }
}
