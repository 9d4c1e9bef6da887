//! `claims()`: the stream of claimed steps that a worker runs, and the loop behind it.
//!
//! The loop commits what has finished and claims as many steps as there are free places, in one round trip; what finishes
//! meanwhile goes with the next. That is group commit without a timer: a lone step goes at once, a busy worker shares
//! one commit among many (measured: batches of 1, 10 and 50 stand like 1 : 9 : 21).
//! It wakes by a hint, by a finished step, or by its own tick (the guarantee), never yields an error and never ends before it is
//! told to: whatever the database does, it keeps the outcomes and tries again.
//!
//! Leases are renewed by a thread of their own, so that a handler that blocks the runtime does not lose them. Who cannot
//! renew in time is told to stop *before* the lease expires.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::Stream;
use sqlx::{Postgres, pool::PoolConnection};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    event::hints::Hint,
    fault,
    id::{StepId, UserId, WorkerId},
    step::{
        ClaimedStep, Outcome, StepError,
        claimed::{Claim, Finished},
    },
    store::{Fenced, Store, Turn, transitions::Finish},
};

/// Longest sleep of an idle loop, before jitter of 10 %.
const TICK: Duration = Duration::from_secs(1);
/// Backoff of a loop whose database does not answer: people wait for its return.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a finish and claim may take before its connection is given up: longer than any statement may run
/// (`PoolLimits::statement`), so only a connection that is dead at the other end comes to this.
const TURN_LIMIT: Duration = Duration::from_secs(35);
/// When to look for claims that nobody heard of, after a turn that broke off: at once, and when it can no longer be waiting for
/// a lock in Postgres.
const LATER: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(3),
    Duration::from_secs(40),
];
/// How often leases are looked at for a cancel that no hint told of: a cancel reaches a model call within a second.
const WATCH: Duration = Duration::from_millis(700);
/// How often the loop reports that it is there.
const REPORT: Duration = Duration::from_secs(5);
/// A step that took its worker's thread down with a panic is tried again after this.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// How a worker claims.
#[derive(Debug, Clone)]
pub struct ClaimOptions {
    /// Steps at once.
    pub places: usize,
    /// No more claims; what is running may finish.
    pub drain: CancellationToken,
    /// Stop what is running too, and give it back.
    pub abandon: CancellationToken,
}

/// The leases that this process holds.
#[derive(Debug, Default)]
struct Held(Mutex<HashMap<(UserId, StepId), Arc<Claim>>>);

/// Starts the loop; the stream ends when `drain` has fired and all places are free again.
pub fn claims(
    store: Store,
    options: ClaimOptions,
) -> impl Stream<Item = ClaimedStep> + Send + 'static {
    let (sender, receiver) = mpsc::channel(std::cmp::max(options.places, 1));
    let held = Arc::new(Held::default());
    let worker = WorkerId::new();
    spawn_renewal(Renewal {
        store: store.clone(),
        held: Arc::clone(&held),
        alive: sender.downgrade(),
        worker,
        places: options.places,
    });
    tokio::spawn(watch_cancels(
        store.clone(),
        Arc::clone(&held),
        sender.downgrade(),
    ));
    tokio::spawn(Pump::new(store, options, worker, held, sender).run());
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|step| (step, receiver))
    })
}

struct Pump {
    store: Store,
    options: ClaimOptions,
    worker: WorkerId,
    held: Arc<Held>,
    steps: mpsc::Sender<ClaimedStep>,
    back: mpsc::UnboundedSender<Finished>,
    finished: mpsc::UnboundedReceiver<Finished>,
    work: watch::Receiver<u64>,
    in_flight: usize,
    /// Kept from turn to turn, and let go after an error.
    connection: Option<PoolConnection<Postgres>>,
    /// When to look for leases that were granted by a turn whose reply was lost; it may commit after the next one has.
    look_for_unknown: Vec<Instant>,
}

impl Pump {
    fn new(
        store: Store,
        options: ClaimOptions,
        worker: WorkerId,
        held: Arc<Held>,
        steps: mpsc::Sender<ClaimedStep>,
    ) -> Self {
        let (back, finished) = mpsc::unbounded_channel();
        // Registered before the first look: a hint between look and sleep is not missed.
        let mut work = store.hints().work_signal();
        work.mark_changed();
        Self {
            store,
            options,
            worker,
            held,
            steps,
            back,
            finished,
            work,
            in_flight: 0,
            connection: None,
            look_for_unknown: Vec::new(),
        }
    }

