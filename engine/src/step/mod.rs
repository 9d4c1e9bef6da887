//! The step: a node of a plan, the unit of claiming.

pub mod claimed;
pub mod outcome;
pub mod state;

use serde::{Deserialize, Serialize};

pub use claimed::ClaimedStep;
pub use outcome::{Outcome, Reply, StepError};
pub use state::{IllegalTransition, StateName, StepEvent, StepState};

/// Which executor runs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// The orchestrator's model makes the plan.
    Planning,
    /// An agent answers.
    Agent,
    /// The orchestrator's model writes the answer from what the others found.
    Summary,
    /// Waits for some seconds.
    Timer,
}

impl StepKind {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Agent => "agent",
            Self::Summary => "summary",
            Self::Timer => "timer",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Planning, Self::Agent, Self::Summary, Self::Timer]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// What a step has to do, as its plan says; immutable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpec {
    /// What the agent is asked; absent: the plan's goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Its text is the answer to the person's message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers: bool,
    /// How long a timer waits, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}
