//! The executors: one a kind of step.

mod agent;
mod planning;
mod summary;
mod timer;

use std::time::Duration;

use engine::{
    StoreError,
    event::hints::Delta,
    llm::{Line, LlmError, Prompt, Turn},
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
    match claim.kind {
        Some(StepKind::Agent) => agent::run(runner, claim, spec).await,
        Some(StepKind::Planning) => planning::run(runner, claim).await,
        Some(StepKind::Summary) => summary::run(runner, claim).await,
        Some(StepKind::Timer) => timer::run(runner, claim, spec).await,
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

/// One model turn whose text goes to the person as it comes.
async fn streamed_turn(
    runner: &Runner,
    claim: &Claim,
    model: Option<&str>,
    mut prompt: Prompt,
) -> Result<Turn, LlmError> {
    let (llm, name) = runner.model(model)?;
    prompt.model = name;
    prompt.attempt = u32::from(claim.attempt);
    let hints = runner.store.hints().clone();
    let on_delta = |text: &str| {
        hints.delta(Delta {
            user: claim.scope.user(),
            session: claim.session,
            plan: claim.plan,
            step: claim.id,
            key: claim.key.clone(),
            attempt: claim.attempt,
            text: text.to_owned(),
        });
    };
    llm.turn(&prompt, &on_delta).await
}

/// What a step that asked a model returns.
fn turn_result(turn: &Turn) -> Value {
    json!({ "text": turn.text, "stop": turn.stop, "usage": turn.usage })
}

/// The conversation before the question, the results that it builds on, and the question.
fn lines(history: &[Line], needs: &[engine::store::NeedResult], question: &str) -> Vec<Line> {
    let results = needs.iter().map(Line::from);
    let question = Line {
        role: engine::llm::Role::User,
        content: question.to_owned(),
    };
    history
        .iter()
        .cloned()
        .chain(results)
        .chain(std::iter::once(question))
        .collect()
}
