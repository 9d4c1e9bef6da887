//! How late an event comes to those who listen, after its commit returned; beside it, in turns, the same from a bare server.
//!
//! Both have their streams open all the time and are listened to by the same clients. Windows of the one and the other
//! alternate, so that whatever else the machine does falls on both.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use servers::Redis;
use tokio::time::sleep;

use super::{
    add, processes,
    side::{Lateness, Side, Size, TEXT, hundredths, since},
    speaker::Speech,
};
use crate::setup::Bench;

/// Windows of each side.
const WINDOWS: u32 = 4;
/// Events before the first one, by time.
const WARM_UP: Duration = Duration::from_secs(1);
/// Streams of one person that an API process of a benchmark allows.
const MAX_STREAMS: usize = 9000;
/// Between the start of the servers and the first look at their memory.
const SETTLE: Duration = Duration::from_millis(500);

/// Who listens to how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    name: &'static str,
    size: Size,
    /// Events, of all users together.
    per_s: u32,
    /// API processes; more than one have a Redis between them.
    processes: usize,
}

impl Cell {
    const ALL: [Self; 5] = [
        Self::one("feed_1000", 1, 1000, 10),
        Self::one("feed_5000", 1, 5000, 10),
        Self::one("feed_1000_users", 1000, 5, 10),
        Self::one("feed_1000_users_busy", 1000, 5, 1000),
        Self {
            processes: 2,
            ..Self::one("feed_two_processes", 1, 1000, 10)
        },
    ];

    const fn one(name: &'static str, users: usize, streams: usize, per_s: u32) -> Self {
        Self {
            name,
            size: Size { users, streams },
            per_s,
            processes: 1,
        }
    }
}

/// The cells that a name on the command line stands for.
pub(crate) fn cells(name: &str) -> Option<Vec<Cell>> {
    if name == "feed" {
        return Some(Cell::ALL.to_vec());
    }
    let cell = Cell::ALL.into_iter().find(|cell| cell.name == name)?;
    Some(vec![cell])
}

/// Runs the cells and prints a line each. Fails after the last one if a stream lost something.
pub(crate) async fn run(bench: &Bench, cells: Vec<Cell>, seconds: u64) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for cell in cells {
        let (line, sound) = Box::pin(one(bench, cell, Duration::from_secs(seconds))).await?;
        println!("{line}");
        if !sound {
            broken.push(cell.name);
        }
    }
    ensure!(broken.is_empty(), "events were lost in {broken:?}");
    Ok(())
}

async fn one(bench: &Bench, cell: Cell, length: Duration) -> anyhow::Result<(Value, bool)> {
    // Ends with the cell.
    let redis = match cell.processes {
        1 => None,
        _ => Some(processes::start_redis().await?),
    };
    let redis_url = redis.as_ref().map(Redis::url);
    let mut servers = Vec::new();
    for _ in 0..cell.processes {
        servers.push(processes::start_api(&bench.url, redis_url.as_deref(), MAX_STREAMS).await?);
    }
    sleep(SETTLE).await;
    let mut ours = Box::pin(Side::ours(bench, cell.size, TEXT, servers)).await?;
    let warm_up = Speech::of(WARM_UP, cell.per_s);
    ours.warm_up(warm_up).await?;
    let mut bare = Side::bare(cell.processes, cell.size, ours.frame()?).await?;
    bare.warm_up(warm_up).await?;

    let speech = Speech::of(length / WINDOWS, cell.per_s);
    let mut windows = Some(0);
    for _ in 0..WINDOWS {
        let before = bench.statements().await;
        ours.window(speech).await?;
        let more = since(before, bench.statements().await);
        windows = windows.zip(more).map(|(sum, more)| sum + more);
        bare.window(speech).await?;
    }
    let late = (ours.lateness(), bare.lateness());
    let line = line(cell, &ours, &bare, &late, windows)?;
    ours.stop().await?;
    bare.stop().await?;
    let sound = late.0.lost == 0 && late.0.disordered == 0;
    Ok((line, sound))
}

fn line(
    cell: Cell,
    ours: &Side,
    bare: &Side,
    (late, limit): &(Lateness, Lateness),
    statements: Option<i64>,
) -> anyhow::Result<Value> {
    let streams = u32::try_from(cell.size.users * cell.size.streams)?;
    let events = u32::try_from(ours.events())?;
    let per = |count: Option<i64>, of: u32| {
        let count = i32::try_from(count?).ok()?;
        Some(hundredths(f64::from(count) / f64::from(of)))
    };
    let mut line = json!({
        "workload": "feed", "cell": cell.name, "users": cell.size.users, "streams": streams, "processes": cell.processes,
        "events": events, "events_per_s": cell.per_s, "frame_bytes": ours.frame()?,
    });
    add(&mut line, late.json());
    add(&mut line, ours.bill()?);
    add(
        &mut line,
        json!({
            "statements_per_event": per(statements, events),
            "statements_per_stream_opened": per(ours.opening, streams),
            "ratio_p99": hundredths(late.p99.as_secs_f64() / limit.p99.as_secs_f64()),
            // Many feeds, each read from Postgres, are not one broadcast.
            "bar_ratio_p99": (cell.size.users == 1).then_some(1.5),
            "bar_p99_ms": 100, "bar_kib_per_stream": 24,
        }),
    );
    let mut beside = limit.json();
    add(&mut beside, bare.bill()?);
    add(&mut line, json!({ "limit": beside }));
    Ok(line)
}
