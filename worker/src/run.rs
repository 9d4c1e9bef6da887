//! One run of one step: the executor, raced against the loss of the lease and the cancel of the plan.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use engine::{
    Store, StoreError,
    llm::{Llm, LlmError},
    step::{ClaimedStep, Outcome, Reply, StepError, claimed::Claim, outcome::ErrorClass},
};
use futures::FutureExt;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::{exec, llm::Router, tool::Tools};

/// First wait of a retry; doubles with each attempt, with full jitter.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait of a retry.
const BACKOFF_CAP: Duration = Duration::from_mins(1);

/// What executors work with.
pub struct Runner {
    /// Plans and their data.
    pub store: Store,
    /// The model vendors.
    pub router: Router,
    /// Model of agents and planners that name none.
    pub default_model: String,
    /// Longest time for planning.
    pub planning_timeout: Duration,
    /// What runs on the server.
    pub tools: Tools,
}

/// Why an executor did not come to an outcome by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The model failed.
    #[error(transparent)]
    Llm(#[from] LlmError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The step cannot be run as it is.
    #[error("{}", .0.message)]
    Step(StepError),
}

/// Runs a step to its outcome and hands that in.
pub async fn step(runner: Arc<Runner>, step: ClaimedStep) {
    let claim = Arc::clone(&step.claim);
    let outcome = tokio::select! {
        biased;
        () = claim.lost.cancelled() => Outcome::Yield,
        // The plan's cancel turns whatever is returned into `cancelled`; what counts is to stop now.
        () = claim.cancelled.cancelled() => Outcome::Yield,
        // Nothing that a broken executor leaves behind is used again.
        outcome = timeout(runner.store.limits().run, AssertUnwindSafe(exec::run(&runner, &claim)).catch_unwind()) => match outcome {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Ok(Err(error))) => of_error(&claim, &error),
            // Caught here and not only by the pool, because only here is somebody told when it was the last try.
            Ok(Err(_)) => retry(&claim, backoff(&claim), StepError::bug(
                "panicked", "the step's executor broke off; see the worker's log")),
            Err(_) => retry(&claim, backoff(&claim), StepError::new(
                ErrorClass::Transient, "attempt_timeout", format!("the run took longer than {:?}", runner.store.limits().run))),
        },
    };
    debug!(step.id = %claim.id, step.key = claim.key, claim.attempt, outcome = outcome.word(), "a step ran");
    step.finish(outcome);
}

impl Runner {
    /// The vendor and the bare name of a configured model.
    pub fn model(&self, configured: Option<&str>) -> Result<(Arc<dyn Llm>, String), LlmError> {
        self.router
            .for_model(configured.unwrap_or(&self.default_model))
    }
}

/// Decides by the error's class whether the step is run again.
fn of_error(claim: &Claim, error: &RunError) -> Outcome {
    match error {
        RunError::Llm(llm) => {
            let error = StepError::from(llm);
            match llm {
                LlmError::RateLimited { retry_after, .. } => {
                    // Not all at once when the provider is back.
                    let asked = retry_after.unwrap_or_default();
                    defer(claim, asked + backoff(claim), error)
                }
                LlmError::Transient(_) => defer(claim, backoff(claim), error),
                LlmError::Budget(_) | LlmError::Invalid(_) | LlmError::Refused(_) => {
                    failed_for_good(claim, error)
                }
            }
        }
        RunError::Store(store) if store.is_passing() => {
            let message = "the database did not answer while the step ran";
            let error = StepError::new(ErrorClass::Transient, "store_unavailable", message);
            defer(claim, backoff(claim), error)
        }
        // Its finish is fenced; what it says does not matter.
        RunError::Store(StoreError::LeaseLost(_)) => Outcome::Yield,
        RunError::Store(store) => {
            warn!(step.id = %claim.id, error = %store, "a step could not read what it needs");
            let message = "the step's data could not be read; see the worker's log";
            failed_for_good(claim, StepError::bug("store_failed", message))
        }
        RunError::Step(error) => failed_for_good(claim, error.clone()),
    }
}

/// Passing trouble: not before `after`, and with the apology that the person is owed if it was the last run.
pub(crate) fn defer(claim: &Claim, after: Duration, error: StepError) -> Outcome {
    let last_words = apology(claim, &error);
    Outcome::Defer {
        after,
        error,
        last_words,
    }
}

fn retry(claim: &Claim, after: Duration, error: StepError) -> Outcome {
    let last_words = apology(claim, &error);
    Outcome::Retry {
        after,
        error,
        last_words,
    }
}

fn failed_for_good(claim: &Claim, error: StepError) -> Outcome {
    let reply = apology(claim, &error);
    Outcome::Fail { error, reply }
}

/// A step that owes the person an answer says why there is none.
pub(crate) fn apology(claim: &Claim, error: &StepError) -> Option<Reply> {
    let owes = claim.spec.as_ref().is_some_and(|spec| spec.answers);
    owes.then(|| Reply {
        id: engine::id::MessageId::new(),
        content: format!(
            "I could not answer this. {} ({})",
            sentence(&error.message),
            error.code
        ),
    })
}

fn sentence(fragment: &str) -> String {
    let mut letters = fragment.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

/// Exponential with full jitter, by the failures so far; passing trouble is given as much time again as it has taken.
pub(crate) fn backoff(claim: &Claim) -> Duration {
    let doubled = BACKOFF.saturating_mul(1 << std::cmp::min(claim.failures, 10));
    let most = std::cmp::max(doubled, claim.failing_for);
    std::cmp::min(most, BACKOFF_CAP).mul_f64(fastrand::f64())
}
