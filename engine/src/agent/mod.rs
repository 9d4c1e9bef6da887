//! Agents and the orchestrator: what a person configures.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::AgentId;

/// Configuration of an agent; every change is a new version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// `provider/model`; absent: the installation's default model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Who the agent is, for its model.
    #[serde(default)]
    pub system_prompt: String,
    /// What the agent is good at, for the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Steps at once, 1 to 10.
    #[serde(default = "three")]
    pub max_concurrency: u8,
    /// Sampling temperature, 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Bound of generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Names of the tools that it may use; `delegate` asks another agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// What the `scripted` model shall do for this agent (tests, demos).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Value>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            model: None,
            system_prompt: String::new(),
            about: None,
            max_concurrency: three(),
            temperature: None,
            max_tokens: None,
            tools: Vec::new(),
            script: None,
        }
    }
}

fn three() -> u8 {
    3
}

/// Configuration of the planner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrchestratorConfig {
    /// `provider/model`; absent: the installation's default model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Added to the planner's own instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Most steps of a plan, 1 to 50; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u8>,
    /// Whether the person is asked before a plan is carried out.
    #[serde(default, skip_serializing_if = "PlanApproval::is_auto")]
    pub approval: PlanApproval,
    /// What the `scripted` model shall do when planning and summing up (tests, demos).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Value>,
}

/// Whether the person is asked before a plan is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanApproval {
    /// If it has three steps or more (the summary not counted), or an agent in it has a tool that changes the world.
    #[default]
    Auto,
    /// Each time.
    Always,
    /// Never.
    Never,
}

impl PlanApproval {
    /// The default.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether a plan is asked for: by its steps, and whether some tool of its agents changes the world.
    pub fn asks(self, steps: usize, dangerous: bool) -> bool {
        match self {
            Self::Auto => steps >= 3 || dangerous,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// An agent as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Unique among its owner's.
    pub name: String,
    /// Version of the configuration.
    pub version: i32,
    /// The configuration.
    #[sqlx(json)]
    pub config: AgentConfig,
    /// Places granted.
    pub running_steps: i16,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// Derived status of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// Nothing runs.
    Ready,
    /// Some step has a place.
    Busy,
}

impl Agent {
    /// What it does now.
    pub fn status(&self) -> AgentStatus {
        if self.running_steps > 0 {
            AgentStatus::Busy
        } else {
            AgentStatus::Ready
        }
    }
}

/// The planner as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Orchestrator {
    /// Its id; none: the defaults hold.
    pub id: uuid::Uuid,
    /// Counts changes.
    pub version: i32,
    /// The configuration.
    #[sqlx(json)]
    pub config: OrchestratorConfig,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}
