//! Proof that this process runs a step.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::mpsc::UnboundedSender, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    id::{AgentId, PlanId, SessionId, StepId, WaitId},
    scope::UserScope,
    step::{Outcome, StepKind, StepSpec},
    wait::{Decision, WaitKind},
};

/// A step under this process's lease. Whoever holds it may run the step and must [`finish`](Self::finish) it; finishing
/// twice does not compile. Dropped unfinished (a panic, an aborted task) it reports itself as such.
#[derive(Debug)]
pub struct ClaimedStep {
    /// What the claim says.
    pub claim: Arc<Claim>,
    back: Option<UnboundedSender<Finished>>,
}

/// What a claim says of its step.
#[derive(Debug)]
pub struct Claim {
    /// Whose step; the claim is one of the two sources of a scope.
    pub scope: UserScope,
    /// The step.
    pub id: StepId,
    /// Its plan.
    pub plan: PlanId,
    /// Its session, if any.
    pub session: Option<SessionId>,
    /// Its agent, if any.
    pub agent: Option<AgentId>,
    /// Name within the plan.
    pub key: String,
    /// Which executor; none: a word that this program does not know.
    pub kind: Option<StepKind>,
    /// What to do; none: a row that this program cannot read.
    pub spec: Option<StepSpec>,
    /// The fence.
    pub token: i64,
    /// Which run this is, from 1.
    pub attempt: u16,
    /// Counts new beginnings by the person; each has a journal of its own.
    pub round: u16,
    /// How often work was delegated on the way to it.
    pub depth: u16,
    /// The wait that ended since its last run; stays until a run comes to an end of its own.
    pub woken: Option<Woken>,
    /// Runs that failed; takeovers too.
    pub failures: u16,
    /// For how long passing trouble has kept it from getting on; zero: none has.
    pub failing_for: Duration,
    /// Until when the lease may be relied on.
    pub trust: Trust,
    /// Fires when the lease is lost or about to be: stop at once, nothing will be accepted.
    pub lost: CancellationToken,
    /// Fires when the plan is being cancelled: stop, and finish with [`Outcome::Yield`].
    pub cancelled: CancellationToken,
}

/// How long a lease may be relied on, by this process's own clock: from the *start* of the call that granted or renewed it, and
/// a tenth less than it lasts. A process that slept through it finds out by looking here, before anybody could tell it.
#[derive(Debug, Default)]
pub struct Trust(Mutex<Option<Instant>>);

impl Trust {
    /// Whether the lease holds for all that this process can know. One that was never set (a single claim in a test) does.
    pub fn holds(&self) -> bool {
        self.lock().is_none_or(|until| Instant::now() < until)
    }

    pub(crate) fn set(&self, until: Instant) {
        *self.lock() = Some(until);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait that ended, and how.
#[derive(Debug, Clone, Deserialize)]
pub struct Woken {
    /// The wait.
    pub id: WaitId,
    /// What it was for.
    pub kind: WaitKind,
    /// What was asked.
    pub payload: Value,
    /// How it ended.
    pub decision: Decision,
    /// What came with the decision.
    #[serde(default)]
    pub answer: Option<Value>,
}

impl Woken {
    /// What kind of approval it was: `decision`, `outcome_unknown`, `tool` ...
    pub fn approval(&self) -> Option<&str> {
        self.payload.get("type").and_then(Value::as_str)
    }

    /// Which of the choices offered was taken.
    pub fn choice(&self) -> Option<&str> {
        self.answer.as_ref()?.get("choice")?.as_str()
    }

    /// Which call it is about.
    pub fn ordinal(&self) -> Option<u32> {
        let ordinal = self.payload.get("ordinal")?.as_u64()?;
        u32::try_from(ordinal).ok()
    }
}

/// An outcome on its way to the next commit.
#[derive(Debug)]
pub struct Finished {
    /// Which claim.
    pub claim: Arc<Claim>,
    /// How it ended; none: it was dropped, most likely by a panic.
    pub outcome: Option<Outcome>,
}

impl ClaimedStep {
    /// Ties a claim to the loop that made it.
    pub fn new(claim: Arc<Claim>, back: UnboundedSender<Finished>) -> Self {
        Self {
            claim,
            back: Some(back),
        }
    }

    /// Hands the outcome to the loop, which commits it with the next batch. Whether the lease still held shows there: a
    /// fenced outcome is dropped and logged.
    pub fn finish(mut self, outcome: Outcome) {
        self.report(Some(outcome));
    }

    fn report(&mut self, outcome: Option<Outcome>) {
        if let Some(back) = self.back.take() {
            // A closed loop has given all its leases back already; the row decides.
            let _ = back.send(Finished {
                claim: Arc::clone(&self.claim),
                outcome,
            });
        }
    }
}

impl Drop for ClaimedStep {
    fn drop(&mut self) {
        self.report(None);
    }
}
