//! How much the machine carries now: clients that keep fifty plans open, one worker.

use std::{fs, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{clients::STEPS, figures, stage::Stage};
use crate::setup::Bench;

/// Plans open at once.
const OPEN: usize = 50;
/// How often they are topped up.
const TICK: Duration = Duration::from_millis(2);

/// Steps a second over `unit`, after half a `unit` of warming up.
pub(super) async fn measure(bench: &Bench, unit: Duration, places: usize) -> anyhow::Result<f64> {
    let mut stage = Stage::open(bench, "capacity", 1, places).await?;
    saturate(&stage, unit / 2).await?;
    let from = chrono::Utc::now();
    saturate(&stage, unit).await?;
    let to = chrono::Utc::now();
    stage.clients.tally().await?;
    stage.drained().await?;
    stage.stop_workers().await?;
    let rate = figures::rate(&mut stage.connect().await?, from, to).await?;
    stage.close().await?;
    Ok(rate)
}

async fn saturate(stage: &Stage<'_>, length: Duration) -> anyhow::Result<()> {
    let receipts = stage.folder.path().join("0.receipts");
    let end = Instant::now() + length;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        tick.tick().await;
        // There is no file before the worker has begun.
        let bytes = fs::metadata(&receipts).map_or(0, |file| file.len());
        let runs = usize::try_from(bytes)? / figures::RECEIPT;
        let open = stage
            .clients
            .sent()
            .saturating_sub(runs / usize::try_from(STEPS)?);
        for _ in open..OPEN {
            stage.clients.send();
        }
    }
    Ok(())
}
