//! Events: what happened, in order, each committed with its transition; and the hints that wake readers.

pub mod hints;
pub mod relay;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{PlanId, SessionId, StepId};

/// A durable record of a transition, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Event {
    /// Wire name.
    #[sqlx(rename = "type")]
    pub event_type: String,
    /// At most 10 KB.
    pub payload: Value,
    /// When it was written, by the database's clock.
    #[sqlx(rename = "created_at")]
    pub timestamp: DateTime<Utc>,
    /// Position in the user's feed: 1, 2, 3 ... without gaps.
    pub seq: i64,
    /// Session, if any.
    pub session_id: Option<SessionId>,
    /// Plan, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_id: Option<PlanId>,
    /// Step, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<StepId>,
}
