//! Why nothing is happening: for every step that has not ended one reason, with its facts.
//!
//! The match is total over what the rows can say. There is no `unknown`: a step for which no reason holds would be a
//! defect of the engine, and the compiler asks for one here whenever a state is added.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    id::{AgentId, PlanId, StepId, WaitId},
    plan::graph::When,
    step::StateName,
    wait::WaitKind,
};

/// Why a step is where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Messages of a session take turns, and others come first.
    SessionTurn {
        /// Messages before it, the one at work included.
        ahead: i64,
    },
    /// It needs steps that have not ended.
    WaitsForSteps {
        /// Those steps.
        needs: Vec<OpenNeed>,
    },
    /// The person holds the plan.
    PlanPaused {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// Its agent runs as many steps as it may.
    AgentFull {
        /// The agent.
        agent: AgentId,
        /// Its name.
        agent_name: Option<String>,
        /// How many it runs at once.
        limit: i16,
        /// What it runs, at most ten.
        with: Vec<Running>,
        /// Steps of the agent that come first.
        ahead: i64,
    },
    /// The provider of its model asked to wait, or is down.
    ProviderLimited {
        /// When it is tried again.
        until: DateTime<Utc>,
        /// What the provider said.
        error: Value,
    },
    /// Its last run failed.
    RetryLater {
        /// When it is tried again.
        until: DateTime<Utc>,
        /// Why it failed.
        error: Option<Value>,
        /// Runs that failed so far.
        failures: i16,
    },
    /// Nobody is there to run it.
    NoWorkerOnline {
        /// When a worker was last seen.
        last_seen: Option<DateTime<Utc>>,
    },
    /// The next free worker takes it, after those that came before.
    Queued {
        /// Steps of all kinds that come first; counting stops at 1,000.
        ahead: i64,
        /// Workers that are there.
        workers: i64,
    },
    /// It runs.
    Running {
        /// Since when.
        since: DateTime<Utc>,
        /// Which run it is.
        attempt: i16,
        /// When it is stopped at the latest.
        until: DateTime<Utc>,
    },
    /// It was cancelled and is about to stop.
    Cancelling {
        /// Since when it runs.
        since: DateTime<Utc>,
    },
    /// Its worker does not answer; it runs elsewhere as soon as the lease is over.
    WorkerLost {
        /// When the lease ends.
        retry_at: DateTime<Utc>,
        /// When the worker was last seen.
        last_seen: Option<DateTime<Utc>>,
    },
    /// The person is asked.
    Approval {
        /// The question.
        approval_id: WaitId,
        /// What kind of question.
        #[serde(rename = "type")]
        kind: String,
        /// Until when.
        until: Option<DateTime<Utc>>,
    },
    /// The person is asked for data.
    Input {
        /// The question.
        approval_id: WaitId,
        /// Until when.
        until: Option<DateTime<Utc>>,
    },
    /// The person's own program runs a tool.
    ClientTool {
        /// The wait.
        wait_id: WaitId,
        /// Until when.
        until: Option<DateTime<Utc>>,
    },
    /// It waits for an instant.
    Timer {
        /// Which.
        until: Option<DateTime<Utc>>,
    },
    /// It waits for steps that it made.
    Children {
        /// How many have not ended.
        open: i32,
    },
}

/// A need that is not met yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenNeed {
    /// Its key.
    pub key: String,
    /// Where it is.
    pub state: StateName,
    /// Which of its ends is needed.
    pub when: When,
}

/// A step that takes a place of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its plan.
    pub plan_id: PlanId,
    /// Its name in it.
    pub key: String,
}

/// A step and its reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The step.
    pub id: StepId,
    /// Its name.
    pub key: String,
    /// Its state.
    pub state: StateName,
    /// Why it is there.
    #[serde(flatten)]
    pub reason: Reason,
}

/// What the rows say of a step that has not ended.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Facts {
    /// The step.
    pub id: StepId,
    /// Its name.
    pub key: String,
    /// Its state.
    #[sqlx(flatten)]
    pub step: StepFacts,
    /// Of a ready step.
    #[sqlx(flatten)]
    pub ready: ReadyFacts,
    /// Of a running step.
    #[sqlx(flatten)]
    pub lease: LeaseFacts,
    /// Of a suspended step.
    #[sqlx(flatten)]
    pub wait: WaitFacts,
    /// Of the installation.
    #[sqlx(flatten)]
    pub world: WorldFacts,
}

/// What every step has.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the same names")]
pub struct StepFacts {
    pub state: StateName,
    pub attempt: i16,
    pub failures: i16,
    pub last_error: Option<Value>,
    pub open_children: i32,
    pub queued: bool,
    pub turns_ahead: i64,
    pub paused_at: Option<DateTime<Utc>>,
    pub cancelling: bool,
    #[sqlx(json)]
    pub needs: Vec<OpenNeed>,
    pub agent_id: Option<AgentId>,
    pub agent_name: Option<String>,
    pub agent_limit: Option<i16>,
    #[sqlx(json)]
    pub agent_runs: Vec<Running>,
}

