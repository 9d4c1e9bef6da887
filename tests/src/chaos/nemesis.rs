//! The nemesis: two crews that strike on a seeded schedule, and an undertaker for steps that kill their workers.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    evidence::Kill,
    faults::{Fault, strike},
    slot::Slot,
    stage::Stage,
    victims::kill_worker,
};

/// A fault that was struck.
#[derive(Debug, Clone, Copy)]
pub struct Blow {
    /// What.
    pub fault: Fault,
    /// At which worker, if at one.
    pub victim: Option<usize>,
    /// From when.
    pub began: DateTime<Utc>,
    /// Until when.
    pub ended: DateTime<Utc>,
}

/// All that was done to the stage.
#[derive(Debug, Default)]
pub struct Deeds {
    blows: Mutex<Vec<Blow>>,
    kills: Mutex<Vec<Kill>>,
}

impl Deeds {
    /// The blows, in the order of their ends.
    pub fn blows(&self) -> Vec<Blow> {
        lock(&self.blows).clone()
    }

    /// The workers killed.
    pub fn kills(&self) -> Vec<Kill> {
        lock(&self.kills).clone()
    }

    /// Blows by kind.
    pub fn counted(&self) -> BTreeMap<String, u64> {
        let mut counted = BTreeMap::new();
        for blow in lock(&self.blows).iter() {
            *counted.entry(format!("{:?}", blow.fault)).or_default() += 1;
        }
        counted
    }
}

/// Strikes with one fault of the deck after another for that long; the deck begins anew in another order.
pub async fn crew(
    stage: Arc<Stage>,
    deeds: Arc<Deeds>,
    deck: &'static [Fault],
    mut rng: fastrand::Rng,
    when: Range<Instant>,
) {
    sleep_until(when.start).await;
    let mut order = deck.to_vec();
    loop {
        for fault in &order {
            sleep(Duration::from_millis(rng.u64(150..700))).await;
            if Instant::now() >= when.end {
                return;
            }
            let began = Utc::now();
            let victim = strike(*fault, &stage, &mut rng, &deeds.kills).await;
            lock(&deeds.blows).push(Blow {
                fault: *fault,
                victim,
                began,
                ended: Utc::now(),
            });
        }
        rng.shuffle(&mut order);
    }
}

/// Kills the workers that run poison, and starts again whatever ended by itself (which is a violation, and told as one).
pub async fn undertaker(stage: Arc<Stage>, deeds: Arc<Deeds>, stop: CancellationToken) {
    let mut deaths = stage.deaths.lock().await;
    while !stop.is_cancelled() {
        tokio::select! {
            Some(worker) = deaths.recv() => kill_worker(&stage, worker, &deeds.kills).await,
            () = sleep(Duration::from_millis(200)) => stage.all().for_each(Slot::start),
            () = stop.cancelled() => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
