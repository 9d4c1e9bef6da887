//! The plan: the DAG made for one message.

pub mod draft;
pub mod explain;
pub mod graph;
pub mod picture;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    id::{AgentId, MessageId, PlanId, SessionId, StepId, WaitId},
    plan::graph::When,
    step::{StateName, StepKind, StepSpec},
    wait::WaitKind,
};

/// Stored state of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "plan_state", rename_all = "snake_case")]
pub enum PlanState {
    /// Some step is open.
    Active,
    /// Every step succeeded.
    Succeeded,
    /// Some steps succeeded, some did not.
    Partial,
    /// No step of substance succeeded.
    Failed,
    /// The person stopped it.
    Cancelled,
}

impl PlanState {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a plan came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "plan_mode", rename_all = "snake_case")]
pub enum PlanMode {
    /// One agent was addressed.
    Direct,
    /// The orchestrator plans it.
    Orchestrated,
    /// The person sent the graph.
    Explicit,
}

/// What a plan is at, derived from its steps for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its session's turn.
    Queued,
    /// The person holds it.
    Paused,
    /// Nothing runs, and the person is asked something.
    AwaitingApproval,
    /// The orchestrator plans.
    Planning,
    /// Steps run or wait.
    Running,
    /// It was cancelled; running steps are coming home.
    Cancelling,
    /// Over.
    Done,
}

/// Priority class of a plan; a smaller one is claimed sooner (`steps_admit` says by how much).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Class {
    /// A person waits for the answer.
    Interactive = 0,
    /// Work that a planner made.
    Planned = 2,
    /// Schedules and bulk.
    Background = 3,
}

/// Which of its needs a step waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "step_join", rename_all = "snake_case")]
pub enum Join {
    /// Every one.
    #[default]
    All,
    /// The first that is met.
    Any,
}

/// What a plan does when a step of its own fails for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "failure_policy", rename_all = "snake_case")]
pub enum OnFailure {
    /// The person decides, while everything that does not need the step goes on.
    #[default]
    Decide,
    /// What needs the step is skipped, the rest goes on.
    Continue,
    /// The rest is cancelled; a summary still tells of it.
    Abort,
}

/// A step to insert. Its needs name steps of the same insertion.
#[derive(Debug, Clone, Serialize)]
pub struct NewStep {
    /// Its id.
    pub id: StepId,
    /// Name within the plan.
    pub key: String,
    /// Executor.
    pub kind: StepKind,
    /// Agent whose place it takes.
    pub agent_id: Option<AgentId>,
    /// What to do.
    pub spec: StepSpec,
    /// Runs that may fail before the step does; 3 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u16>,
    /// Which of its needs it waits for.
    pub joins: Join,
    /// Longest time under leases, in milliseconds; absent: the installation's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long passing trouble is borne, in milliseconds; absent: the installation's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_for_ms: Option<u64>,
    /// Edges.
    pub needs: Vec<NewNeed>,
}

impl NewStep {
    /// A step that needs nothing, with the defaults of everything else.
    pub fn new(key: impl Into<String>, kind: StepKind) -> Self {
        Self {
            id: StepId::new(),
            key: key.into(),
            kind,
            agent_id: None,
            spec: StepSpec::default(),
            max_failures: None,
            joins: Join::All,
            timeout_ms: None,
            retry_for_ms: None,
            needs: Vec::new(),
        }
    }
}

/// An edge to insert.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NewNeed {
    /// The needed step.
    pub id: StepId,
    /// When it counts as met.
    pub when: When,
}

/// A plan as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// Session.
    pub session_id: Option<SessionId>,
    /// Message that it answers.
    pub message_id: Option<MessageId>,
    /// How it came to be.
    pub mode: PlanMode,
    /// What is wanted.
    pub goal: String,
    /// Stored state.
    pub state: PlanState,
    /// Waits for its session's turn.
    pub queued: bool,
    /// Counts changes of the graph.
    pub revision: i32,
    /// What happens when a step fails for good.
    pub on_failure: OnFailure,
    /// Since when the person holds it.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it is stopped.
    pub deadline: Option<DateTime<Utc>>,
    /// Since when it is being cancelled.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Who stopped it: `person` or `timed_out`.
    pub cancel_reason: Option<String>,
    /// Acceptance.
    pub created_at: DateTime<Utc>,
    /// Last transition.
    pub updated_at: DateTime<Utc>,
    /// End.
    pub finished_at: Option<DateTime<Utc>>,
    /// Steps by state: `{"running": 2, ...}`.
    #[sqlx(json)]
    pub counts: std::collections::BTreeMap<String, i64>,
    /// The planning step has not ended.
    pub planning: bool,
    /// Some step waits for the person.
    pub asking: bool,
}

impl Plan {
    /// What it is at.
    pub fn phase(&self) -> Phase {
        if self.state != PlanState::Active {
            Phase::Done
        } else if self.cancel_requested_at.is_some() {
            Phase::Cancelling
        } else if self.paused_at.is_some() {
            Phase::Paused
        } else if self.queued {
            Phase::Queued
        } else if self.asking
            && !self.counts.contains_key("running")
            && !self.counts.contains_key("ready")
        {
            Phase::AwaitingApproval
        } else if self.planning {
            Phase::Planning
        } else {
            Phase::Running
        }
    }
}

/// A step as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Step {
    /// Its id.
    pub id: StepId,
    /// Name within the plan.
    pub key: String,
    /// Executor.
    pub kind: String,
    /// Agent.
    pub agent_id: Option<AgentId>,
    /// The agent's name.
    pub agent_name: Option<String>,
    /// What it has to do.
    pub spec: Value,
    /// State.
    pub state: StateName,
    /// Runs so far.
    pub attempt: i16,
    /// Runs that failed.
    pub failures: i16,
    /// Which of its needs it waits for.
    pub joins: Join,
    /// The step that made it.
    pub parent_id: Option<StepId>,
    /// Why its newest run did not come to an end.
    pub last_error: Option<Value>,
    /// The text of its running turn so far.
    pub partial: Option<String>,
    /// What it needs: `[{"key", "when"}]`.
    #[sqlx(json)]
    pub needs: Vec<NeedView>,
    /// The open wait of a suspended step.
    pub wait_id: Option<WaitId>,
    /// What it is for.
    pub wait_kind: Option<WaitKind>,
    /// Which kind of approval it is.
    pub wait_type: Option<String>,
    /// Its deadline.
    pub wait_deadline: Option<DateTime<Utc>>,
    /// Result.
    pub result: Option<Value>,
    /// Error.
    pub error: Option<Value>,
    /// Planning.
    pub created_at: DateTime<Utc>,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
    /// End.
    pub finished_at: Option<DateTime<Utc>>,
}

/// An edge as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedView {
    /// Key of the needed step.
    pub key: String,
    /// When it counts as met.
    pub when: When,
}