/// What a ready step has.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the same names")]
pub struct ReadyFacts {
    pub placed: Option<bool>,
    pub due_at: Option<DateTime<Utc>>,
    pub ahead: i64,
}

/// What a running step has.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the same names")]
pub struct LeaseFacts {
    pub claimed_at: Option<DateTime<Utc>>,
    pub run_until: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub worker_seen_at: Option<DateTime<Utc>>,
}

/// What a suspended step has.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the same names")]
pub struct WaitFacts {
    pub wait_id: Option<WaitId>,
    pub wait_kind: Option<WaitKind>,
    pub wait_type: Option<String>,
    pub deadline: Option<DateTime<Utc>>,
}

/// What holds for all.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the same names")]
pub struct WorldFacts {
    pub workers: i64,
    pub worker_last_seen: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// A worker that has not reported for so long is taken for lost: it does so every 5 s.
const SILENT: chrono::TimeDelta = chrono::TimeDelta::seconds(15);

impl Facts {
    /// The reason, if the step has not ended.
    pub fn explain(self) -> Option<Explained> {
        let reason = match self.step.state {
            StateName::Blocked => self.blocked(),
            StateName::Ready => self.ready(),
            StateName::Running => self.running(),
            StateName::Suspended => self.suspended(),
            StateName::Succeeded
            | StateName::Failed
            | StateName::Skipped
            | StateName::Cancelled => return None,
        };
        Some(Explained {
            id: self.id,
            key: self.key,
            state: self.step.state,
            reason,
        })
    }

    fn blocked(&self) -> Reason {
        if self.step.needs.is_empty() {
            Reason::SessionTurn {
                ahead: self.step.turns_ahead,
            }
        } else {
            Reason::WaitsForSteps {
                needs: self.step.needs.clone(),
            }
        }
    }

    fn ready(&self) -> Reason {
        if let Some(since) = self.step.paused_at {
            return Reason::PlanPaused { since };
        }
        if let Some(until) = self.ready.due_at {
            return self.backing_off(until);
        }
        if let (Some(false), Some(agent)) = (self.ready.placed, self.step.agent_id) {
            return Reason::AgentFull {
                agent,
                agent_name: self.step.agent_name.clone(),
                limit: self.step.agent_limit.unwrap_or(0),
                with: self.step.agent_runs.clone(),
                ahead: self.ready.ahead,
            };
        }
        if self.world.workers == 0 {
            return Reason::NoWorkerOnline {
                last_seen: self.world.worker_last_seen,
            };
        }
        Reason::Queued {
            ahead: self.ready.ahead,
            workers: self.world.workers,
        }
    }

    fn backing_off(&self, until: DateTime<Utc>) -> Reason {
        let class = |error: &Value| {
            let class = error.get("class").and_then(Value::as_str);
            matches!(class, Some("rate_limited" | "transient"))
        };
        match &self.step.last_error {
            Some(error) if class(error) => Reason::ProviderLimited {
                until,
                error: error.clone(),
            },
            error => Reason::RetryLater {
                until,
                error: error.clone(),
                failures: self.step.failures,
            },
        }
    }

    fn running(&self) -> Reason {
        let since = self.lease.claimed_at.unwrap_or(self.world.now);
        let expires_at = self.lease.expires_at.unwrap_or(self.world.now);
        let silent = self
            .lease
            .worker_seen_at
            .is_some_and(|seen| self.world.now - seen > SILENT);
        if silent || expires_at <= self.world.now {
            return Reason::WorkerLost {
                retry_at: expires_at,
                last_seen: self.lease.worker_seen_at,
            };
        }
        if self.step.cancelling {
            return Reason::Cancelling { since };
        }
        Reason::Running {
            since,
            attempt: self.step.attempt,
            until: self.lease.run_until.unwrap_or(expires_at),
        }
    }

    fn suspended(&self) -> Reason {
        let until = self.wait.deadline;
        match (self.wait.wait_kind, self.wait.wait_id) {
            (Some(WaitKind::Approval), Some(approval_id)) => Reason::Approval {
                approval_id,
                kind: self.wait.wait_type.clone().unwrap_or_default(),
                until,
            },
            (Some(WaitKind::Input), Some(approval_id)) => Reason::Input { approval_id, until },
            (Some(WaitKind::ClientTool), Some(wait_id)) => Reason::ClientTool { wait_id, until },
            (Some(WaitKind::Timer), _) => Reason::Timer { until },
            // A suspended step has an open wait; one decided a moment ago is about to be ready.
            (Some(_) | None, _) => Reason::Children {
                open: self.step.open_children,
            },
        }
    }
}
