//! A thousand streams of one person are cut at once and come back, a hundred events behind, while events go on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    add,
    crowd::{Crowd, Opening},
    processes,
    side::{Side, Size, TEXT, hundredths, since},
    speaker::Speech,
};
use crate::{
    setup::Bench,
    workloads::{millis, percentiles},
};

/// Streams that are cut.
const CUT: usize = 1000;
/// Streams that stay.
const STAY: usize = 100;
/// Events that each has to catch up on.
const BEHIND: i64 = 100;
const PER_S: u32 = 10;
/// Longest wait until all are level.
const PATIENCE: Duration = Duration::from_mins(1);

/// A line without Redis and one with it.
pub(crate) async fn reconnect(bench: &Bench, seconds: u64) -> anyhow::Result<()> {
    println!("{}", Box::pin(once(bench, seconds, None)).await?);
    let redis = processes::start_redis().await?;
    println!(
        "{}",
        Box::pin(once(bench, seconds, Some(redis.url()))).await?
    );
    Ok(())
}

async fn once(bench: &Bench, seconds: u64, redis: Option<String>) -> anyhow::Result<Value> {
    let server = processes::start_api(&bench.url, redis.as_deref(), 2 * (CUT + STAY)).await?;
    let size = Size {
        users: 1,
        streams: STAY,
    };
    let mut stay = Side::ours(bench, size, TEXT, vec![server]).await?;
    let target = stay.targets[0].clone();
    let targets = vec![target; CUT];
    let crowd = Crowd::join(&targets, Opening::CALM).await?;
    // The history, quickly; those who are cut see it all, and will claim to have seen less.
    stay.warm_up(Speech {
        events: 3 * u64::try_from(BEHIND)?,
        per_s: 100,
    })
    .await?;
    let quiet = quiet(&mut stay, seconds).await?;

    let newest = stay.newest();
    let opening = Opening {
        after: Some(newest - BEHIND),
        at_once: CUT,
    };
    let before = (bench.statements().await, stay.cost()?);
    drop(crowd);
    let cut_at = Instant::now();
    let speech = Speech::of(Duration::from_secs(seconds), PER_S);
    let back = async {
        let crowd = Crowd::join(&targets, opening).await?;
        let opened = cut_at.elapsed();
        crowd.wait_for_seq(newest, PATIENCE).await;
        let level = cut_at.elapsed();
        let spent = (since(before.0, bench.statements().await), crowd.bytes());
        anyhow::Ok((crowd, opened, level, spent))
    };
    let (back, window) = tokio::join!(back, stay.window(speech));
    let (crowd, opened, level, (statements, bytes)) = back?;
    window?;
    crowd.wait_for_seq(stay.newest(), PATIENCE).await;
    let cpu = stay.cost()?.cpu_since(before.1);

    let mut line = json!({
        "workload": "reconnect", "redis": redis.is_some(), "streams": CUT, "stay": STAY, "behind": BEHIND, "events_per_s": PER_S,
        "opened_ms": millis(opened), "level_ms": millis(level), "statements": statements, "bytes_read": bytes,
        "cpu_s": hundredths(cpu.as_secs_f64()), "quiet_p99_ms": millis(quiet),
    });
    let times = arrivals(&crowd, newest, stay.newest(), cut_at)?;
    add(&mut line, times);
    add(&mut line, json!({ "stayed": stay.lateness().json() }));
    drop(crowd);
    stay.stop().await?;
    Ok(line)
}

/// P99 of those who stay while nothing happens.
async fn quiet(stay: &mut Side, seconds: u64) -> anyhow::Result<Duration> {
    let speech = Speech::of(Duration::from_secs(seconds) / 2, PER_S);
    stay.window(speech).await?;
    let p99 = stay.lateness().p99;
    stay.judge_from_here();
    Ok(p99)
}

/// When the streams that came back were level, one by one; every event after their cursor came once and in order.
fn arrivals(crowd: &Crowd, newest: i64, last: i64, cut_at: Instant) -> anyhow::Result<Value> {
    let mut level = Vec::new();
    for log in &crowd.logs {
        let received = log.events();
        let seqs = received.iter().map(|(seq, _)| *seq);
        ensure!(
            seqs.eq(newest - BEHIND + 1..=last),
            "a stream that came back lost or repeated something"
        );
        let at = received.iter().find(|(seq, _)| *seq == newest);
        level.extend(at.map(|(_, at)| at.duration_since(cut_at)));
    }
    let (p50, p99) = percentiles(&mut level, 99);
    Ok(json!({ "stream_level_p50_ms": millis(p50), "stream_level_p99_ms": millis(p99), "lost": 0 }))
}
