//! Duties: what has to happen though nobody asks. Every worker does them all; each is one transition that can run
//! anywhere any number of times, so there is nobody to elect. Each has a loop of its own under a supervisor: one that is
//! slow, or breaks off, does not keep the others from theirs.
//!
//! reaper: steps whose lease expired. clockmaker: retries that are due, waits past their deadline, plans past theirs.
//! sweep: places that fell free unnoticed. crier: steps that have waited for long, told to their owners. janitor: partitions
//! of the feed, made ahead and dropped when they are old.

use std::{future::Future, time::Duration};

use engine::{Store, StoreError};
use futures::future::join5;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::supervise;

/// How often the clock is looked at, before jitter.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at steps that wait.
const CRY: Duration = Duration::from_secs(2);
/// Between two looks at what is to be dropped.
const CLEAN: Duration = Duration::from_mins(10);
/// Between two sweeps.
const SWEEP: Duration = Duration::from_secs(10);
/// Rows a statement takes on; a full batch is followed by the next at once.
const BATCH: u16 = 500;
/// A duty that takes longer hangs on a dead connection: longer than any statement may run.
const LIMIT: Duration = Duration::from_secs(35);

/// Whether more is waiting than one batch took on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    More,
}

/// Does them until `stop`; an error delays, it never ends.
pub async fn run(store: Store, stop: CancellationToken) {
    join5(
        duty(&store, &stop, "the reaper", TICK, reap),
        duty(&store, &stop, "the clockmaker", TICK, look_at_the_clock),
        duty(&store, &stop, "the sweep", SWEEP, sweep),
        duty(&store, &stop, "the crier", CRY, cry),
        duty(&store, &stop, "the janitor", CLEAN, clean),
    )
    .await;
}

async fn duty<F>(
    store: &Store,
    stop: &CancellationToken,
    name: &'static str,
    pause: Duration,
    round: fn(Store) -> F,
) where
    F: Future<Output = Result<Left, StoreError>> + Send + 'static,
{
    supervise::until(stop, name, || {
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                match timeout(LIMIT, round(store.clone())).await {
                    Ok(Ok(Left::More)) => continue,
                    Ok(Ok(Left::Nothing)) => {}
                    Ok(Err(error)) => warn!(%error, "{name} did not come through; trying again"),
                    Err(_) => warn!("{name} heard nothing for {LIMIT:?}; trying again"),
                }
                let wait = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
                let _ = stop.run_until_cancelled(sleep(wait)).await;
            }
        }
    })
    .await;
}

async fn reap(store: Store) -> Result<Left, StoreError> {
    let reaped = store.reap(BATCH.into()).await?;
    if reaped > 0 {
        info!(
            count = reaped,
            "took steps away from workers whose lease had expired"
        );
    }
    Ok(left([reaped]))
}

async fn look_at_the_clock(store: Store) -> Result<Left, StoreError> {
    let due = store.admit_due(BATCH.into()).await?;
    let expired = store.expire_waits(BATCH.into()).await?;
    let stopped = store.stop_overdue_plans(BATCH.into()).await?;
    store.warn_of_deadlines(BATCH.into()).await?;
    Ok(left([due, expired, stopped]))
}

async fn sweep(store: Store) -> Result<Left, StoreError> {
    store.admit_all().await?;
    store.forget_workers().await?;
    Ok(Left::Nothing)
}

async fn cry(store: Store) -> Result<Left, StoreError> {
    store.tell_of_waiting(BATCH.into()).await?;
    Ok(Left::Nothing)
}

async fn clean(store: Store) -> Result<Left, StoreError> {
    let (made, dropped) = store.keep_events().await?;
    if made + dropped > 0 {
        info!(made, dropped, "partitions of the feed, a week each");
    }
    Ok(Left::Nothing)
}

fn left<const N: usize>(counts: [usize; N]) -> Left {
    let full = |count: usize| count >= usize::from(BATCH);
    if counts.into_iter().any(full) {
        Left::More
    } else {
        Left::Nothing
    }
}
