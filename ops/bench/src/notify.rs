//! What hints cost commits: with them and without, and by how many connections listen.
//!
//! First the diamonds over a database of their own each time; then commits of one tiny row each, with nothing, with a
//! NOTIFY in the same transaction, and with one by another connection at most every 20 ms, as the engine has it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine::{
    Store,
    event::hints::Hints,
    store::{self, PoolLimits},
};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgListener, postgres::PgPoolOptions};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    setup::{Bench, LEASE, store_over},
    workloads::{diamonds_over, millis, per_second, percentiles},
};

/// Where hints go.
const CHANNEL: &str = "codelab";
/// The engine's quiet time between two messages.
const QUIET: Duration = Duration::from_millis(20);
/// Connections of the store, as in the other workloads.
const CONNECTIONS: u32 = 8;
const LISTENERS: [u32; 3] = [0, 1, 50];
const CLIENTS: [u32; 2] = [8, 32];
/// The database of a cell.
const DATABASE: &str = "notify";

/// One JSON line a cell.
pub(crate) async fn run(bench: &Bench, seconds: u64, places: usize) -> anyhow::Result<()> {
    for listeners in LISTENERS {
        for sent in [false, true] {
            let line = Box::pin(diamonds(bench, sent, listeners, (seconds, places))).await?;
            println!("{line}");
        }
    }
    sqlx::query("create table if not exists raw_notify (id bigint generated always as identity primary key, body text)")
        .execute(&bench.raw)
        .await?;
    let length = Duration::from_secs(seconds) / 2;
    for clients in CLIENTS {
        for listeners in LISTENERS {
            for way in [Way::Nothing, Way::Inside, Way::Coalesced] {
                println!("{}", commits(bench, way, clients, listeners, length).await?);
            }
        }
    }
    Ok(())
}

/// The diamonds, with the hints to other processes sent or not; inside the process they always go.
async fn diamonds(
    bench: &Bench,
    sent: bool,
    listeners: u32,
    (seconds, places): (u64, usize),
) -> anyhow::Result<Value> {
    let url = bench.database(DATABASE).await?;
    let stop = CancellationToken::new();
    let audience = Audience::listen(&url, listeners).await?;
    let store = if sent {
        store_over(&url, CONNECTIONS, LEASE, &stop)?
    } else {
        let limits = PoolLimits {
            max: CONNECTIONS,
            ..PoolLimits::default()
        };
        Store::new(store::pool(&url, limits)?, Hints::local(), LEASE)
    };
    let mut line = diamonds_over(bench, &store, seconds, places).await?;
    if let Value::Object(line) = &mut line {
        line.insert("workload".to_owned(), json!("notify_diamonds"));
        line.insert("hints".to_owned(), json!(sent));
        line.insert("listeners".to_owned(), json!(listeners));
        line.insert("heard".to_owned(), json!(audience.heard()));
    }
    stop.cancel();
    store.pool().close().await;
    drop(audience);
    bench.drop_database(DATABASE).await?;
    Ok(line)
}

/// How a commit is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Nothing,
    /// A NOTIFY in the transaction.
    Inside,
    /// A NOTIFY by another connection, one for many commits.
    Coalesced,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Inside => "inside",
            Self::Coalesced => "coalesced",
        }
    }

    /// One round trip each, so that they differ by the NOTIFY only.
    fn statement(self) -> &'static str {
        match self {
            Self::Nothing | Self::Coalesced => {
                "with one as (insert into raw_notify (body) values ($2) returning id) select length($1 || id::text) from one"
            }
            Self::Inside => {
                "with one as (insert into raw_notify (body) values ($2) returning id) select length(pg_notify($1, id::text)::text) from one"
            }
        }
    }
}

async fn commits(
    bench: &Bench,
    way: Way,
    clients: u32,
    listeners: u32,
    length: Duration,
) -> anyhow::Result<Value> {
    let audience = Audience::listen(&bench.url, listeners).await?;
    let pool = PgPoolOptions::new()
        .min_connections(clients + 1)
        .max_connections(clients + 1)
        .connect(&bench.url)
        .await?;
    let count = Arc::new(AtomicU64::new(0));
    let deadline = Instant::now() + length;
    let mut working = JoinSet::new();
    for _ in 0..clients {
        working.spawn(commit(pool.clone(), way, Arc::clone(&count), deadline));
    }
    let telling = (way == Way::Coalesced)
        .then(|| tokio::spawn(tell(pool.clone(), Arc::clone(&count), deadline)));
    let began = Instant::now();
    let mut times = Vec::new();
    while let Some(client) = working.join_next().await {
        times.append(&mut client??);
    }
    let rate = per_second(count.load(Ordering::Relaxed), began.elapsed());
    let told = match telling {
        Some(telling) => telling.await??,
        None => 0,
    };
    pool.close().await;
    let (p50, p99) = percentiles(&mut times, 99);
    Ok(json!({
        "workload": "notify_commits", "notify": way.name(), "clients": clients, "listeners": listeners,
        "commits_per_s": rate, "p50_ms": millis(p50), "p99_ms": millis(p99), "told": told, "heard": audience.heard(),
    }))
}

/// One client: commits until the deadline, and how long each took.
async fn commit(
    pool: PgPool,
    way: Way,
    count: Arc<AtomicU64>,
    deadline: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = pool.acquire().await?;
    let mut times = Vec::new();
    while Instant::now() < deadline {
        let began = Instant::now();
        sqlx::query(way.statement())
            .bind(CHANNEL)
            .bind("x")
            .execute(&mut *connection)
            .await?;
        times.push(began.elapsed());
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

/// Tells of what was committed, and how often.
async fn tell(pool: PgPool, count: Arc<AtomicU64>, deadline: Instant) -> anyhow::Result<u64> {
    let mut connection = pool.acquire().await?;
    let (mut known, mut told) = (0, 0);
    while Instant::now() < deadline {
        let now = count.load(Ordering::Relaxed);
        if now != known {
            known = now;
            sqlx::query("select pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(now.to_string())
                .execute(&mut *connection)
                .await?;
            told += 1;
        }
        sleep(QUIET).await;
    }
    Ok(told)
}

/// Connections that listen and do nothing with what they hear.
struct Audience {
    heard: Arc<AtomicU64>,
    /// Dropped, they hang up.
    _listening: JoinSet<Result<(), sqlx::Error>>,
}

impl Audience {
    async fn listen(url: &str, listeners: u32) -> anyhow::Result<Self> {
        let heard = Arc::new(AtomicU64::new(0));
        let mut listening = JoinSet::new();
        for _ in 0..listeners {
            let mut listener = PgListener::connect(url).await?;
            listener.listen(CHANNEL).await?;
            let heard = Arc::clone(&heard);
            listening.spawn(async move {
                loop {
                    listener.recv().await?;
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Ok(Self {
            heard,
            _listening: listening,
        })
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}
