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

pub(super) fn run(claim: &Claim, spec: &StepSpec) -> Outcome {
    let seconds = spec.seconds.unwrap_or(0);
    let rang = claim
        .woken
        .as_ref()
        .is_some_and(|woken| woken.decision == Decision::Elapsed);
    if rang {
        return Outcome::Succeed {
            result: json!({ "waited_seconds": seconds }),
            reply: None,
        };
    }
    Outcome::Suspend {
        wait: NewWait {
            id: WaitId::new(),
            kind: WaitKind::Timer,
            payload: json!({ "seconds": seconds }),
            deadline: Some(Duration::from_secs(seconds.into())),
        },
    }
}
