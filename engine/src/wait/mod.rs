//! Why a step is suspended, and how that ends.

use serde::{Deserialize, Serialize};

/// What a suspended step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "wait_kind", rename_all = "snake_case")]
pub enum WaitKind {
    /// A person decides.
    Approval,
    /// A person answers.
    Input,
    /// The person's own program runs a tool.
    ClientTool,
    /// Time passes.
    Timer,
    /// A sub-plan ends.
    Child,
}

/// How a wait ended; never collapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "wait_decision", rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approved,
    /// Yes, but otherwise.
    Edited,
    /// No.
    Rejected,
    /// An answer came.
    Answered,
    /// A timer rang.
    Elapsed,
    /// Nobody answered in time.
    TimedOut,
    /// The plan was cancelled.
    Cancelled,
    /// What it was asked about has changed; another question takes its place.
    Superseded,
}

impl WaitKind {
    /// What the deadline means for it: a timer rings, everything else was not answered.
    pub fn at_deadline(self) -> Decision {
        match self {
            Self::Timer => Decision::Elapsed,
            Self::Approval | Self::Input | Self::ClientTool | Self::Child => Decision::TimedOut,
        }
    }
}

impl Decision {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Edited => "edited",
            Self::Rejected => "rejected",
            Self::Answered => "answered",
            Self::Elapsed => "elapsed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }
}
