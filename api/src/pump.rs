//! Reads one person's new events from Postgres and hands them to all who listen in this process.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use engine::{Store, StoreError, event::Event, store::Cursor};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::{
    hub::Channel,
    line::{Line, ends_a_step},
};

/// Events read at once.
const PAGE: i64 = 200;
/// Text of a step goes out at most so often.
const TEXT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at what the journal keeps of a text of which a piece is missing.
const RECALL_PAUSE: Duration = Duration::from_millis(300);
/// Pause after a failed read, and the longest such pause.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(2);

/// Runs until nobody listens.
pub(crate) async fn run(store: Store, channel: Arc<Channel>) {
    let mut said_at = Instant::now();
    let mut recalled_at = None;
    let mut retry = RETRY;
    let mut cursor = Cursor::default();
    loop {
        let (waits, gap) = {
            let texts = channel.texts();
            (
                texts.waits(),
                texts.has_gap() || recalled_at.is_none() && channel.is_heard(),
            )
        };
        let recall_at = recalled_at.map_or_else(Instant::now, |at| at + RECALL_PAUSE);
        tokio::select! {
            () = channel.gone.cancelled() => return,
            () = channel.wake.notified() => {}
            () = sleep_until(said_at + TEXT_PAUSE), if waits => {
                say(&channel);
                said_at = Instant::now();
            }
            () = sleep_until(recall_at), if gap => {
                recall(&store, &channel).await;
                recalled_at = Some(Instant::now());
            }
        }
        if !channel.started() || !channel.take_grown() {
            continue;
        }
        // What a step said comes before its end.
        say(&channel);
        if let Err(error) = read(&store, &channel, &mut cursor).await {
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
async fn read(store: &Store, channel: &Channel, cursor: &mut Cursor) -> Result<(), StoreError> {
    loop {
        // Where the channel began the time of its event is not known.
        if cursor.seq != channel.position() {
            *cursor = channel.position().into();
        }
        let events = store
            .events_after(channel.scope, None, *cursor, PAGE)
            .await?;
        let full = i64::try_from(events.len()).is_ok_and(|read| read == PAGE);
        for event in &events {
            heed(store, channel, event).await?;
            // Without a listener it is nobody's loss: the channel is about to close.
            let _ = channel.lines.send(Line::event(event));
            channel.advance(event.seq);
            *cursor = event.into();
        }
        if !full {
            return Ok(());
        }
    }
}

/// What an event means for the text of its step.
async fn heed(store: &Store, channel: &Channel, event: &Event) -> Result<(), StoreError> {
    let Some(step) = event.step_id else {
        return Ok(());
    };
    if ends_a_step(&event.event_type) {
        channel.texts().end(step);
    } else if event.event_type == "task_started" {
        let attempt = event.payload.get("attempt").and_then(|n| n.as_u64());
        let attempt = attempt.and_then(|n| u16::try_from(n).ok()).unwrap_or(1);
        let interrupted = channel.texts().interrupted(step, attempt);
        // A turn that was finished stands, whatever became of the run after it.
        let void = match interrupted {
            Some(turn) if !store.turn_is_done(channel.scope, step, turn).await? => Some(turn),
            _ => None,
        };
        channel.texts().begin(step, attempt, void, event);
    }
    Ok(())
}

/// Looks up what the journal keeps.
async fn recall(store: &Store, channel: &Channel) {
    match store.texts_so_far(channel.scope).await {
        Ok(kept) => channel.texts().recall(&kept),
        Err(error) => warn!(%error, "the text of running steps could not be read"),
    }
}

fn say(channel: &Channel) {
    // Taken first and sent then: the lines of a text are in the order in which they were taken, since only this task takes any.
    let lines = channel.texts().take(channel.position(), Utc::now());
    for line in lines {
        let _ = channel.lines.send(Line::Delta(line));
    }
}
