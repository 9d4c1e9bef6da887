//! What goes wrong, one function a cell. Each takes the phase and returns at the moment when nothing is in the way any more.
//!
//! Where the public benchmark leaves a choice, the harder way is taken: see `ops/bench/README.md`.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use servers::Postgres;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{Cell, clients::Stream, stage::Stage};

/// Between two times of ending all connections.
const CUT: Duration = Duration::from_millis(500);
/// Connections that the public cell asks for, and gets as many as there are.
const IDLE_CONNECTIONS: usize = 300;
/// Kills in a phase.
const KILLS: u32 = 4;
/// Readers, and the pause of each between two scans.
const READERS: usize = 4;
const READ_PAUSE: Duration = Duration::from_millis(100);

/// Does to the stage what the cell is about, for `length`; what happened in figures.
pub(super) async fn strike(
    cell: Cell,
    stage: &mut Stage<'_>,
    stream: &Stream,
    length: Duration,
) -> anyhow::Result<Value> {
    match cell {
        Cell::PostgresRestart => restart(stage, length).await,
        Cell::PgBackendKill => cut_connections(stage, length).await,
        Cell::PoolExhaustion => take_connections(stage, length).await,
        Cell::CrashRecovery => kill_one(stage, length).await,
        Cell::RepeatedKills => kill_again_and_again(stage, length).await,
        Cell::IdleInTx => stay_in_transaction(stage, length).await,
        Cell::SustainedHighLoad => load(stream, 1.5, length).await,
        Cell::ActiveReaders => read(stage, length).await,
        Cell::EventBurst => load(stream, 2.0, length).await,
    }
}

/// Broken off, not stopped: clients are cut, and the next start has to repair its data from the log.
async fn restart(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    stage
        .bench
        .with_server(|server| Ok(server.crash()?))
        .await?;
    sleep(length).await;
    let begun = Instant::now();
    stage.bench.with_server(start_again).await?;
    Ok(json!({ "down_s": length.as_secs_f64(), "start_s": begun.elapsed().as_secs_f64() }))
}

fn start_again(server: &mut Postgres) -> anyhow::Result<()> {
    server
        .start_again()
        .context("the server did not start again")
}

/// Whoever is at work, of workers, hints or clients; idle connections are spared, as in the public cell.
async fn cut_connections(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    let mut connection = stage.connect().await?;
    let end = Instant::now() + length;
    let mut cuts = 0;
    let mut tick = interval(CUT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        cuts += cut_all(&mut connection).await?;
        tick.tick().await;
    }
    Ok(json!({ "connections_ended": cuts }))
}

async fn cut_all(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let cuts = sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and state in ('active', 'idle in transaction')",
    );
    Ok(cuts.fetch_one(connection).await?)
}

/// Takes connections until the server has none left, those kept for superusers included.
async fn take_connections(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    let mut taken = Vec::new();
    while taken.len() < IDLE_CONNECTIONS {
        let Ok(connection) = PgConnection::connect(&stage.url).await else {
            break;
        };
        taken.push(connection);
    }
    sleep(length).await;
    let count = taken.len();
    for connection in taken {
        connection.close().await?;
    }
    Ok(json!({ "connections_held": count }))
}

async fn kill_one(stage: &mut Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    stage.kill_worker().await?;
    sleep(length).await;
    stage.start_worker()?;
    Ok(json!({ "kills": 1 }))
}

/// Always the same of the two, as in the public cell.
async fn kill_again_and_again(stage: &mut Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    let period = length / KILLS;
    for _ in 0..KILLS {
        sleep(period * 3 / 4).await;
        stage.kill_worker().await?;
        sleep(period / 4).await;
        stage.start_worker()?;
    }
    Ok(json!({ "kills": KILLS }))
}

/// A transaction with an id of its own: its snapshot and its id hold back every vacuum.
async fn stay_in_transaction(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    let mut connection = stage.connect().await?;
    let mut open = connection.begin().await?;
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut *open)
        .await?;
    sleep(length).await;
    open.rollback().await?;
    Ok(json!({ "dead_rows": dead_rows(&mut connection).await? }))
}

async fn dead_rows(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let dead =
        sqlx::query_scalar("select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables");
    Ok(dead.fetch_one(connection).await?)
}

async fn load(stream: &Stream, factor: f64, length: Duration) -> anyhow::Result<Value> {
    stream.times(factor);
    sleep(length).await;
    stream.times(1.0);
    Ok(json!({ "offered_per_s": (stream.steps_per_s() * factor).round() }))
}

async fn read(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Value> {
    let stop = CancellationToken::new();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(scan_until(stop.clone(), stage.connect().await?));
    }
    sleep(length).await;
    stop.cancel();
    let mut scans = 0;
    while let Some(count) = readers.join_next().await {
        scans += count??;
    }
    Ok(json!({ "scans": scans }))
}

/// One transaction, hence one snapshot, from the first scan to the last.
async fn scan_until(stop: CancellationToken, mut connection: PgConnection) -> anyhow::Result<u32> {
    let mut snapshot = connection.begin().await?;
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *snapshot)
        .await?;
    let mut scans = 0;
    while !stop.is_cancelled() {
        for scan in [
            "select count(*) from steps",
            "select count(*) from ready_steps",
            "select count(*) from leases",
        ] {
            sqlx::query(scan).execute(&mut *snapshot).await?;
            scans += 1;
        }
        let _ = stop.run_until_cancelled(sleep(READ_PAUSE)).await;
    }
    snapshot.rollback().await?;
    Ok(scans)
}
