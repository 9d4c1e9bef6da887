//! A timer step: suspends for its seconds, holding no lease, place or connection, and succeeds when woken.

use std::time::Duration;

use engine::{
    id::WaitId,
    step::{
        Outcome, StepSpec,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
    },
    wait::Decision,
};
use serde_json::json;

use crate::{
    exec::patiently,
    run::{RunError, Runner},
};

pub(super) async fn run(
    runner: &Runner,
    claim: &Claim,
    spec: &StepSpec,
) -> Result<Outcome, RunError> {
    let seconds = spec.seconds.unwrap_or(0);
    if patiently(|| runner.store.last_decision(claim)).await? == Some(Decision::Elapsed) {
        return Ok(Outcome::Succeed {
            result: json!({ "waited_seconds": seconds }),
            reply: None,
        });
    }
    Ok(Outcome::Suspend {
        wait: NewWait {
            id: WaitId::new(),
            kind: WaitKind::Timer,
            payload: json!({ "seconds": seconds }),
            deadline: Some(Duration::from_secs(seconds.into())),
        },
    })
}
