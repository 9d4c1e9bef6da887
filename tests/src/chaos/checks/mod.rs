//! The checkers: each takes the evidence of a run and says what must not be. Numbers of invariants are those of the catalogue
//! of faults: I1 accepted once, I2 nothing lost, I3 ended once, I4 fenced, I5 limits, I6 places conserved, I7 effects, I8 order,
//! I9 to I11 consent, I12 streams, I13 an event for each transition, I15 poison, I16 recovery, I17 nobody reads what is another's, I22 cancel.

pub mod accepted;
pub mod causes;
pub mod consent;
pub mod effects;
pub mod ledger;
pub mod outcome;
pub mod physical;
pub mod runs;
pub mod streams;

use super::evidence::Evidence;

/// Everything that must not be; empty: all holds.
pub fn all(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(evidence.surprises.iter().map(|one| format!("I16: {one}")));
    wrong.extend(
        evidence
            .written
            .outrages
            .iter()
            .map(|one| format!("I17: {one}")),
    );
    wrong.extend(
        evidence
            .rows
            .broken
            .iter()
            .map(|one| format!("rows: {one}")),
    );
    wrong.extend(panics(evidence));
    wrong.extend(accepted::check(evidence));
    wrong.extend(ledger::check(evidence));
    wrong.extend(outcome::check(evidence));
    wrong.extend(effects::check(evidence));
    wrong.extend(consent::check(evidence));
    wrong.extend(physical::check(evidence));
    wrong.extend(causes::check(evidence));
    wrong.extend(streams::check(evidence));
    wrong
}

fn panics(evidence: &Evidence) -> Vec<String> {
    let lines = evidence.logs.iter().flat_map(|(name, log)| {
        log.lines()
            .filter(|line| line.contains("panicked at") || line.contains("apalis gave up"))
            .map(move |line| format!("I16: {name} said: {line}"))
    });
    lines.collect()
}
