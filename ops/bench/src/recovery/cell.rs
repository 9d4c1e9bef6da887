//! One cell from its first phase to its line.

use std::time::Duration;

use chrono::Utc;
use engine::testing::check_invariants;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;

use super::{
    Cell,
    clients::{STEPS, Stream, Tally},
    faults,
    figures::{self, Ends, Rates, Times},
    stage::Stage,
};
use crate::setup::Bench;

/// How a cell is played.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// Length of baseline, fault and recovery; the warm-up takes half of it.
    pub(super) unit: Duration,
    pub(super) places: usize,
    /// What is offered.
    pub(super) steps_per_s: f64,
}

/// What came out.
pub(super) struct Report {
    pub(super) line: Value,
    /// Nothing was lost, nothing ended by itself, every invariant holds.
    pub(super) sound: bool,
}

/// What must not be, beside the rates.
struct Faults {
    steps_lost: i64,
    ended_by_themselves: usize,
    violations: Vec<String>,
    errors: Vec<String>,
}

pub(super) async fn run(bench: &Bench, cell: Cell, setting: Setting) -> anyhow::Result<Report> {
    let mut stage = Box::pin(Stage::open(
        bench,
        cell.name(),
        cell.workers(),
        setting.places,
    ))
    .await?;
    let (times, fault) = Box::pin(play(cell, &mut stage, setting)).await?;
    let tally = stage.clients.tally().await?;
    let drained = stage.drained().await?;
    let ended = stage.stop_workers().await?;
    let mut connection = stage.connect().await?;
    let rates = Rates::read(&mut connection, times).await?;
    let ends = Ends::read(&mut connection, &tally.accepted).await?;
    let faults = judge(&stage, &ends, ended).await?;
    let mut line = rates.json();
    add(&mut line, head(cell, setting));
    add(
        &mut line,
        json!({ "fault": fault, "drain_s": drained.map(|took| took.as_secs_f64()) }),
    );
    add(&mut line, counts(&stage, &tally, &ends)?);
    add(&mut line, faults.json());
    stage.close().await?;
    Ok(Report {
        line,
        sound: faults.none(),
    })
}

/// The four phases.
async fn play(
    cell: Cell,
    stage: &mut Stage<'_>,
    setting: Setting,
) -> anyhow::Result<(Times, Value)> {
    let stream = Stream::start(&stage.clients, setting.steps_per_s);
    let began = Utc::now();
    sleep(setting.unit / 2).await;
    let baseline = Utc::now();
    sleep(setting.unit).await;
    let fault = Utc::now();
    let happened = faults::strike(cell, stage, &stream, setting.unit).await?;
    let recovery = Utc::now();
    sleep(setting.unit).await;
    let end = Utc::now();
    stream.stop().await?;
    let times = Times {
        began,
        baseline,
        fault,
        recovery,
        end,
    };
    Ok((times, happened))
}

async fn judge(stage: &Stage<'_>, ends: &Ends, ended: usize) -> anyhow::Result<Faults> {
    // The check reads everything; the planner has to know how much that is.
    sqlx::query("analyze")
        .execute(&mut stage.connect().await?)
        .await?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&stage.url)
        .await?;
    let violations = check_invariants(&pool).await?;
    pool.close().await;
    let (loops_ended, errors) = figures::complaints(stage.folder.path())?;
    Ok(Faults {
        steps_lost: ends.plans_missing * i64::from(STEPS) + ends.steps_unsuccessful,
        ended_by_themselves: ended + loops_ended,
        violations: violations
            .iter()
            .map(|broken| format!("{}: {}", broken.rule, broken.example))
            .collect(),
        errors,
    })
}

impl Faults {
    fn none(&self) -> bool {
        self.steps_lost == 0 && self.ended_by_themselves == 0 && self.violations.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "steps_lost": self.steps_lost,
            "ended_by_themselves": self.ended_by_themselves,
            "violations": self.violations,
            "errors_logged": self.errors.len(),
            "first_error": self.errors.first(),
        })
    }
}

fn head(cell: Cell, setting: Setting) -> Value {
    json!({
        "workload": "recovery",
        "cell": cell.name(),
        "workers": cell.workers(),
        "offered_per_s": setting.steps_per_s.round(),
    })
}

fn counts(stage: &Stage<'_>, tally: &Tally, ends: &Ends) -> anyhow::Result<Value> {
    Ok(json!({
        "plans": ends.plans,
        "plans_accepted": tally.accepted.len(),
        "plans_unsure": tally.unsure,
        "plans_refused": tally.refused,
        "plans_unsent": tally.unsent,
        "steps": ends.steps,
        "steps_run_twice": figures::repeated_runs(stage.folder.path())?,
        "steps_taken_back": ends.lost_runs,
    }))
}

fn add(line: &mut Value, more: Value) {
    if let (Value::Object(line), Value::Object(more)) = (line, more) {
        line.extend(more);
    }
}
