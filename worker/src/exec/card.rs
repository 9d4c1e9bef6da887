//! What the person has decided about a step that had failed for good.

use engine::{
    step::{
        Outcome, StepError,
        claimed::{Claim, Woken},
        outcome::ErrorClass,
    },
    wait::Decision,
};
use serde_json::Value;

use crate::{
    exec::patiently,
    run::{RunError, Runner, apology},
};

/// The outcome that the decision leaves, if it is not to run again.
pub(super) async fn decided(runner: &Runner, claim: &Claim) -> Result<Option<Outcome>, RunError> {
    let woken = claim.woken.as_ref();
    let Some(woken) = woken.filter(|woken| woken.approval() == Some("decision")) else {
        return Ok(None);
    };
    Ok(match (woken.decision, woken.choice()) {
        (Decision::Answered | Decision::Edited, Some("retry" | "edit" | "agent")) => None,
        (Decision::Answered, Some("skip")) => Some(Outcome::Skip),
        (Decision::Answered, Some("stop")) => {
            // Whoever took the answer has done so already, unless it died in between.
            patiently(|| runner.store.cancel_plan(claim.scope, claim.plan)).await?;
            Some(Outcome::Yield)
        }
        // Accepted, or nobody answered in time: it has failed, and what needs it is given up.
        _ => Some(given_up(claim, woken)),
    })
}

fn given_up(claim: &Claim, woken: &Woken) -> Outcome {
    let error = woken
        .payload
        .get("error")
        .and_then(|error| serde_json::from_value::<StepError>(error.clone()).ok())
        .unwrap_or_else(|| StepError::new(ErrorClass::Bug, "failed", "the step failed"));
    Outcome::GiveUp {
        reply: apology(claim, &error),
        error,
    }
}

/// The text of a field of an answer.
pub(super) fn said<'a>(woken: &'a Woken, field: &str) -> Option<&'a Value> {
    woken.answer.as_ref()?.get(field)
}