    async fn run(mut self) {
        let mut done = Vec::new();
        let mut maybe_more = true;
        loop {
            let draining = self.options.drain.is_cancelled();
            if draining && self.in_flight == 0 {
                // One that is not forgotten shows as gone soon enough.
                let _ = self.store.sign_off(self.worker).await;
                return;
            }
            self.sleep_until_something(&mut done, maybe_more && !draining)
                .await;
            while let Ok(more) = self.finished.try_recv() {
                done.push(more);
            }
            let limit = if self.options.drain.is_cancelled() {
                0
            } else {
                self.options.places - self.in_flight + done.len()
            };
            self.work.mark_unchanged();
            let started = Instant::now();
            let turn = self.turn(&done, limit).await;
            maybe_more = limit > 0 && turn.claimed.len() == limit;
            if maybe_more && !done.is_empty() {
                self.store.hints().work_elsewhere();
            }
            self.settle(&mut done, &turn.fenced);
            for claim in turn.claimed {
                self.hand_out(claim, started).await;
            }
            let now = Instant::now();
            if self.look_for_unknown.iter().any(|due| *due <= now) {
                self.look_for_unknown.retain(|due| *due > now);
                self.give_back_unknown().await;
            }
        }
    }

    /// Returns at once while there may be more to claim and room for it; otherwise at the next finish, hint or tick.
    async fn sleep_until_something(&mut self, done: &mut Vec<Finished>, eager: bool) {
        let room = self.in_flight < self.options.places;
        if eager && room {
            return;
        }
        let tick = if fault::mutant("hints_trusted") {
            Duration::from_hours(1)
        } else {
            TICK.mul_f64(0.9 + 0.2 * fastrand::f64())
        };
        tokio::select! {
            Some(one) = self.finished.recv() => done.push(one),
            Ok(()) = self.work.changed(), if room => {}
            () = sleep(tick) => {}
            () = self.options.drain.cancelled(), if !self.options.drain.is_cancelled() => {}
            () = self.options.abandon.cancelled(), if self.options.drain.is_cancelled() => self.abandon().await,
        }
    }

    /// One round trip, repeated until the database takes it.
    async fn turn(&mut self, done: &[Finished], limit: usize) -> Turn {
        let outcomes: Vec<Outcome> = done.iter().map(outcome_of).collect();
        let finishes: Vec<Finish<'_>> = done
            .iter()
            .zip(&outcomes)
            .map(|(one, outcome)| Finish::of(&one.claim, outcome))
            .collect();
        let mut wait = BACKOFF.0;
        loop {
            match self.try_turn(&finishes, limit).await {
                Ok(turn) => return turn,
                Err(error) if error.is_passing() => {
                    warn!(%error, waiting = ?wait, "finish and claim did not go through; trying again");
                }
                Err(error) if finishes.len() > 1 => {
                    return self.one_by_one(&finishes, &error).await;
                }
                Err(error) => {
                    error!(error = %chain(&error), "finish and claim failed");
                    if !finishes.is_empty() {
                        // Its lease will expire and the reaper takes it; the loop goes on.
                        return Turn::default();
                    }
                }
            }
            let now = Instant::now();
            self.look_for_unknown = LATER.iter().map(|later| now + *later).collect();
            sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait = std::cmp::min(wait * 2, BACKOFF.1);
        }
    }

