//! I2 and the oracle: every step has ended, and as it had to. Whether a step could run follows from how its needs ended, so each is
//! judged by its neighbours; by induction the whole plan is.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::chaos::{
    evidence::{Evidence, PlanRow, StepRow},
    program::{Kind, OnFailure, PEOPLE, Step},
};

/// Workers that a step may cost.
const POISON: i16 = 3;

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let oracle = Oracle::of(evidence);
    let plans = evidence.rows.plans.iter();
    let mut wrong: Vec<String> = plans.filter_map(|plan| oracle.whole(plan)).collect();
    wrong.extend(evidence.rows.steps.iter().filter_map(|step| {
        let plan = oracle.plans.get(&step.plan_id)?;
        let why = oracle.judge(step, plan)?;
        Some(format!(
            "oracle: step {} of {} is {} ({:?}): {why}",
            step.key, plan.goal, step.state, step.error
        ))
    }));
    wrong
}

struct Oracle<'a> {
    evidence: &'a Evidence,
    steps: HashMap<Uuid, &'a StepRow>,
    plans: HashMap<Uuid, &'a PlanRow>,
    /// Plans in which something was retried: a need may have ended otherwise when its dependents looked at it.
    reopened: HashSet<Uuid>,
}

impl<'a> Oracle<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let rows = &evidence.rows;
        let steps: HashMap<Uuid, &StepRow> =
            rows.steps.iter().map(|step| (step.id, step)).collect();
        let reopened = rows.reopened();
        let of_step = |step: Uuid| steps.get(&step).map(|step| step.plan_id);
        Self {
            evidence,
            plans: rows.plans.iter().map(|plan| (plan.id, plan)).collect(),
            reopened: reopened.into_iter().filter_map(of_step).collect(),
            steps,
        }
    }

    /// A plan's state follows from its steps.
    fn whole(&self, plan: &PlanRow) -> Option<String> {
        let count = |states: &[&str]| {
            let of_plan = |step: &&&StepRow| {
                step.plan_id == plan.id && step.depth == 0 && states.contains(&step.state.as_str())
            };
            self.steps.values().filter(of_plan).count()
        };
        let bad = count(&["failed", "skipped", "cancelled"]);
        let good = count(&["succeeded"]);
        let fits = match plan.state.as_str() {
            "cancelled" => plan.cancel_requested_at.is_some(),
            "succeeded" => bad == 0,
            "partial" => good > 0 && bad > 0,
            "failed" => good == 0 && bad > 0,
            _ => false,
        };
        (!fits).then(|| {
            format!(
                "oracle: plan {} is {} with {good} good and {bad} bad steps",
                plan.goal, plan.state
            )
        })
    }

    fn judge(&self, step: &StepRow, plan: &PlanRow) -> Option<String> {
        if !["succeeded", "failed", "skipped", "cancelled"].contains(&step.state.as_str()) {
            return Some("I2: it has not ended".to_owned());
        }
        if step.state == "cancelled" && !self.may_be_cancelled(step, plan) {
            return Some("nobody cancelled it".to_owned());
        }
        let written = self.evidence.written_as(step)?;
        let met = self.reopened.contains(&plan.id) || self.needs_met(step);
        match step.state.as_str() {
            "succeeded" | "failed" if !met => Some("what it needs did not come about".to_owned()),
            "succeeded" => said_the_right_thing(self.evidence, step, plan, written),
            "failed" if written.script.poison && step.failures > POISON => {
                Some(format!("I15: it took {} workers", step.failures))
            }
            "failed" => (!self.may_fail(step, written))
                .then(|| "nothing in its program lets it fail".to_owned()),
            "skipped" if self.reopened.contains(&plan.id) || step.waived => None,
            "skipped" => met.then(|| "all that it needs came about".to_owned()),
            _ => None,
        }
    }

    fn needs_met(&self, step: &StepRow) -> bool {
        let mut each = self
            .evidence
            .rows
            .edges
            .iter()
            .filter(|edge| edge.step_id == step.id)
            .filter_map(|edge| {
                let need = self.steps.get(&edge.needs_step_id)?;
                Some(match edge.met_when.as_str() {
                    "success" => need.state == "succeeded" || need.waived,
                    "failure" => need.state == "failed",
                    _ => true,
                })
            })
            .peekable();
        if step.joins == "any" && each.peek().is_some() {
            each.any(|met| met)
        } else {
            each.all(|met| met)
        }
    }

    /// It was told to, or it failed or lost its worker three times, and lost it the last time (which happens to an innocent step
    /// when faults come thick).
    fn may_fail(&self, step: &StepRow, written: &Step) -> bool {
        let code = step
            .error
            .as_ref()
            .and_then(|error| error["code"].as_str())
            .unwrap_or_default();
        let lost = self
            .evidence
            .rows
            .all_events()
            .filter(|event| event.step_id.is_some_and(|id| id.0 == step.id))
            .filter(|event| {
                let reason = event.payload["reason"].as_str();
                reason.is_some_and(|reason| ["worker_lost", "retry"].contains(&reason))
            })
            .count();
        let poisoned = code == "poison" && lost + 1 >= 3;
        written.script.refuse || poisoned || matches!(written.kind, Kind::Map(_))
    }

    fn may_be_cancelled(&self, step: &StepRow, plan: &PlanRow) -> bool {
        let asked = self.evidence.written.cancels.iter().any(|cancel| {
            cancel.plan == plan.id
                && (cancel.step.is_none() || cancel.step == Some(step.id.to_string()))
        });
        let program = self.evidence.program_of(plan);
        let aborted = program.is_some_and(|program| program.on_failure == OnFailure::Abort)
            && (self.reopened.contains(&plan.id)
                || self
                    .steps
                    .values()
                    .any(|one| one.plan_id == plan.id && one.state == "failed"));
        let parent = step.parent_id.and_then(|parent| self.steps.get(&parent));
        let with_parent = parent.is_some_and(|parent| self.may_be_cancelled(parent, plan));
        asked || aborted || with_parent || plan.cancel_requested_at.is_some()
    }
}

/// The result is the text of its own program, and of its own person.
fn said_the_right_thing(
    evidence: &Evidence,
    step: &StepRow,
    plan: &PlanRow,
    written: &Step,
) -> Option<String> {
    if written.script.poison {
        return Some("its worker was killed each time".to_owned());
    }
    if written.kind != Kind::Agent {
        return None;
    }
    if written.script.refuse {
        return Some("its model refused it".to_owned());
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
