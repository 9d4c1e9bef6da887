//! Those who send plans, at a rate that does not depend on how they are served.
//!
//! A plan that could not be sent because all clients were waiting, or that was answered with an error, is counted and not sent
//! again: the recovery phase is offered as much as the baseline was, and no more.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use engine::{
    Store, UserScope,
    id::{AgentId, PlanId},
    store::Accepted,
    testing::{Shape, explicit},
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Steps of a plan: 1 -> 8 -> 1.
pub(super) const STEPS: u32 = 10;
/// Requests at once.
const CLIENTS: u32 = 64;
/// How often plans are sent.
const TICK: Duration = Duration::from_millis(5);

/// All who send plans.
#[derive(Debug)]
pub(super) struct Clients {
    store: Store,
    people: Vec<(UserScope, Vec<AgentId>)>,
    room: Arc<Semaphore>,
    sent: AtomicUsize,
    accepted: Mutex<Vec<PlanId>>,
    refused: AtomicU64,
    unsure: AtomicU64,
    unsent: AtomicU64,
}

/// What became of the plans.
#[derive(Debug)]
pub(super) struct Tally {
    /// Whoever sent them was told that they were taken.
    pub(super) accepted: Vec<PlanId>,
    /// A limit was in the way.
    pub(super) refused: u64,
    /// Answered with an error: taken or not.
    pub(super) unsure: u64,
    /// Due while every client was waiting for an answer.
    pub(super) unsent: u64,
}

impl Clients {
    pub(super) fn new(store: Store, people: Vec<(UserScope, Vec<AgentId>)>) -> Self {
        Self {
            store,
            people,
            room: Arc::new(Semaphore::new(CLIENTS as usize)),
            sent: AtomicUsize::new(0),
            accepted: Mutex::default(),
            refused: AtomicU64::default(),
            unsure: AtomicU64::default(),
            unsent: AtomicU64::default(),
        }
    }

    /// Sends one plan, without waiting for the answer.
    pub(super) fn send(self: &Arc<Self>) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.unsent.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let clients = Arc::clone(self);
        tokio::spawn(async move {
            clients.ask().await;
            drop(permit);
        });
    }

    async fn ask(&self) {
        let turn = self.sent.fetch_add(1, Ordering::Relaxed);
        let (scope, agents) = &self.people[turn % self.people.len()];
        let plan = explicit(Shape::Diamond(8), agents, None);
        match self.store.accept_plan(*scope, &plan).await {
            Ok(Accepted::Plan { plan, .. }) => self.list().push(plan),
            Ok(_) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            Err(_) => drop(self.unsure.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<PlanId>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans sent so far.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for the last answers.
    pub(super) async fn tally(&self) -> anyhow::Result<Tally> {
        let _all = self.room.acquire_many(CLIENTS).await?;
        Ok(Tally {
            accepted: self.list().clone(),
            refused: self.refused.load(Ordering::Relaxed),
            unsure: self.unsure.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
        })
    }
}

/// A steady stream of plans.
#[derive(Debug)]
pub(super) struct Stream {
    steps_per_s: f64,
    pace: watch::Sender<f64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Stream {
    pub(super) fn start(clients: &Arc<Clients>, steps_per_s: f64) -> Self {
        let pace = watch::Sender::new(1.0);
        let stop = CancellationToken::new();
        let sending = send_steadily(
            Arc::clone(clients),
            steps_per_s / f64::from(STEPS),
            pace.subscribe(),
        );
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let _ = until.run_until_cancelled(sending).await;
        });
        Self {
            steps_per_s,
            pace,
            stop,
            task,
        }
    }

    /// From now on so many times the load that it began with.
    pub(super) fn times(&self, factor: f64) {
        self.pace.send_replace(factor);
    }

    /// The load that it began with.
    pub(super) fn steps_per_s(&self) -> f64 {
        self.steps_per_s
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

async fn send_steadily(clients: Arc<Clients>, plans_per_s: f64, pace: watch::Receiver<f64>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before = Instant::now();
    let mut due = 0.0;
    loop {
        tick.tick().await;
        let now = Instant::now();
        due += (now - before).as_secs_f64() * plans_per_s * *pace.borrow();
        before = now;
        while due >= 1.0 {
            due -= 1.0;
            clients.send();
        }
    }
}