    async fn try_turn(
        &mut self,
        finishes: &[Finish<'_>],
        limit: usize,
    ) -> Result<Turn, crate::StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.connection().await?,
        };
        let turn = timeout(
            TURN_LIMIT,
            self.store
                .turn_on(&mut connection, finishes, self.worker, limit),
        )
        .await;
        if let Ok(Ok(turn)) = turn {
            self.connection = Some(connection);
            return Ok(turn);
        }
        // Whatever became of it, nobody shall get this connection again.
        drop(connection.detach());
        turn.unwrap_or_else(|_| {
            let silent = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Err(crate::StoreError::Unavailable(silent.into()))
        })
    }

    /// A batch that the database refuses holds one outcome that it refuses: commit the others.
    async fn one_by_one(&self, finishes: &[Finish<'_>], why: &crate::StoreError) -> Turn {
        error!(error = %chain(why), batch = finishes.len(), "a batch was refused; its outcomes go one by one");
        let mut turn = Turn::default();
        for finish in finishes {
            match self.alone(finish).await {
                Ok(mut more) => turn.fenced.append(&mut more.fenced),
                Err(error) => {
                    error!(step.id = %finish.step, error = %chain(&error), "an outcome was refused");
                    let refused = Outcome::Fail {
                        error: StepError::bug(
                            "outcome_refused",
                            "the step's outcome could not be stored",
                        ),
                        reply: None,
                    };
                    let instead = Finish {
                        outcome: &refused,
                        ..*finish
                    };
                    if let Err(error) = self.alone(&instead).await {
                        error!(step.id = %finish.step, error = %chain(&error), "its lease will expire");
                    }
                }
            }
        }
        turn
    }

    /// One outcome by itself, until the database has taken or refused it.
    async fn alone(&self, finish: &Finish<'_>) -> Result<Turn, crate::StoreError> {
        let mut wait = BACKOFF.0;
        loop {
            match self
                .store
                .turn(std::slice::from_ref(finish), self.worker, 0)
                .await
            {
                Err(error) if error.is_passing() => {
                    warn!(%error, waiting = ?wait, "an outcome was not stored; trying again");
                }
                stored => return stored,
            }
            sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait = std::cmp::min(wait * 2, BACKOFF.1);
        }
    }

    /// After a lost reply: leases that the rows say are ours and that we know nothing of were granted by it. Give them back.
    async fn give_back_unknown(&self) {
        let Ok(leases) = self.store.leases_of(self.worker).await else {
            return;
        };
        let unknown: Vec<Finish<'_>> = leases
            .iter()
            .filter(|(user, _, step, token)| !self.held.holds(*user, *step, *token))
            .map(|&(user, plan, step, token)| Finish {
                user,
                plan,
                step,
                token,
                outcome: &Outcome::Yield,
            })
            .collect();
        if !unknown.is_empty() && self.store.turn(&unknown, self.worker, 0).await.is_ok() {
            warn!(
                count = unknown.len(),
                "gave back steps whose claim this process never heard of"
            );
        }
    }

    fn settle(&mut self, done: &mut Vec<Finished>, fenced: &[Fenced]) {
        self.in_flight -= done.len();
        for Fenced { step, token } in fenced {
            warn!(step.id = %step, token, "the lease was gone; the outcome was dropped");
        }
        for one in done.iter() {
            self.held.forget(&one.claim);
        }
        self.store
            .tell(done.drain(..).map(|one| one.claim.scope.user()));
    }

    async fn hand_out(&mut self, claim: Claim, started: Instant) {
        let claim = Arc::new(claim);
        self.held.remember(&claim, started, self.store.lease());
        self.store.hints().feed(claim.scope.user());
        self.in_flight += 1;
        let step = ClaimedStep::new(claim, self.back.clone());
        // The channel holds as many as there are places, so this never waits; a closed one drops the step, which reports back.
        let _ = self.steps.send(step).await;
    }

    /// Tells all running steps to stop, and waits for them to come home.
    async fn abandon(&mut self) {
        self.held.lose_all();
        sleep(Duration::from_millis(10)).await;
    }
}

/// What is committed for a finished step; one that was dropped unfinished most likely panicked.
fn outcome_of(finished: &Finished) -> Outcome {
    match &finished.outcome {
        Some(outcome) => outcome.clone(),
        None if finished.claim.lost.is_cancelled() => Outcome::Yield,
        None => Outcome::Retry {
            after: AFTER_PANIC,
            error: StepError::bug(
                "panicked",
                "the step's executor broke off; see the worker's log",
            ),
            last_words: None,
        },
    }
}

impl Held {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(UserId, StepId), Arc<Claim>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, claim: &Arc<Claim>, started: Instant, lease: Duration) {
        claim.trust.set(started + trusted(lease));
        let before = self
            .lock()
            .insert((claim.scope.user(), claim.id), Arc::clone(claim));
        // This process slept through an earlier lease of the same step and has not noticed yet.
        if let Some(before) = before {
            before.lost.cancel();
        }
    }

    fn forget(&self, claim: &Claim) {
        let mut held = self.lock();
        let key = (claim.scope.user(), claim.id);
        if held.get(&key).is_some_and(|own| own.token == claim.token) {
            held.remove(&key);
        }
    }

    fn holds(&self, user: UserId, step: StepId, token: i64) -> bool {
        self.lock()
            .get(&(user, step))
            .is_some_and(|claim| claim.token == token)
    }

    fn all(&self) -> Vec<(UserId, StepId, i64)> {
        self.lock()
            .iter()
            .map(|((user, step), claim)| (*user, *step, claim.token))
            .collect()
    }

    fn lose_all(&self) {
        for claim in self.lock().values() {
            claim.lost.cancel();
        }
    }

    /// Takes in what a renewal said: extends those still held, tells the others.
    fn renewed(
        &self,
        asked: &[(UserId, StepId, i64)],
        kept: &HashMap<(StepId, i64), bool>,
        started: Instant,
        lease: Duration,
    ) {
        for claim in self.lock().values() {
            if kept.contains_key(&(claim.id, claim.token)) {
                claim.trust.set(started + trusted(lease));
            }
        }
        self.heard(asked, kept);
    }

    /// Tells those that are to stop: cancelled, or not theirs any more.
    fn heard(&self, asked: &[(UserId, StepId, i64)], kept: &HashMap<(StepId, i64), bool>) {
        let held = self.lock();
        for (user, step, token) in asked {
            let Some(claim) = held
                .get(&(*user, *step))
                .filter(|claim| claim.token == *token)
            else {
                continue;
            };
            match kept.get(&(*step, *token)) {
                Some(true) => claim.cancelled.cancel(),
                Some(false) => {}
                None => claim.lost.cancel(),
            }
        }
    }

    /// Tells those whose lease may have expired by now: whoever cannot renew fences itself.
    fn fence_stale(&self) {
        for claim in self
            .lock()
            .values()
            .filter(|claim| !claim.trust.holds() && !claim.lost.is_cancelled())
        {
            warn!(step.id = %claim.id, "the lease could not be renewed in time; the step is stopped");
            claim.lost.cancel();
        }
    }
}

