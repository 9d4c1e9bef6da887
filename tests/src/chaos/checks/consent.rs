//! I9 to I11: what takes consent is done after a yes, once for each yes, and nobody is asked twice about the same.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::chaos::{
    evidence::Evidence,
    receipts::{Kind, Receipt},
};

/// A call that a program wanted: step and place.
type Call = (Uuid, i64);

/// The tool that asks.
const ASKS: &str = "pay";

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let questions = Questions::of(evidence);
    let mut made: HashMap<Call, Vec<&Receipt>> = HashMap::new();
    for receipt in &evidence.receipts {
        if let Some(call) = asking(evidence, receipt) {
            made.entry(call).or_default().push(receipt);
        }
    }
    let mut wrong = Vec::new();
    for (call, receipts) in &made {
        wrong.extend(questions.unasked(*call, receipts));
    }
    wrong.extend(questions.asked_again(evidence));
    wrong
}

/// The call that a receipt is of, if it is one that takes consent.
fn asking(evidence: &Evidence, receipt: &Receipt) -> Option<Call> {
    if receipt.kind != Kind::Tool {
        return None;
    }
    let step = evidence.step_of(&receipt.program)?;
    let plan = evidence
        .rows
        .plans
        .iter()
        .find(|plan| plan.id == step.plan_id)?;
    // An item of a map does what the map says.
    let key = step.key.split('.').next()?;
    let mut steps = evidence.program_of(plan)?.steps.iter();
    let written = steps.find(|one| one.key == key)?;
    let place = receipt.args["place"].as_i64()?;
    let (name, _) = written.script.calls.get(usize::try_from(place).ok()?)?;
    (name == ASKS).then_some((step.id, place))
}

/// The questions about calls: when each was answered with yes, and how many there were.
struct Questions {
    yes: HashMap<Call, Vec<DateTime<Utc>>>,
    asked: HashMap<Call, usize>,
}

impl Questions {
    fn of(evidence: &Evidence) -> Self {
        let mut questions = Self {
            yes: HashMap::new(),
            asked: HashMap::new(),
        };
        for wait in &evidence.rows.waits {
            if wait.payload["type"] != "tool" {
                continue;
            }
            let place = wait.payload["arguments"]["place"].as_i64().unwrap_or(-1);
            let call = (wait.step_id, place);
            *questions.asked.entry(call).or_default() += 1;
            if wait.decision.as_deref() == Some("approved") {
                let yes = questions.yes.entry(call).or_default();
                yes.extend(wait.decided_at);
            }
        }
        questions
    }

    fn unasked(&self, call: Call, receipts: &[&Receipt]) -> Vec<String> {
        let (step, place) = call;
        let yes = self.yes.get(&call).map(Vec::as_slice).unwrap_or_default();
        let early = receipts
            .iter()
            .filter(|receipt| !yes.iter().any(|yes| *yes <= receipt.begun))
            .map(|receipt| {
                format!(
                    "I9: call {place} of step {step} began at {} without a yes",
                    receipt.begun
                )
            });
        let mut wrong: Vec<String> = early.collect();
        let keys: HashSet<&str> = receipts.iter().map(|one| one.place.as_str()).collect();
        if keys.len() > yes.len() {
            wrong.push(format!(
                "I10: call {place} of step {step} was made as {keys:?} for {} times yes",
                yes.len()
            ));
        }
        wrong
    }

    /// Asked once, and once more each time the person let the step begin again.
    fn asked_again(&self, evidence: &Evidence) -> Vec<String> {
        let begun_again = |step: Uuid| {
            let reopened = evidence.rows.all_events().filter(|event| {
                event.event_type == "task_reopened" && event.step_id.is_some_and(|id| id.0 == step)
            });
            let cards = evidence
                .rows
                .waits
                .iter()
                .filter(|wait| wait.step_id == step && wait.payload["type"] == "decision");
            reopened.count() + cards.count()
        };
        let wrong = self.asked.iter().filter_map(|((step, place), times)| {
            let allowed = 1 + begun_again(*step);
            (*times > allowed).then(|| {
                format!("I11: call {place} of step {step} was asked about {times} times, allowed {allowed}")
            })
        });
        wrong.collect()
    }
}
