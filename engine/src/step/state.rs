//! The state machine of a step: what `engine/src/store/sql` does to rows, said once more in types.
//!
//! The model test (`tests/it/model.rs`) drives every (state, event) pair through [`StepState::on`] and through the SQL
//! and demands that both say the same.

use serde::{Deserialize, Serialize};

/// A state without its data, as the database and the wire name it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "step_state", rename_all = "snake_case")]
pub enum StateName {
    /// Waits for what it needs.
    Blocked,
    /// Waits for a place of its agent and a worker.
    Ready,
    /// A worker holds its lease.
    Running,
    /// Waits for a person, a timer, a client.
    Suspended,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Will not run: what it needs did not come.
    Skipped,
    /// Will not run, or not again: its plan was cancelled.
    Cancelled,
}

impl StateName {
    /// All, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Blocked,
        Self::Ready,
        Self::Running,
        Self::Suspended,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
    ];

    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing comes after it in this release.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled
        )
    }
}

/// A state with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// So many edges are not met yet (at least one).
    Blocked {
        /// Edges not met.
        waiting_for: u32,
    },
    /// May run.
    Ready(Runs),
    /// A lease exists.
    Running(Runs),
    /// An open wait exists.
    Suspended(Runs),
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// What it needs did not come.
    Skipped,
    /// Its plan was cancelled.
    Cancelled,
}

/// What a step has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Runs {
    /// The fence: claims so far.
    pub token: u64,
    /// Runs that failed or lost their worker.
    pub failures: u16,
    /// Bound of `failures`.
    pub max_failures: u16,
    /// The plan is being cancelled.
    pub cancelling: Cancelling,
}

/// Whether the plan of a step is being cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cancelling {
    /// It goes on.
    #[default]
    No,
    /// The next finish ends the step.
    Yes,
}

/// What can happen to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepEvent {
    /// An edge was met.
    NeedMet,
    /// An edge can no longer be met.
    NeedMissed,
    /// A worker took it.
    Claim,
    /// It returned a result, maybe with further steps.
    Succeed,
    /// It failed and may be tried again.
    Retry,
    /// The worker gave it back (shutdown).
    Yield,
    /// It waits for something.
    Suspend,
    /// It failed for good.
    Fail,
    /// Its lease expired.
    Lose,
    /// What it waited for came, or the deadline passed.
    Wake,
    /// The plan was cancelled.
    Cancel,
}

impl StepEvent {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NeedMet,
        Self::NeedMissed,
        Self::Claim,
        Self::Succeed,
        Self::Retry,
        Self::Yield,
        Self::Suspend,
        Self::Fail,
        Self::Lose,
        Self::Wake,
        Self::Cancel,
    ];
}

/// An event that does not happen in a state; the transition touches no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not happen to a step that is {state}")]
pub struct IllegalTransition {
    /// Where the step was.
    pub state: &'static str,
    /// What came.
    pub event: StepEvent,
}

impl StepState {
    /// The state after the event.
    pub fn on(self, event: StepEvent) -> Result<Self, IllegalTransition> {
        use StepEvent as E;
        Ok(match (self, event) {
            (Self::Blocked { waiting_for: 1 }, E::NeedMet) => Self::Ready(Runs::fresh()),
            (Self::Blocked { waiting_for }, E::NeedMet) => Self::Blocked {
                waiting_for: waiting_for - 1,
            },
            (Self::Blocked { .. }, E::NeedMissed) => Self::Skipped,
            (Self::Ready(runs), E::Claim) => Self::Running(Runs {
                token: runs.token + 1,
                ..runs
            }),
            (
                Self::Running(runs),
                finish @ (E::Succeed | E::Retry | E::Yield | E::Suspend | E::Fail | E::Lose),
            ) => runs.finished_with(finish),
            (Self::Suspended(runs), E::Wake) => Self::Ready(runs),
            (Self::Blocked { .. } | Self::Ready(_) | Self::Suspended(_), E::Cancel) => {
                Self::Cancelled
            }
            (Self::Running(runs), E::Cancel) => Self::Running(Runs {
                cancelling: Cancelling::Yes,
                ..runs
            }),
            (state, event) => {
                return Err(IllegalTransition {
                    state: state.name().as_str(),
                    event,
                });
            }
        })
    }

    /// The state without its data.
    pub fn name(self) -> StateName {
        match self {
            Self::Blocked { .. } => StateName::Blocked,
            Self::Ready(_) => StateName::Ready,
            Self::Running(_) => StateName::Running,
            Self::Suspended(_) => StateName::Suspended,
            Self::Succeeded => StateName::Succeeded,
            Self::Failed => StateName::Failed,
            Self::Skipped => StateName::Skipped,
            Self::Cancelled => StateName::Cancelled,
        }
    }
}

impl Runs {
    /// Of a step that never ran; three failures are its bound.
    pub fn fresh() -> Self {
        Self {
            max_failures: 3,
            ..Self::default()
        }
    }

    fn finished_with(self, finish: StepEvent) -> StepState {
        if self.cancelling == Cancelling::Yes {
            return StepState::Cancelled;
        }
        match finish {
            StepEvent::Succeed => StepState::Succeeded,
            StepEvent::Fail => StepState::Failed,
            StepEvent::Suspend => StepState::Suspended(self),
            StepEvent::Retry | StepEvent::Lose if self.failures + 1 >= self.max_failures => {
                StepState::Failed
            }
            StepEvent::Retry | StepEvent::Lose => StepState::Ready(Self {
                failures: self.failures + 1,
                ..self
            }),
            // Yield; the other events are no finishes and do not come here.
            _ => StepState::Ready(self),
        }
    }
}