/// How long a lease may be relied on from the start of the call that granted it: a tenth less than it lasts.
fn trusted(lease: Duration) -> Duration {
    lease.mul_f64(0.9)
}

/// How often leases that ran out are looked for.
fn tick(lease: Duration) -> Duration {
    std::cmp::min(lease / 30, Duration::from_millis(500))
}

/// What the renewal thread works with.
struct Renewal {
    store: Store,
    held: Arc<Held>,
    alive: mpsc::WeakSender<ClaimedStep>,
    worker: WorkerId,
    places: usize,
}

fn spawn_renewal(renewal: Renewal) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        error!(
            "no runtime for the renewal of leases; steps longer than a lease will be taken away"
        );
        return;
    };
    let spawned = std::thread::Builder::new()
        .name("lease-renewal".to_owned())
        .spawn(move || {
            runtime.block_on(renewal.run());
            runtime.shutdown_background();
        });
    if let Err(error) = spawned {
        error!(%error, "no thread for the renewal of leases; steps longer than a lease will be taken away");
    }
}

impl Renewal {
    async fn run(mut self) {
        // A connection opened on this thread's runtime must not end up in the pool of another.
        self.store = self.store.on_this_runtime();
        let lease = self.store.lease();
        let mut next = Instant::now() + lease / 3;
        let mut report = Instant::now();
        while self.alive.upgrade().is_some() {
            self.fencing(sleep(tick(lease))).await;
            if Instant::now() >= next {
                next = Instant::now() + self.fencing(self.renew(lease)).await;
            }
            if Instant::now() >= report {
                report = Instant::now() + REPORT;
                // People are told of workers that do not report; nothing else comes of it.
                let said = self.store.report(self.worker, self.places);
                let _ = self.fencing(timeout(lease / 10, said)).await;
            }
        }
    }

    /// Waits for `call` and meanwhile fences whose lease runs out: a call that hangs must not put that off.
    async fn fencing<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            self.held.fence_stale();
            tokio::select! {
                done = &mut call => return done,
                () = sleep(tick(self.store.lease())) => {}
            }
        }
    }

    /// Renews once; how long until the next time.
    async fn renew(&self, lease: Duration) -> Duration {
        let asked = self.held.all();
        if asked.is_empty() {
            return lease / 3;
        }
        let started = Instant::now();
        match timeout(lease / 5, self.store.renew(&asked)).await {
            Ok(Ok(renewed)) => {
                self.held.renewed(&asked, &kept(renewed), started, lease);
                lease / 3
            }
            Ok(Err(error)) => {
                warn!(%error, "leases were not renewed; trying again");
                lease / 30
            }
            Err(_) => {
                warn!("leases were not renewed in time; trying again");
                lease / 30
            }
        }
    }
}

fn kept(renewed: Vec<super::transitions::Renewed>) -> HashMap<(StepId, i64), bool> {
    renewed
        .into_iter()
        .map(|one| ((one.id, one.token), one.cancelling))
        .collect()
}

/// Tells running steps of their cancel: by a hint at once, and by a look at the rows when no hint came.
async fn watch_cancels(store: Store, held: Arc<Held>, alive: mpsc::WeakSender<ClaimedStep>) {
    let mut hints = store.hints().subscribe();
    let mut look = interval(WATCH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while alive.upgrade().is_some() {
        tokio::select! {
            hint = hints.recv() => match hint {
                Ok(Hint::Cancel(_) | Hint::Resync) | Err(RecvError::Lagged(_)) => {}
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => {}
        }
        let asked = held.all();
        if asked.is_empty() {
            continue;
        }
        // An error shows in the renewal too, which says so.
        if let Ok(Ok(watched)) = timeout(WATCH * 3, store.watch(&asked)).await {
            held.heard(&asked, &kept(watched));
        }
    }
    info!("a claim loop ended");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
