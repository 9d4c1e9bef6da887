//! What a run may look like from outside: the feed folded in order, and the ledger of finishes.
//!
//! The rows can be consistent and still lie; these checks look at what happened. `tests/it/mutants.rs` proves that they
//! turn red when the fence or the limit is taken out of the SQL.

use std::collections::{BTreeMap, HashMap};

use engine::{event::Event, id::StepId};

/// One thing that a worker did or was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It got a lease with this token.
    Claimed(StepId, i64),
    /// Its finish under this token was accepted.
    Accepted(StepId, i64),
    /// Its finish under this token was refused.
    Refused(StepId, i64),
}

/// Finishes that were accepted though the step had been claimed again, or had been finished before.
pub fn check_fence(deeds: &[Deed]) -> Vec<String> {
    let mut newest: HashMap<StepId, i64> = HashMap::new();
    let mut finished: HashMap<StepId, i64> = HashMap::new();
    let mut wrong = Vec::new();
    for deed in deeds {
        match *deed {
            Deed::Claimed(step, token) => {
                let before = newest.insert(step, token).unwrap_or(0);
                if token <= before {
                    wrong.push(format!(
                        "step {step} was claimed with token {token} after {before}"
                    ));
                }
            }
            Deed::Accepted(step, token) => {
                if newest.get(&step) != Some(&token) {
                    wrong.push(format!(
                        "step {step}: the finish of token {token} was accepted, the newest is {:?}",
                        newest.get(&step)
                    ));
                }
                if let Some(before) = finished.insert(step, token) {
                    wrong.push(format!("step {step} was finished twice: {before}, {token}"));
                }
            }
            Deed::Refused(..) => {}
        }
    }
    wrong
}

/// A feed that has gaps, a step that succeeded more than once, an agent above its limit at any moment.
pub fn check_feed(events: &[Event], limit_of: impl Fn(&str) -> usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut running: BTreeMap<StepId, String> = BTreeMap::new();
    let mut at_once: BTreeMap<String, usize> = BTreeMap::new();
    let mut succeeded: HashMap<StepId, usize> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        if usize::try_from(event.seq) != Ok(index + 1) {
            wrong.push(format!("seq {} stands at place {}", event.seq, index + 1));
        }
        let Some(step) = event.step_id else { continue };
        match event.event_type.as_str() {
            "task_started" => {
                let agent = event.payload["agent_id"]
                    .as_str()
                    .unwrap_or("none")
                    .to_owned();
                let count = at_once.entry(agent.clone()).or_default();
                *count += 1;
                if agent != "none" && *count > limit_of(&agent) {
                    wrong.push(format!(
                        "agent {agent} ran {count} steps at once at seq {}",
                        event.seq
                    ));
                }
                if running.insert(step, agent).is_some() {
                    wrong.push(format!(
                        "step {step} started while it ran, at seq {}",
                        event.seq
                    ));
                }
            }
            "task_completed" | "task_failed" | "task_cancelled" | "task_skipped"
            | "task_waiting" | "approval_required" | "task_progress" => {
                if event.event_type == "task_completed" {
                    *succeeded.entry(step).or_default() += 1;
                }
                let Some(agent) = ends_run(event).then(|| running.remove(&step)).flatten() else {
                    continue;
                };
                if let Some(count) = at_once.get_mut(&agent) {
                    *count -= 1;
                }
            }
            _ => {}
        }
    }
    wrong.extend(
        succeeded
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(step, times)| format!("step {step} succeeded {times} times")),
    );
    wrong
}

/// Progress that only tells of a running step has no reason; a retry, a yield or a lost worker has.
fn ends_run(event: &Event) -> bool {
    event.event_type != "task_progress" || event.payload.get("reason").is_some()
}
