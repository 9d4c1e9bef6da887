//! Duties: what has to happen though nobody asks. Every worker does them all; each is one statement that can run
//! anywhere any number of times, so there is nobody to elect.
//!
//! reaper: steps whose lease expired. clockmaker: retries that are due, waits past their deadline. sweep: places that fell free
//! unnoticed.

use std::time::Duration;

use engine::{Store, StoreError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the clock is looked at, before jitter.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two sweeps.
const SWEEP: u32 = 20;
/// Rows a statement takes on; a full batch is followed by the next at once.
const BATCH: i64 = 500;

/// Does them until `stop`; an error delays, it never ends.
pub async fn run(store: Store, stop: CancellationToken) {
    let mut ticks = 0_u32;
    while !stop.is_cancelled() {
        ticks = ticks.wrapping_add(1);
        match tick(&store, ticks.is_multiple_of(SWEEP)).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => warn!(%error, "a duty was not done; trying again"),
        }
        let wait = TICK.mul_f64(0.9 + 0.2 * fastrand::f64());
        let _ = stop.run_until_cancelled(sleep(wait)).await;
    }
}

/// One round; true when a batch was full and more is waiting.
async fn tick(store: &Store, sweep: bool) -> Result<bool, StoreError> {
    let reaped = store.reap(BATCH).await?;
    if reaped > 0 {
        info!(
            count = reaped,
            "took steps away from workers whose lease had expired"
        );
    }
    let due = store
        .admit_due(i32::try_from(BATCH).unwrap_or(i32::MAX))
        .await?;
    let expired = store.expire_waits(BATCH).await?;
    if sweep {
        store.admit_all().await?;
    }
    Ok([reaped, due, expired]
        .into_iter()
        .any(|count| i64::try_from(count).is_ok_and(|count| count >= BATCH)))
}
