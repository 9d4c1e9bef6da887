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

    /// It has ended; only the person can bring it back.
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
    Succeeded(Runs),
    /// Ended badly.
    Failed(Runs),
    /// What it needs did not come, or the person goes on without it.
    Skipped {
        /// Edges that were not met then.
        waiting_for: u32,
    },
    /// It or its plan was cancelled.
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
    /// Whether passing trouble is still borne.
    pub patience: Patience,
    /// Whether a question about it got no answer, or a no, and may be taken up again.
    pub question: Question,
    /// What its plan does when it fails for good.
    pub asks: Asks,
    /// Whether it is being cancelled.
    pub cancelling: Cancelling,
}

/// Whether passing trouble is still borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// The step is tried again.
    #[default]
    Left,
    /// It has kept the step from getting on for too long.
    Gone,
}

/// Whether a question about a step may be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Question {
    /// There is none.
    #[default]
    None,
    /// It was declined, or nobody answered in time.
    Declined,
}

/// Whether the person is asked when a step fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asks {
    /// It fails.
    #[default]
    No,
    /// It is suspended until the person has decided.
    Yes,
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
    /// Passing trouble outside; it is tried again.
    Defer,
    /// The worker gave it back (shutdown).
    Yield,
    /// It waits for something.
    Suspend,
    /// It failed for good.
    Fail,
    /// It failed for good, and the person has decided so.
    GiveUp,
    /// The person goes on without it.
    Skip,
    /// Its lease expired.
    Lose,
    /// What it waited for came, or the deadline passed.
    Wake,
    /// It or its plan was cancelled.
    Cancel,
    /// The person wants it to run again.
    Revive,
    /// Something that it needs runs again.
    NeedRevived,
    /// The person takes a question about it up again.
    Reopen,
}

impl StepEvent {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::NeedMet,
        Self::NeedMissed,
        Self::Claim,
        Self::Succeed,
        Self::Retry,
        Self::Defer,
        Self::Yield,
        Self::Suspend,
        Self::Fail,
        Self::GiveUp,
        Self::Skip,
        Self::Lose,
        Self::Wake,
        Self::Cancel,
        Self::Revive,
        Self::NeedRevived,
        Self::Reopen,
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
            (Self::Blocked { waiting_for }, E::NeedMissed) => Self::Skipped { waiting_for },
            (Self::Ready(runs), E::Claim) => Self::Running(Runs {
                token: runs.token + 1,
                ..runs
            }),
            (
                Self::Running(runs),
                finish @ (E::Succeed
                | E::Retry
                | E::Defer
                | E::Yield
                | E::Suspend
                | E::Fail
                | E::GiveUp
                | E::Skip
                | E::Lose),
            ) => runs.finished_with(finish),
            (Self::Failed(runs), E::Revive) => Self::Ready(Runs {
                failures: 0,
                patience: Patience::Left,
                ..runs
            }),
            (Self::Failed(runs) | Self::Succeeded(runs), E::Reopen)
                if runs.question == Question::Declined =>
            {
                Self::Suspended(Runs {
                    failures: 0,
                    patience: Patience::Left,
                    question: Question::None,
                    ..runs
                })
            }
            (Self::Skipped { waiting_for }, E::NeedRevived) if waiting_for > 0 => {
                Self::Blocked { waiting_for }
            }
            (Self::Suspended(runs), E::Wake) => Self::Ready(Runs {
                patience: Patience::Left,
                ..runs
            }),
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
            Self::Succeeded(_) => StateName::Succeeded,
            Self::Failed(_) => StateName::Failed,
            Self::Skipped { .. } => StateName::Skipped,
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
        let failed_once_more = Self {
            failures: self.failures + 1,
            ..self
        };
        // A run that came to an end of its own got on, whatever kept it before.
        let got_on = |runs: Self| Self {
            patience: Patience::Left,
            ..runs
        };
        match finish {
            StepEvent::Succeed => StepState::Succeeded(got_on(self)),
            StepEvent::Skip => StepState::Skipped { waiting_for: 0 },
            StepEvent::Suspend => StepState::Suspended(got_on(self)),
            StepEvent::Fail => got_on(failed_once_more).failed_for_good(),
            StepEvent::GiveUp => StepState::Failed(got_on(failed_once_more)),
            StepEvent::Retry | StepEvent::Lose
                if failed_once_more.failures >= self.max_failures =>
            {
                failed_once_more.failed_for_good()
            }
            StepEvent::Retry | StepEvent::Lose => StepState::Ready(failed_once_more),
            StepEvent::Defer if self.patience == Patience::Gone => self.failed_for_good(),
            // Defer and yield; the other events are no finishes and do not come here.
            _ => StepState::Ready(self),
        }
    }

    /// The person decides before anything is given up, where the plan says so.
    fn failed_for_good(self) -> StepState {
        match self.asks {
            Asks::Yes => StepState::Suspended(self),
            Asks::No => StepState::Failed(self),
        }
    }
}
