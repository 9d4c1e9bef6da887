//! I7: what changes the world is done once. By receipts, not by rows.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::chaos::{
    evidence::Evidence,
    program::Kind as StepKind,
    receipts::{Ending, Kind, Receipt},
};

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let calls = Calls::of(evidence);
    let mut wrong = calls.keys_are_stable(evidence);
    wrong.extend(calls.charges_are_once(evidence));
    wrong.extend(calls.all_was_done(evidence));
    wrong.extend(nothing_unasked(evidence));
    wrong.extend(turns_are_paid_once(evidence));
    wrong
}

/// Tool receipts by the call that the program wanted: step and place.
struct Calls<'a>(HashMap<(Uuid, i64), Vec<&'a Receipt>>);

impl<'a> Calls<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let mut calls: HashMap<(Uuid, i64), Vec<&Receipt>> = HashMap::new();
        for receipt in tools(evidence) {
            let place = receipt.args["place"].as_i64().unwrap_or(-1);
            let step = receipt.step.unwrap_or_default();
            calls.entry((step, place)).or_default().push(receipt);
        }
        Self(calls)
    }

    /// One key a call and round, over all attempts.
    fn keys_are_stable(&self, evidence: &Evidence) -> Vec<String> {
        let rounds: HashMap<Uuid, i16> = evidence
            .rows
            .steps
            .iter()
            .map(|step| (step.id, step.round))
            .collect();
        let wrong = self.0.iter().filter_map(|((step, place), receipts)| {
            let keys: HashSet<&str> = receipts.iter().map(|one| one.place.as_str()).collect();
            let Some(round) = rounds.get(step) else {
                return Some(format!("I7: call {place} is of {step}, which is no step"));
            };
            let most = usize::try_from(*round).unwrap_or(0) + 1;
            (keys.len() > most || keys.contains(""))
                .then(|| format!("I7: call {place} of step {step} came under the keys {keys:?}"))
        });
        wrong.collect()
    }

    /// An irreversible call is done once, and once more each time a person said that it was not.
    fn charges_are_once(&self, evidence: &Evidence) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((step, place), receipts) in &self.0 {
            let mut by_key: HashMap<&str, usize> = HashMap::new();
            for receipt in receipts
                .iter()
                .filter(|one| one.name == "charge" && one.applied)
            {
                *by_key.entry(&receipt.place).or_default() += 1;
            }
            let allowed = 1 + said_not_done(evidence, *step);
            wrong.extend(by_key.iter().filter(|(_, times)| **times > allowed).map(
                |(key, times)| {
                    format!("I7: charge {place} of step {step} was done {times} times under {key}, allowed {allowed}")
                },
            ));
        }
        wrong
    }

    /// Whatever succeeded did all that it was written to do.
    fn all_was_done(&self, evidence: &Evidence) -> Vec<String> {
        let mut wrong = Vec::new();
        for step in evidence
            .rows
            .steps
            .iter()
            .filter(|step| step.state == "succeeded")
        {
            let Some(written) = evidence.written_as(step) else {
                continue;
            };
            if written.kind != StepKind::Agent {
                continue;
            }
            for (place, (name, _)) in written.script.calls.iter().enumerate() {
                let key = (step.id, i64::try_from(place).unwrap_or(-1));
                let done = self
                    .0
                    .get(&key)
                    .is_some_and(|receipts| receipts.iter().any(|one| one.applied));
                if !done {
                    let label = &written.script.id;
                    wrong.push(format!(
                        "I7: {label} succeeded and its {name} {place} was never done"
                    ));
                }
            }
        }
        wrong
    }
}

fn tools(evidence: &Evidence) -> impl Iterator<Item = &Receipt> {
    evidence
        .receipts
        .iter()
        .filter(|receipt| receipt.kind == Kind::Tool)
}

fn said_not_done(evidence: &Evidence, step: Uuid) -> usize {
    evidence
        .written
        .decisions
        .iter()
        .filter(|decision| decision.step == Some(step) && decision.choice["choice"] == "not_done")
        .count()
}

/// A step that was skipped never asked anything of anybody.
fn nothing_unasked(evidence: &Evidence) -> Vec<String> {
    let asked: HashSet<&str> = evidence
        .receipts
        .iter()
        .map(|receipt| receipt.program.as_str())
        .collect();
    let wrong = asked.into_iter().filter_map(|label| {
        let step = evidence.step_of(label)?;
        (step.state == "skipped" && step.token == 0)
            .then(|| format!("I8: {label} was skipped and asked the model"))
    });
    wrong.collect()
}

/// A turn that stands in the journal is not asked for again.
fn turns_are_paid_once(evidence: &Evidence) -> Vec<String> {
    let again: HashSet<Uuid> = evidence
        .rows
        .steps
        .iter()
        .filter(|step| step.round > 0)
        .map(|step| step.id)
        .collect();
    let done = evidence
        .rows
        .effects
        .iter()
        .filter(|effect| effect.kind == "model" && effect.state == "done")
        // A receipt does not tell its round.
        .filter(|effect| effect.round == 0 && !again.contains(&effect.step_id));
    let mut wrong = Vec::new();
    for effect in done {
        let again = evidence.receipts.iter().filter(|receipt| {
            receipt.kind == Kind::Model
                && receipt.step == Some(effect.step_id)
                && receipt.ordinal == Some(effect.ordinal)
                && receipt.ending == Ending::Whole
                && effect
                    .done_at
                    .is_some_and(|done_at| receipt.begun > done_at)
        });
        let again = again.count();
        if again > 0 {
            wrong.push(format!(
                "I7: turn {} of step {} stood in the journal and was paid {again} times more",
                effect.ordinal, effect.step_id
            ));
        }
    }
    wrong
}
