//! Sockets that stop reading while the feed grows by megabytes, and somebody beside them who reads.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    add,
    client::Stream,
    crowd::Crowd,
    processes,
    side::{Side, Size, since},
    speaker::Speech,
};
use crate::{setup::Bench, workloads::millis};

/// Sockets that do not read.
const STALLED: usize = 200;
/// Readers beside them.
const READERS: usize = 10;
/// Stalled ones that read on at the end.
const RESUMED: usize = 10;
/// Bytes written in all, and of one event's text: what an event may have at most.
const BYTES: u64 = 20 << 20;
const TEXT: usize = 9 << 10;
/// Receive buffer of a stalled socket: what the kernels hold is no memory of the API.
const ROOM: u32 = 4096;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for those who read on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Memory of the API, in KiB.
struct Memory {
    before: u64,
    highest: u64,
    after: u64,
}

pub(crate) async fn stalled(bench: &Bench, seconds: u64) -> anyhow::Result<Value> {
    let server = processes::start_api(&bench.url, None, 2 * STALLED).await?;
    let size = Size {
        users: 1,
        streams: READERS,
    };
    let mut readers = Side::ours(bench, size, TEXT, vec![server]).await?;
    let mut late = Crowd::default();
    let stalled = stall(&readers, &late).await?;
    readers
        .warm_up(Speech {
            events: 20,
            per_s: 20,
        })
        .await?;
    let events = BYTES / TEXT as u64;
    let speech = Speech {
        events,
        per_s: u32::try_from(std::cmp::max(1, events / std::cmp::max(1, seconds)))?,
    };
    let before = bench.statements().await;
    let memory = write(&mut readers, speech).await?;
    let statements = since(before, bench.statements().await);

    let bill = readers.bill()?;
    let lateness = readers.lateness();
    let level = read_on(&mut late, stalled, readers.newest()).await?;
    let mut line = json!({
        "workload": "stalled", "stalled": STALLED, "readers": READERS, "events": events, "bytes": events * TEXT as u64,
        "events_per_s": speech.per_s, "statements": statements,
        "rss_before_kib": memory.before, "rss_highest_kib": memory.highest, "rss_after_kib": memory.after,
        "cpu_s_per_s": bill["cpu_s_per_s"], "resumed": RESUMED, "resumed_level_ms": level.map(millis),
    });
    add(&mut line, json!({ "reader": lateness.json() }));
    drop(late);
    readers.stop().await?;
    Ok(line)
}

/// Opens streams of which nobody reads more than the answer's head.
async fn stall(side: &Side, late: &Crowd) -> anyhow::Result<Vec<Stream>> {
    let target = &side.targets[0];
    stream::iter(0..STALLED)
        .map(|_| Stream::open(target, None, Some(ROOM), late.counter()))
        .buffer_unordered(16)
        .try_collect()
        .await
}

/// Has everything written, with an eye on the memory.
async fn write(side: &mut Side, speech: Speech) -> anyhow::Result<Memory> {
    let before = side.cost()?.rss_kib;
    let done = CancellationToken::new();
    let watching = tokio::spawn(highest(side.watch(), done.clone()));
    side.window(speech).await?;
    done.cancel();
    let highest = watching.await??;
    Ok(Memory {
        before,
        highest,
        after: side.cost()?.rss_kib,
    })
}

async fn highest(
    look: impl Fn() -> anyhow::Result<u64>,
    done: CancellationToken,
) -> anyhow::Result<u64> {
    let mut highest = 0;
    while !done.is_cancelled() {
        highest = std::cmp::max(highest, look()?);
        let _ = done.run_until_cancelled(sleep(LOOK)).await;
    }
    Ok(highest)
}

/// Some of the stalled read again, and nothing is missing. None: the API has hung up on them meanwhile, and they would have
/// to come back with their cursor.
async fn read_on(
    late: &mut Crowd,
    mut stalled: Vec<Stream>,
    newest: i64,
) -> anyhow::Result<Option<Duration>> {
    stalled.truncate(RESUMED);
    let began = Instant::now();
    for stream in stalled {
        late.follow(stream);
    }
    late.wait_for_seq(newest, PATIENCE).await;
    let took = began.elapsed();
    if late.check().is_err() {
        return Ok(None);
    }
    for log in &late.logs {
        let seqs: Vec<i64> = log.events().iter().map(|(seq, _)| *seq).collect();
        ensure!(
            seqs.iter().copied().eq(1..=newest),
            "a stream that read on lost or repeated something"
        );
    }
    Ok(Some(took))
}
