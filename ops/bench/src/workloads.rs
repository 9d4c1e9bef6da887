//! The workloads. No-op handlers: what is measured is the engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use engine::{
    Store, UserScope,
    id::{AgentId, WorkerId},
    step::{ClaimedStep, Outcome},
    store::{Accepted, claims::ClaimOptions},
    testing::{Shape, check_invariants, explicit},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::setup::Bench;

/// One-row insert commits of 1 and 16 clients: what the disk and the kernel allow.
pub(crate) async fn limit(bench: &Bench, seconds: u64) -> anyhow::Result<Value> {
    sqlx::query("create table if not exists raw_limit (id bigint generated always as identity primary key, body text)")
        .execute(&bench.raw)
        .await?;
    let one = commits(bench, 1, seconds / 2).await?;
    let sixteen = commits(bench, 16, seconds / 2).await?;
    Ok(
        json!({ "workload": "limit", "commits_per_s_1_client": one, "commits_per_s_16_clients": sixteen }),
    )
}

async fn commits(bench: &Bench, clients: usize, seconds: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(std::cmp::max(seconds, 1));
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let mut connection = bench.raw.acquire().await?;
        tasks.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < deadline {
                sqlx::query("insert into raw_limit (body) values ('x')")
                    .execute(&mut *connection)
                    .await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    Ok(per_second(total, started.elapsed()))
}

/// A worker whose handler only counts; dropped, it drains.
struct Worker {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    steps: Arc<AtomicU64>,
    starts: Option<mpsc::UnboundedReceiver<(engine::id::StepId, Instant)>>,
}

impl Worker {
    fn start(store: &Store, places: usize) -> Self {
        let stop = CancellationToken::new();
        let steps = Arc::new(AtomicU64::new(0));
        let (started, starts) = mpsc::unbounded_channel();
        let counter = Arc::clone(&steps);
        let options = ClaimOptions {
            places,
            drain: stop.clone(),
            abandon: CancellationToken::new(),
        };
        let handler = move |step: ClaimedStep| {
            let (counter, started) = (Arc::clone(&counter), started.clone());
            async move {
                // Nobody listens in the throughput runs.
                let _ = started.send((step.claim.id, Instant::now()));
                counter.fetch_add(1, Ordering::Relaxed);
                step.finish(Outcome::Succeed {
                    result: Value::Null,
                    reply: None,
                });
            }
        };
        let task = tokio::spawn(worker::pool::run(store.clone(), options, handler));
        Self {
            stop,
            task,
            steps,
            starts: Some(starts),
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?;
        Ok(())
    }
}

/// Accepts a plan and waits for its end by the hints, as the API does.
async fn run_plan(
    store: &Store,
    scope: UserScope,
    shape: Shape,
    agents: &[AgentId],
) -> anyhow::Result<()> {
    let mut hints = store.hints().subscribe();
    let Accepted::Plan { plan, .. } = store
        .accept_plan(scope, &explicit(shape, agents, None))
        .await?
    else {
        anyhow::bail!("not accepted");
    };
    loop {
        // Lagging is fine: it only means to look again.
        let _ = tokio::time::timeout(Duration::from_millis(200), hints.recv()).await;
        if store.plan_closed(scope, plan).await? {
            return Ok(());
        }
        while hints.try_recv().is_ok() {}
    }
}

/// 1 -> 8 -> 1, fifty plans at once over fifty users with ten agents each; leases, fence, places and events on.
pub(crate) async fn diamonds(bench: &Bench, seconds: u64, places: usize) -> anyhow::Result<Value> {
    diamonds_over(bench, &bench.store()?, seconds, places).await
}

/// The same over any store on the bench's server.
pub(crate) async fn diamonds_over(
    bench: &Bench,
    store: &Store,
    seconds: u64,
    places: usize,
) -> anyhow::Result<Value> {
    let people = bench.people(store, 50, 10, 10).await?;
    let worker = Worker::start(store, places);
    let room = Arc::new(Semaphore::new(50));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let before = wal(bench).await?;
    let started = Instant::now();
    let mut plans = 0_usize;
    let mut outstanding = 0_i64;
    while Instant::now() < deadline {
        // Top up to fifty open plans; how many are open follows from the steps that ran.
        let open = 50 - std::cmp::min(outstanding, 50);
        let batch: Vec<_> = (0..open)
            .map(|n| {
                let (scope, agents) =
                    &people[(plans + usize::try_from(n).unwrap_or(0)) % people.len()];
                let (store, scope, room) = (store.clone(), *scope, Arc::clone(&room));
                let mut agents = agents.clone();
                let turn = plans % agents.len();
                agents.rotate_left(turn);
                async move {
                    let _permit = room.acquire().await?;
                    store
                        .accept_plan(scope, &explicit(Shape::Diamond(8), &agents, None))
                        .await
                        .map_err(anyhow::Error::from)
                }
            })
            .collect();
        plans += batch.len();
        futures::future::try_join_all(batch).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        outstanding =
            i64::try_from(plans)? - i64::try_from(worker.steps.load(Ordering::Relaxed) / 10)?;
    }
    while worker.steps.load(Ordering::Relaxed) < u64::try_from(plans * 10)? {
        ensure!(
            started.elapsed() < Duration::from_secs(seconds + 60),
            "diamonds do not end"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elapsed = started.elapsed();
    let steps = worker.steps.load(Ordering::Relaxed);
    worker.stop().await?;
    let wal_bytes = wal(bench).await? - before;
    let violations = check_invariants(store.pool()).await?;
    ensure!(violations.is_empty(), "{violations:?}");
    ensure!(
        steps == u64::try_from(plans * 10)?,
        "steps ran twice or not at all: {steps} for {plans} plans"
    );
    Ok(
        json!({ "workload": "diamonds", "steps_per_s": per_second(steps, elapsed), "plans": plans, "steps": steps, "places": places,
               "wal_bytes_per_step": wal_bytes / i64::try_from(steps)?, "bar": 15_000 }),
    )
}

async fn wal(bench: &Bench) -> anyhow::Result<i64> {
    Ok(
        sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
            .fetch_one(&bench.raw)
            .await?,
    )
}

/// 200 no-op steps one after another; the time from start to start.
pub(crate) async fn chain(bench: &Bench) -> anyhow::Result<Value> {
    let store = bench.store()?;
    let people = bench.people(&store, 1, 2, 3).await?;
    let (scope, agents) = &people[0];
    let mut worker = Worker::start(&store, 10);
    let Some(mut starts) = worker.starts.take() else {
        anyhow::bail!("no starts")
    };
    let mut hops = Vec::new();
    for round in 0..6 {
        run_plan(&store, *scope, Shape::Chain(200), agents).await?;
        let mut previous = None;
        while let Ok((_, at)) = starts.try_recv() {
            if let Some(previous) = previous.replace(at)
                && round > 0
            {
                hops.push(at.duration_since(previous));
            }
        }
    }
    worker.stop().await?;
    let (p50, p99) = percentiles(&mut hops, 99);
    Ok(
        json!({ "workload": "chain", "p50_ms": millis(p50), "p99_ms": millis(p99), "hops": hops.len(), "bar_p50_ms": 0.7 }),
    )
}

/// Nothing else runs: from the call that accepts to the handler's start.
pub(crate) async fn idle(bench: &Bench) -> anyhow::Result<Value> {
    let store = bench.store()?;
    let people = bench.people(&store, 1, 1, 3).await?;
    let (scope, agents) = &people[0];
    let mut worker = Worker::start(&store, 10);
    let Some(mut starts) = worker.starts.take() else {
        anyhow::bail!("no starts")
    };
    let mut waits = Vec::new();
    for _ in 0..300 {
        let plan = explicit(Shape::Chain(1), agents, None);
        let accepted = Instant::now();
        store.accept_plan(*scope, &plan).await?;
        let Some((_, at)) = starts.recv().await else {
            anyhow::bail!("the worker ended")
        };
        waits.push(at.duration_since(accepted));
        tokio::time::sleep(Duration::from_millis(fastrand_ms())).await;
    }
    worker.stop().await?;
    let (p50, p99) = percentiles(&mut waits, 99);
    Ok(
        json!({ "workload": "idle", "p50_ms": millis(p50), "p99_ms": millis(p99), "bar_p50_ms": 3, "bar_p99_ms": 15 }),
    )
}

/// 5 to 20 ms, so that no poll falls into step with the arrivals.
fn fastrand_ms() -> u64 {
    5 + u64::from(uuid::Uuid::now_v7().as_bytes()[15] % 16)
}

/// 10,000 ready steps of one full agent, and one step of another: what its claim reads.
pub(crate) async fn full_agent(bench: &Bench) -> anyhow::Result<Value> {
    let store = bench.store()?;
    let people = bench.people(&store, 2, 1, 3).await?;
    let (heavy, full) = &people[0];
    for _ in 0..10 {
        store
            .accept_plan(*heavy, &explicit(Shape::Flat(1000), full, None))
            .await?;
    }
    let worker = WorkerId::new();
    let held = store.claim(worker, 10).await?;
    ensure!(
        held.len() == 3,
        "the agent runs three at once, not {}",
        held.len()
    );
    let (light, other) = &people[1];
    store
        .accept_plan(*light, &explicit(Shape::Chain(1), other, None))
        .await?;
    sqlx::query("vacuum analyze ready_steps")
        .execute(&bench.raw)
        .await?;
    let plan: Vec<String> = sqlx::query_scalar(
        "explain (analyze, buffers, format text) select r.ctid from ready_steps r where r.placed order by r.rank, r.step_id limit 1 for update skip locked",
    )
    .fetch_all(&bench.raw)
    .await?;
    let buffers = plan
        .iter()
        .find_map(|line| {
            line.split("shared hit=")
                .nth(1)?
                .split([' ', ')'])
                .next()?
                .parse::<i64>()
                .ok()
        })
        .unwrap_or(-1);
    let started = Instant::now();
    let claimed = store.claim(worker, 1).await?;
    let took = started.elapsed();
    ensure!(
        claimed.len() == 1 && claimed[0].scope == *light,
        "the other agent's step is claimed"
    );
    for claim in held.iter().chain(&claimed) {
        store.finish(claim, &Outcome::Yield).await?;
    }
    for (scope, _) in &people {
        for plan in store.plans(*scope, None, 50).await? {
            store.cancel_plan(*scope, plan.id).await?;
        }
    }
    Ok(
        json!({ "workload": "full_agent", "claim_buffers": buffers, "claim_ms": millis(took), "bar_buffers": 20 }),
    )
}

/// The median and one higher percentile.
pub(crate) fn percentiles(samples: &mut [Duration], higher: usize) -> (Duration, Duration) {
    samples.sort_unstable();
    let at = |share: usize| {
        samples
            .get((samples.len() * share / 100).saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    (at(50), at(higher))
}

pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people to read"
)]
pub(crate) fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64()) as u64
}
