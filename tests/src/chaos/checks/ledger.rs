//! The feed folded in order: I3 ended once, I4 fenced, I5a limits, I8 order, I13 the fold is what the rows say, I22 cancel.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use engine::event::Event;
use uuid::Uuid;

use crate::{
    chaos::evidence::{Evidence, Run, StepRow, end_of_run},
    checker::check_feed,
};

/// Longest claim that may be under way when a cancel is answered.
const CLAIMING: TimeDelta = TimeDelta::milliseconds(500);

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let rows = &evidence.rows;
    let limit_of = |agent: &str| rows.limits.get(agent).copied().unwrap_or(0);
    let mut wrong: Vec<String> = rows
        .events
        .values()
        .flat_map(|events| check_feed(events, limit_of))
        .map(|one| format!("I5a/I12: {one}"))
        .collect();
    let runs = rows.runs();
    let fold = Fold::of(evidence);
    wrong.extend(fold.wrong.iter().cloned());
    wrong.extend(folded_is_stored(evidence, &fold));
    wrong.extend(order(evidence, &runs, &fold));
    wrong.extend(cancels(evidence));
    wrong.extend(pauses(evidence));
    wrong
}

/// Where each step ended, by the feed.
struct Fold {
    ended: HashMap<Uuid, (i64, &'static str)>,
    wrong: Vec<String>,
}

fn terminal(event: &Event) -> Option<&'static str> {
    match event.event_type.as_str() {
        "task_completed" => Some("succeeded"),
        "task_failed" => Some("failed"),
        "task_cancelled" => Some("cancelled"),
        "task_skipped" => Some("skipped"),
        _ => None,
    }
}

impl Fold {
    fn of(evidence: &Evidence) -> Self {
        let mut fold = Self {
            ended: HashMap::new(),
            wrong: Vec::new(),
        };
        let mut running: HashMap<Uuid, i64> = HashMap::new();
        for event in evidence.rows.all_events() {
            let Some(step) = event.step_id.map(|step| step.0) else {
                continue;
            };
            fold.take(event, step, &mut running);
        }
        fold
    }

    fn take(&mut self, event: &Event, step: Uuid, running: &mut HashMap<Uuid, i64>) {
        let what = format!("{} of step {step} at seq {}", event.event_type, event.seq);
        let attempt = event.payload["attempt"].as_i64();
        if let Some((at, state)) = self.ended.get(&step)
            && (event.event_type == "task_started" || terminal(event).is_some())
        {
            self.wrong
                .push(format!("I3: {what}, though it was {state} since seq {at}"));
        }
        if event.event_type == "task_reopened" && self.ended.remove(&step).is_none() {
            self.wrong
                .push(format!("I3: {what}, though it had not ended"));
        }
        if event.event_type == "task_started" {
            running.insert(step, attempt.unwrap_or(0));
        } else if end_of_run(event).is_some()
            && let Some(attempt) = attempt
        {
            let current = running.remove(&step);
            if current != Some(attempt) {
                self.wrong.push(format!(
                    "I4: {what} is of attempt {attempt}, while {current:?} ran"
                ));
            }
        }
        if let Some(state) = terminal(event) {
            self.ended.insert(step, (event.seq, state));
        }
    }
}

fn folded_is_stored(evidence: &Evidence, fold: &Fold) -> Vec<String> {
    let wrong = evidence.rows.steps.iter().filter_map(|step| {
        let folded = fold.ended.get(&step.id).map(|(_, state)| *state);
        (folded != Some(step.state.as_str())).then(|| {
            format!(
                "I13: step {} is {} and its feed says {folded:?}",
                step.id, step.state
            )
        })
    });
    wrong.collect()
}

/// The first claim of a step comes after what it needs.
fn order(evidence: &Evidence, runs: &[Run], fold: &Fold) -> Vec<String> {
    let mut needs: HashMap<Uuid, Vec<(Uuid, &str)>> = HashMap::new();
    for edge in &evidence.rows.edges {
        let of_step = needs.entry(edge.step_id).or_default();
        of_step.push((edge.needs_step_id, &edge.met_when));
    }
    let steps = &evidence.rows.steps;
    let joins_any = |step: &&StepRow| step.joins == "any";
    let any: HashSet<Uuid> = steps.iter().filter(joins_any).map(|step| step.id).collect();
    let waived: HashSet<Uuid> = steps
        .iter()
        .filter(|step| step.waived)
        .map(|step| step.id)
        .collect();
    let reopened = evidence.rows.reopened();
    let met = |run: &Run, need: &Uuid, when: &str| {
        fold.ended.get(need).is_some_and(|(seq, state)| {
            *seq < run.seq
                && match when {
                    "success" => *state == "succeeded" || waived.contains(need),
                    "failure" => *state == "failed",
                    _ => true,
                }
        })
    };
    let wrong = runs.iter().filter(|run| run.token == 1).filter(|run| {
        let of_step = needs.get(&run.step).map_or(&[][..], Vec::as_slice);
        // What was retried has ended again since.
        if of_step.iter().any(|(need, _)| reopened.contains(need)) {
            return false;
        }
        let mut each = of_step.iter().map(|(need, when)| met(run, need, when));
        if any.contains(&run.step) {
            !each.any(|met| met)
        } else {
            !each.all(|met| met)
        }
    });
    wrong
        .map(|run| format!("I8: step {} began before what it needs", run.step))
        .collect()
}

/// Nothing of a plan begins or succeeds after its cancel was answered.
fn cancels(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for cancel in &evidence.written.cancels {
        let Some(taken_at) = cancel.taken_at else {
            continue;
        };
        let concerned = |event: &&Event| {
            let step = event.step_id.map(|step| step.0.to_string());
            event.plan_id.is_some_and(|plan| plan.0 == cancel.plan)
                && (cancel.step.is_none() || cancel.step == step)
        };
        let late = evidence
            .rows
            .all_events()
            .filter(|event| ["task_started", "task_completed"].contains(&event.event_type.as_str()))
            .filter(|event| {
                // A claim that had its row before the cancel came commits after it.
                let claim = event.event_type == "task_started";
                event.timestamp > taken_at + if claim { CLAIMING } else { TimeDelta::zero() }
            })
            .filter(concerned);
        wrong.extend(late.map(|event| {
            format!(
                "I22: {} of step {:?} at {} after a cancel that was answered at {taken_at}",
                event.event_type, event.step_id, event.timestamp
            )
        }));
    }
    wrong
}

/// Nothing of a plan begins while it is held.
fn pauses(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for pause in &evidence.written.pauses {
        let begun = evidence.rows.all_events().filter(|event| {
            event.event_type == "task_started"
                && event.plan_id.is_some_and(|plan| plan.0 == pause.plan)
                && event.timestamp > pause.from + CLAIMING
                && event.timestamp < pause.to
        });
        wrong.extend(begun.map(|event| {
            format!(
                "I22: step {:?} began at {} while its plan was held since {}",
                event.step_id, event.timestamp, pause.from
            )
        }));
    }
    wrong
}
