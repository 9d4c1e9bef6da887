//! Loops that must not end: whatever breaks one off, it begins anew.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::error;

/// First and longest pause before a new beginning; the first one again after a minute without a break.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const STEADY: Duration = Duration::from_mins(1);

/// Runs a loop until it ends after `stop` has fired. One that ends before, or panics, is reported and begun anew after a pause.
pub async fn until<F>(stop: &CancellationToken, name: &str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = BACKOFF.0;
    loop {
        let started = tokio::time::Instant::now();
        let ended = tokio::spawn(begin()).await;
        if stop.is_cancelled() && ended.is_ok() {
            return;
        }
        match ended {
            Ok(()) => error!("{name} ended though nobody told it to; it begins anew"),
            Err(error) => error!(%error, "{name} broke off; it begins anew"),
        }
        if stop.is_cancelled() {
            return;
        }
        if started.elapsed() > STEADY {
            pause = BACKOFF.0;
        }
        let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        pause = std::cmp::min(pause * 2, BACKOFF.1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_or_ends_begins_anew_until_it_is_told_to_stop() {
        let stop = CancellationToken::new();
        let begun = Arc::new(AtomicU32::new(0));
        until(&stop, "a loop", || {
            let (stop, begun) = (stop.clone(), Arc::clone(&begun));
            async move {
                match begun.fetch_add(1, Ordering::Relaxed) {
                    0 => panic!("on purpose"),
                    1 => {}
                    _ => stop.cancel(),
                }
            }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
