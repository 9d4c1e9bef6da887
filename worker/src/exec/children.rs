//! Steps that a step makes and waits for: their keys, and the wait.

use engine::{
    id::WaitId,
    plan::NewStep,
    step::{
        claimed::Claim,
        outcome::{NewWait, WaitKind},
    },
};
use serde_json::json;

/// What the keys of a step's children begin with; the same in every attempt of a round.
pub(super) fn prefix(claim: &Claim) -> String {
    match claim.round {
        0 => format!("{}.", claim.key),
        round => format!("{}.r{round}.", claim.key),
    }
}

/// The wait for them, without a lease or a place.
pub(super) fn wait(children: &[NewStep]) -> NewWait {
    NewWait {
        id: WaitId::new(),
        kind: WaitKind::Child,
        payload: json!({ "children": children.len() }),
        deadline: None,
    }
}
