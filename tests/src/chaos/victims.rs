//! Which worker is struck, and how one is killed.

use std::{sync::Mutex, time::Duration};

use chrono::Utc;
use tokio::time::sleep;

use super::{evidence::Kill, stage::Stage};

/// The worker in the middle of most calls, once there is one: a blow at an idle one shows nothing.
pub async fn busiest(stage: &Stage) -> usize {
    for _ in 0..30 {
        let open = stage.book.open_of_workers();
        if let Some((worker, _)) = open.into_iter().max_by_key(|(_, calls)| *calls) {
            return worker;
        }
        sleep(Duration::from_millis(50)).await;
    }
    0
}

/// Kills a worker and starts it again; writes down which leases there were.
pub async fn kill_worker(stage: &Stage, victim: usize, kills: &Mutex<Vec<Kill>>) {
    let leases = sqlx::query_as("select step_id, token from leases")
        .fetch_all(&stage.direct)
        .await;
    let at = Utc::now();
    if stage.workers[victim].kill().await {
        let kill = Kill {
            at,
            worker: victim,
            leases: leases.unwrap_or_default(),
        };
        kills
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(kill);
    }
    stage.workers[victim].start();
}
