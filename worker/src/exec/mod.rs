//! The executors: one a kind of step.

mod agent;
mod calls;
mod card;
mod children;
mod consent;
mod delegate;
mod journal;
mod map;
mod planning;
mod question;
mod summary;
mod timer;
mod wanted;

use std::time::Duration;

use engine::{
    StoreError,
    llm::{Line, Role, Turn},
    step::{Outcome, StepError, StepKind, claimed::Claim},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::debug;

use crate::run::{RunError, Runner};

/// First and longest pause between two tries of a read.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Runs a claim by its kind.
pub async fn run(runner: &Runner, claim: &Claim) -> Result<Outcome, RunError> {
    let Some(spec) = &claim.spec else {
        let error = StepError::bug(
            "unreadable_step",
            "this step was written by a version that this worker does not understand",
        );
        return Err(RunError::Step(error));
    };
    if let Some(outcome) = card::decided(runner, claim).await? {
        return Ok(outcome);
    }
    match claim.kind {
        Some(StepKind::Map) => map::run(runner, claim, spec).await,
        Some(StepKind::Agent) => agent::run(runner, claim, spec).await,
        Some(StepKind::Planning) => planning::run(runner, claim).await,
        Some(StepKind::Summary) => summary::run(runner, claim).await,
        Some(StepKind::Timer) => Ok(timer::run(claim, spec)),
        None => Err(RunError::Step(StepError::bug(
            "unknown_kind",
            "this worker does not know this kind of step",
        ))),
    }
}

/// Reads until the database answers: after a cut every connection of the pool may be dead, and that shall cost a step none
/// of its attempts. Ends at the latest with the lease, or with the step's time.
async fn patiently<T, F>(read: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = PAUSE.0;
    loop {
        match read().await {
            Err(error) if error.is_passing() => debug!(%error, "a step waits for the database"),
            done => return done,
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = std::cmp::min(pause * 2, PAUSE.1);
    }
}

/// The JSON in what a model said: models like to wrap it in prose or fences, so from the first opening to the last closing sign.
fn within(text: &str, opening: char, closing: char) -> &str {
    match (text.find(opening), text.rfind(closing)) {
        (Some(start), Some(end)) if start < end => &text[start..=end],
        _ => text,
    }
}

/// What a step that asked a model returns.
fn turn_result(turn: &Turn) -> Value {
    json!({ "text": turn.text, "stop": turn.stop, "usage": turn.usage })
}

/// The conversation before the question, the results that it builds on, and the question.
fn lines(history: &[Line], needs: &[engine::store::NeedResult], question: &str) -> Vec<Line> {
    let results = needs.iter().map(Line::from);
    let question = Line::new(Role::User, question);
    history
        .iter()
        .cloned()
        .chain(results)
        .chain(std::iter::once(question))
        .collect()
}
