//! Reads one person's new events from Postgres and hands them to all who listen in this process.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use engine::{Store, StoreError};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::{hub::Channel, line::Line, sse::PAGE};

/// Text of a step goes out at most so often.
const DELTA_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a failed read, and the longest such pause.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(2);

/// Runs until nobody listens.
pub(crate) async fn run(store: Store, channel: Arc<Channel>) {
    let mut said_at = Instant::now();
    let mut retry = RETRY;
    loop {
        let speak = channel.has_deltas();
        tokio::select! {
            () = channel.gone.cancelled() => return,
            () = channel.wake.notified() => {}
            () = sleep_until(said_at + DELTA_PAUSE), if speak => {
                say(&channel);
                said_at = Instant::now();
            }
        }
        if !channel.started() || !channel.take_grown() {
            continue;
        }
        // What a step said comes before its end.
        say(&channel);
        if let Err(error) = read(&store, &channel).await {
            warn!(%error, "a feed could not be read; it is tried again");
            channel.look();
            let again = Instant::now() + retry;
            tokio::select! {
                () = channel.gone.cancelled() => return,
                () = sleep_until(again) => {}
            }
            retry = std::cmp::min(retry * 2, RETRY_LIMIT);
        } else {
            retry = RETRY;
        }
    }
}

/// Hands out everything after the channel's position.
async fn read(store: &Store, channel: &Channel) -> Result<(), StoreError> {
    loop {
        let events = store
            .events_after(channel.scope, None, channel.position(), PAGE)
            .await?;
        let full = i64::try_from(events.len()).is_ok_and(|read| read == PAGE);
        for event in &events {
            match (event.step_id, event.event_type.as_str()) {
                (Some(step), "task_completed" | "task_failed" | "task_cancelled") => {
                    channel.end(step);
                }
                (Some(step), "task_started") => channel.begin(step),
                _ => {}
            }
            // Without a listener it is nobody's loss: the channel is about to close.
            let _ = channel.lines.send(Line::event(event));
            channel.advance(event.seq);
        }
        if !full {
            return Ok(());
        }
    }
}

fn say(channel: &Channel) {
    let now = Utc::now();
    for delta in channel.take_deltas() {
        let _ = channel
            .lines
            .send(Line::delta(&delta, channel.position(), now));
    }
}
