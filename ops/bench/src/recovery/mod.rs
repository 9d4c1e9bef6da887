//! The nine cells of a public benchmark of queues on Postgres: what is left of the throughput while something breaks, and after.
//!
//! The cells are those of `hardbyte/postgresql-job-queue-benchmarking`, sweep of 2026-05-09: its five of chaos and its four of
//! pressure. Each has four phases: warm-up, baseline, fault, recovery. Plans come at a fixed rate from here, as from an API;
//! workers are processes of their own, because some of them are to die. What is judged is the rows, after everything has
//! ended, and the receipts that workers leave at each run of a step.
//!
//! Ratios stand only between phases of one cell: the rate that is offered follows from the capacity measured at the start, and that
//! from whatever else the machine does.

mod capacity;
mod cell;
mod clients;
mod faults;
mod figures;
mod stage;
mod worker_process;

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

pub(crate) use worker_process::{WorkerArgs, work};

use crate::setup::Bench;

/// How long a claim lasts without a renewal. The product's 30 s would outlast the phases: what a killed worker held has to come back
/// within the cell.
const LEASE: Duration = Duration::from_secs(5);
/// Which part of the measured capacity is offered, in percent.
const SHARE: f64 = 60.0;

/// A disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    /// The server is broken off and down for the phase.
    PostgresRestart,
    /// The connections that are at work are ended, twice a second.
    PgBackendKill,
    /// Somebody holds every connection that the server has left.
    PoolExhaustion,
    /// One of two workers is killed, and replaced after the phase.
    CrashRecovery,
    /// One of two workers is killed and replaced four times.
    RepeatedKills,
    /// A transaction with an id is left open: nothing can be cleaned up.
    IdleInTx,
    /// One and a half times the load.
    SustainedHighLoad,
    /// Four readers scan the hot tables, each under one snapshot for the whole phase.
    ActiveReaders,
    /// Twice the load.
    EventBurst,
}

impl Cell {
    const ALL: [Self; 9] = [
        Self::PostgresRestart,
        Self::PgBackendKill,
        Self::PoolExhaustion,
        Self::CrashRecovery,
        Self::RepeatedKills,
        Self::IdleInTx,
        Self::SustainedHighLoad,
        Self::ActiveReaders,
        Self::EventBurst,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PostgresRestart => "postgres_restart",
            Self::PgBackendKill => "pg_backend_kill",
            Self::PoolExhaustion => "pool_exhaustion",
            Self::CrashRecovery => "crash_recovery",
            Self::RepeatedKills => "repeated_kills",
            Self::IdleInTx => "idle_in_tx",
            Self::SustainedHighLoad => "sustained_high_load",
            Self::ActiveReaders => "active_readers",
            Self::EventBurst => "event_burst",
        }
    }

    /// Worker processes: two where one is to die, as in the public cells.
    fn workers(self) -> usize {
        match self {
            Self::CrashRecovery | Self::RepeatedKills => 2,
            _ => 1,
        }
    }
}

/// The cells that a name on the command line stands for.
pub(crate) fn cells(name: &str) -> Option<Vec<Cell>> {
    if name == "recovery" {
        return Some(Cell::ALL.to_vec());
    }
    let cell = Cell::ALL.into_iter().find(|cell| cell.name() == name)?;
    Some(vec![cell])
}

/// Measures the capacity, runs the cells at their share of it, and prints a line each. Fails after the last one if a cell lost
/// something.
pub(crate) async fn run(
    bench: &Bench,
    cells: Vec<Cell>,
    seconds: u64,
    places: usize,
) -> anyhow::Result<()> {
    let unit = Duration::from_secs(seconds);
    let capacity = Box::pin(capacity::measure(bench, unit, places)).await?;
    println!(
        "{}",
        json!({ "workload": "recovery", "cell": "capacity", "steps_per_s": capacity.round() })
    );
    let mut broken = Vec::new();
    for cell in cells {
        let setting = cell::Setting {
            unit,
            places,
            steps_per_s: capacity * SHARE / 100.0,
        };
        let report = Box::pin(cell::run(bench, cell, setting)).await?;
        println!("{}", report.line);
        if !report.sound {
            broken.push(cell.name());
        }
    }
    ensure!(
        broken.is_empty(),
        "a promise was broken in {broken:?}; see their lines"
    );
    Ok(())
}
