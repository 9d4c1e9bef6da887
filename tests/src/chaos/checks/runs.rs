//! Runs of steps, and the calls that were made in them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::chaos::{
    evidence::{Evidence, Run},
    receipts::Receipt,
};

/// The runs of all steps, by step and token.
#[derive(Debug)]
pub struct Runs(HashMap<(Uuid, i64), Run>);

/// A call with the run that it belongs to.
#[derive(Debug)]
pub struct Deed<'a> {
    /// The call.
    pub receipt: &'a Receipt,
    /// The run.
    pub run: &'a Run,
}

impl Deed<'_> {
    /// When the run ended, if it did.
    pub fn run_ended(&self) -> Option<DateTime<Utc>> {
        self.run.ended.as_ref().map(|(at, _)| *at)
    }
}

impl Runs {
    /// Of this evidence.
    pub fn of(evidence: &Evidence) -> Self {
        let runs = evidence.rows.runs();
        Self(
            runs.into_iter()
                .map(|run| ((run.step, run.token), run))
                .collect(),
        )
    }

    /// Every run.
    pub fn all(&self) -> impl Iterator<Item = &Run> {
        self.0.values()
    }

    /// The run of a step under this token.
    pub fn get(&self, step: Uuid, token: i64) -> Option<&Run> {
        self.0.get(&(step, token))
    }

    /// Every call of a known run.
    pub fn deeds<'a>(&'a self, evidence: &'a Evidence) -> Vec<Deed<'a>> {
        let deed = |receipt| {
            let run = self.run_of(evidence, receipt)?;
            Some(Deed { receipt, run })
        };
        evidence.receipts.iter().filter_map(deed).collect()
    }

    /// The run by the token that the caller showed; of a caller that shows none, the newest run that had begun by then.
    fn run_of(&self, evidence: &Evidence, receipt: &Receipt) -> Option<&Run> {
        if let (Some(step), Some(token)) = (receipt.step, receipt.token) {
            return self.0.get(&(step, token));
        }
        let step = evidence.step_of(&receipt.program)?;
        (1..=step.token)
            .rev()
            .filter_map(|token| self.0.get(&(step.id, token)))
            .find(|run| run.started <= receipt.begun)
    }
}
