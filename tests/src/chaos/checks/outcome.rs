//! I2 and the oracle: every step has ended, and as it had to. Whether a step could run follows from how its needs ended, so each is
//! judged by its neighbours; by induction the whole plan is.

use std::collections::HashMap;

use uuid::Uuid;

use crate::chaos::{
    CONTRACT,
    evidence::{Evidence, PlanRow, StepRow},
    program::{Kind, PEOPLE, Step},
};

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let states: HashMap<Uuid, &str> = evidence
        .rows
        .steps
        .iter()
        .map(|step| (step.id, step.state.as_str()))
        .collect();
    let plans: HashMap<Uuid, &PlanRow> = evidence
        .rows
        .plans
        .iter()
        .map(|plan| (plan.id, plan))
        .collect();
    let mut wrong: Vec<String> = evidence
        .rows
        .plans
        .iter()
        .filter_map(|plan| whole(evidence, plan))
        .collect();
    wrong.extend(evidence.rows.steps.iter().filter_map(|step| {
        let plan = plans.get(&step.plan_id)?;
        let written = evidence.written_as(step)?;
        let why = judge(evidence, step, plan, written, &states)?;
        Some(format!(
            "oracle: step {} of {} is {} ({:?}): {why}",
            step.key, plan.goal, step.state, step.error
        ))
    }));
    wrong
}

/// A plan's state follows from its steps.
fn whole(evidence: &Evidence, plan: &PlanRow) -> Option<String> {
    let of_plan = |state: &str| {
        evidence
            .rows
            .steps
            .iter()
            .filter(|step| step.plan_id == plan.id && step.state == state)
            .count()
    };
    let bad = of_plan("failed") + of_plan("skipped");
    let good = of_plan("succeeded");
    let fits = match plan.state.as_str() {
        "cancelled" => plan.cancel_requested_at.is_some(),
        "succeeded" => bad == 0,
        "partial" => good > 0,
        "failed" => bad > 0,
        _ => false,
    };
    (!fits).then(|| {
        format!(
            "oracle: plan {} is {} with {good} good and {bad} bad steps",
            plan.goal, plan.state
        )
    })
}

fn judge(
    evidence: &Evidence,
    step: &StepRow,
    plan: &PlanRow,
    written: &Step,
    states: &HashMap<Uuid, &str>,
) -> Option<String> {
    let met = needs_met(evidence, step, written, states);
    match step.state.as_str() {
        "succeeded" if !met => Some("what it needs did not come about".to_owned()),
        "succeeded" => said_the_right_thing(evidence, step, plan, written),
        "failed" if !met => Some("it failed though it could not run".to_owned()),
        "failed" => (!may_fail(evidence, step, written))
            .then(|| "nothing in its program lets it fail".to_owned()),
        "skipped" if met && !may_be_skipped(evidence, step) => {
            Some("all that it needs came about".to_owned())
        }
        "cancelled" if !may_be_cancelled(evidence, step, plan) => {
            Some("nobody cancelled it".to_owned())
        }
        "skipped" | "cancelled" => None,
        open => Some(format!("I2: it is still {open}")),
    }
}

fn needs_met(
    evidence: &Evidence,
    step: &StepRow,
    written: &Step,
    states: &HashMap<Uuid, &str>,
) -> bool {
    let mut each = evidence
        .rows
        .edges
        .iter()
        .filter(|edge| edge.step_id == step.id)
        .map(|edge| {
            let state = states.get(&edge.needs_step_id).copied().unwrap_or_default();
            match edge.met_when.as_str() {
                "success" => state == "succeeded",
                "failure" => state == "failed",
                _ => true,
            }
        })
        .peekable();
    if written.any && each.peek().is_some() {
        each.any(|met| met)
    } else {
        each.all(|met| met)
    }
}

/// It was told to, or it failed or lost its worker three times, and lost it the last time (which happens to an innocent step when
/// faults come thick).
fn may_fail(evidence: &Evidence, step: &StepRow, written: &Step) -> bool {
    let code = step
        .error
        .as_ref()
        .and_then(|error| error["code"].as_str())
        .unwrap_or_default();
    let lost = evidence
        .rows
        .all_events()
        .filter(|event| event.step_id.is_some_and(|id| id.0 == step.id))
        .filter(|event| {
            let reason = event.payload["reason"].as_str();
            reason.is_some_and(|reason| ["worker_lost", "retry"].contains(&reason))
        })
        .count();
    // Before there is a way to wait for a provider without counting.
    let transient = !CONTRACT
        && step
            .error
            .as_ref()
            .is_some_and(|error| error["class"] == "transient");
    let poisoned = code == "poison" && lost + 1 >= 3;
    written.script.refuse || transient || poisoned || matches!(written.kind, Kind::Map(_))
}

fn may_be_skipped(evidence: &Evidence, step: &StepRow) -> bool {
    evidence.written.decisions.iter().any(|decision| {
        decision.step == Some(step.id) || decision.choice["choice"] == "accept_partial"
    })
}

fn may_be_cancelled(evidence: &Evidence, step: &StepRow, plan: &PlanRow) -> bool {
    let asked = evidence.written.cancels.iter().any(|cancel| {
        cancel.plan == plan.id
            && (cancel.step.is_none() || cancel.step == Some(step.id.to_string()))
    });
    asked || plan.cancel_requested_at.is_some()
}

/// The result is the text of its own program, and of its own person.
fn said_the_right_thing(
    evidence: &Evidence,
    step: &StepRow,
    plan: &PlanRow,
    written: &Step,
) -> Option<String> {
    if written.kind != Kind::Agent || written.script.poison {
        return None;
    }
    let program = evidence.program_of(plan)?;
    let expected = written.script.text.as_str();
    let said = step
        .result
        .as_ref()
        .and_then(|result| result["text"].as_str())
        .unwrap_or_default();
    (said != expected).then(|| {
        format!(
            "it said {said:?} in place of {expected:?} to {}",
            PEOPLE[program.person].0
        )
    })
}
