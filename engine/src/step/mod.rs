//! The step: a node of a plan, the unit of claiming.

pub mod claimed;
pub mod outcome;
pub mod state;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::AgentId;

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
    /// Asks an agent once for each item of a list that is known only when it runs.
    Map,
}

impl StepKind {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Agent => "agent",
            Self::Summary => "summary",
            Self::Timer => "timer",
            Self::Map => "map",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Planning,
            Self::Agent,
            Self::Summary,
            Self::Timer,
            Self::Map,
        ]
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
    /// What a map goes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapSpec>,
    /// Agents that have delegated on the way to this step, the first one first: none of them is asked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegated_by: Vec<AgentId>,
}

/// A list to go over. The step's own prompt is asked of its agent for each item, with `{{item}}` for the item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapSpec {
    /// The agent asked.
    pub agent: AgentId,
    /// The list itself, at most 1,000 items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Value>>,
    /// Or the key of a needed step whose result is the list: its text is a JSON array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Items at once, beside the agent's own limit; absent: as many as that allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u16>,
    /// What an item that fails means for the map.
    #[serde(default)]
    pub on_item_failure: OnItemFailure,
}

/// What an item that fails means for its map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnItemFailure {
    /// The map's result says which failed.
    #[default]
    Continue,
    /// The map fails once all items have ended.
    Fail,
}
