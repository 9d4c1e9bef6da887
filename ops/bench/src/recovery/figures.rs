//! What a cell shows: rates from the rows' own times, and runs from the receipts.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use engine::id::PlanId;
use serde_json::{Value, json};
use sqlx::PgConnection;

/// Bytes of a receipt: the step's id.
pub(super) const RECEIPT: usize = 16;
/// Parts of a second in which ends of steps are counted.
const PER_SECOND: usize = 10;

/// When the phases began and ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) began: DateTime<Utc>,
    pub(super) baseline: DateTime<Utc>,
    pub(super) fault: DateTime<Utc>,
    pub(super) recovery: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
}

/// Rates, and how soon after the fault they came back.
#[derive(Debug)]
pub(super) struct Rates {
    baseline: f64,
    fault: f64,
    recovery: f64,
    first_completion_s: Option<f64>,
    to_90_percent_s: Option<f64>,
    by_second: Vec<i64>,
}

/// Steps that ended between the two, a second.
pub(super) async fn rate(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> anyhow::Result<f64> {
    let rate = sqlx::query_scalar(
        "select count(*) / extract(epoch from $2 - $1)::float8 from steps where finished_at >= $1 and finished_at < $2",
    );
    Ok(rate.bind(from).bind(to).fetch_one(connection).await?)
}

impl Rates {
    pub(super) async fn read(connection: &mut PgConnection, times: Times) -> anyhow::Result<Self> {
        let baseline = rate(connection, times.baseline, times.fault).await?;
        let after = ends_by_tenth(connection, times.recovery).await?;
        let window = ends_by_tenth(connection, times.began).await?;
        Ok(Self {
            baseline,
            fault: rate(connection, times.fault, times.recovery).await?,
            recovery: rate(connection, times.recovery, times.end).await?,
            first_completion_s: first_after(connection, times.recovery).await?,
            to_90_percent_s: back_at(&after, baseline * 0.9),
            by_second: window
                .chunks(PER_SECOND)
                .map(|second| second.iter().sum())
                .collect(),
        })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "baseline_per_s": self.baseline.round(),
            "fault_per_s": self.fault.round(),
            "fault_percent": percent(self.fault, self.baseline),
            "recovery_per_s": self.recovery.round(),
            "recovery_percent": percent(self.recovery, self.baseline),
            "first_completion_s": self.first_completion_s.map(thousandths),
            "to_90_percent_s": self.to_90_percent_s.map(thousandths),
            "by_second": self.by_second,
        })
    }
}

async fn first_after(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
) -> anyhow::Result<Option<f64>> {
    let first = sqlx::query_scalar(
        "select extract(epoch from min(finished_at) - $1)::float8 from steps where finished_at >= $1",
    );
    Ok(first.bind(from).fetch_one(connection).await?)
}

/// How many steps ended in each tenth of a second from then on.
async fn ends_by_tenth(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
) -> anyhow::Result<Vec<i64>> {
    let counts: Vec<(i64, i64)> = sqlx::query_as(
        "select floor(extract(epoch from finished_at - $1) * 10)::bigint, count(*) from steps where finished_at >= $1 group by 1",
    )
    .bind(from)
    .fetch_all(connection)
    .await?;
    let mut tenths = Vec::new();
    for (tenth, count) in counts {
        let tenth = usize::try_from(tenth)?;
        if tenths.len() <= tenth {
            tenths.resize(tenth + 1, 0);
        }
        tenths[tenth] = count;
    }
    Ok(tenths)
}

/// Where the first second begins in which as many ended.
fn back_at(tenths: &[i64], per_second: f64) -> Option<f64> {
    let enough = tenths
        .windows(PER_SECOND)
        .position(|second| whole(second.iter().sum()) >= per_second)?;
    Some(Duration::from_millis(u64::try_from(enough * 100).ok()?).as_secs_f64())
}

/// What the rows say after the end.
#[derive(Debug)]
pub(super) struct Ends {
    /// Plans in the rows.
    pub(super) plans: i64,
    /// Steps in the rows.
    pub(super) steps: i64,
    /// Plans that somebody was told were taken, and that are not there.
    pub(super) plans_missing: i64,
    /// Steps that did not succeed.
    pub(super) steps_unsuccessful: i64,
    /// Steps that somebody began again after a worker was lost.
    pub(super) lost_runs: i64,
}

impl Ends {
    pub(super) async fn read(
        connection: &mut PgConnection,
        accepted: &[PlanId],
    ) -> anyhow::Result<Self> {
        let (plans, steps, plans_missing, steps_unsuccessful, lost_runs) = sqlx::query_as(
            "select (select count(*) from plans), (select count(*) from steps),
                    (select count(*) from unnest($1::uuid[]) as a (id) where not exists (select from plans p where p.id = a.id)),
                    (select count(*) from steps where state <> 'succeeded'),
                    (select count(*) from events where type = 'task_progress' and payload ->> 'reason' = 'worker_lost')",
        )
        .bind(accepted)
        .fetch_one(connection)
        .await?;
        Ok(Self {
            plans,
            steps,
            plans_missing,
            steps_unsuccessful,
            lost_runs,
        })
    }
}

/// Runs beyond the first of each step, by the receipts in the folder.
pub(super) fn repeated_runs(folder: &Path) -> anyhow::Result<usize> {
    let mut runs = HashMap::<Vec<u8>, usize>::new();
    for file in files(folder, "receipts")? {
        for receipt in fs::read(file)?.chunks_exact(RECEIPT) {
            *runs.entry(receipt.to_vec()).or_default() += 1;
        }
    }
    Ok(runs.values().map(|count| count - 1).sum())
}

/// Loops that ended by themselves, and the lines that say what went wrong otherwise, by the logs in the folder.
pub(super) fn complaints(folder: &Path) -> anyhow::Result<(usize, Vec<String>)> {
    let mut ended = 0;
    let mut errors = Vec::new();
    for file in files(folder, "log")? {
        for line in fs::read_to_string(file)?.lines() {
            ended += usize::from(line.contains("begins anew") || line.contains("gave up"));
            if line.contains("ERROR") || line.contains("panicked") {
                errors.push(line.to_owned());
            }
        }
    }
    Ok((ended, errors))
}

fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    Ok(files)
}

fn percent(part: f64, whole: f64) -> f64 {
    (part / whole * 1000.0).round() / 10.0
}

fn thousandths(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are far below 2^52"
)]
fn whole(count: i64) -> f64 {
    count as f64
}
