//! Private servers and databases for stories.
//!
//! One Postgres cluster a test process, started at first use on a Unix socket of its own and gone with the
//! process; one database a test, copied from a template that is migrated once. Nothing is shared, nothing collides.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use engine::{
    Store, UserScope,
    agent::AgentConfig,
    clock::Clock,
    event::hints::Hints,
    id::AgentId,
    store::{self, PoolLimits},
    testing::check_invariants,
};
use servers::{Postgres, Redis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TEMPLATE: &str = "codelab_template";

/// The cluster of this process.
pub fn postgres() -> &'static Postgres {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    POSTGRES.get_or_init(|| {
        engine::install_crypto();
        Postgres::start_throwaway(300, Vec::new()).expect("a private Postgres starts")
    })
}

async fn template() -> &'static str {
    static READY: OnceCell<()> = OnceCell::const_new();
    READY
        .get_or_init(|| async {
            let postgres = tokio::task::spawn_blocking(postgres)
                .await
                .expect("no panic");
            postgres
                .create_database(TEMPLATE, None)
                .expect("a template database");
            store::migrate(&postgres.url(TEMPLATE))
                .await
                .expect("the schema migrates");
        })
        .await;
    TEMPLATE
}

/// A database of one test.
#[derive(Debug)]
pub struct Database {
    /// Where it is.
    pub url: String,
    stop: CancellationToken,
}

impl Database {
    /// A fresh database with the schema.
    pub async fn fresh() -> Self {
        let template = template().await;
        let name = format!("t{}", Uuid::now_v7().simple());
        let url = postgres().url(&name);
        tokio::task::spawn_blocking(move || postgres().create_database(&name, Some(template)))
            .await
            .expect("no panic")
            .expect("a database for the test");
        Self {
            url,
            stop: CancellationToken::new(),
        }
    }

    /// The same database, for another process.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self {
            url: self.url.clone(),
            stop: self.stop.child_token(),
        }
    }

    /// A store whose hints stay in this process.
    pub fn store(&self) -> Store {
        self.store_with(Clock::Database, Duration::from_secs(30))
    }

    /// A store with a clock and a lease of the test's choice.
    pub fn store_with(&self, clock: Clock, lease: Duration) -> Store {
        let pool = store::pool(&self.url, PoolLimits::default()).expect("a valid URL");
        Store::new(pool, Hints::local(), lease).with_clock(clock)
    }

    /// A user of this database.
    pub async fn user(&self, store: &Store, name: &str) -> UserScope {
        UserScope::vouched(store.user_at_sight("", name, None).await.expect("a user"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An agent that runs at most so many steps at once.
pub async fn agent(store: &Store, scope: UserScope, name: &str, max_concurrency: u8) -> AgentId {
    let config = AgentConfig {
        max_concurrency,
        ..AgentConfig::default()
    };
    store
        .create_agent(scope, name, &config)
        .await
        .expect("an agent")
        .id
}

/// A Redis of one test.
pub async fn redis() -> Redis {
    tokio::task::spawn_blocking(|| Redis::start(0))
        .await
        .expect("no panic")
        .expect("a private Redis starts")
}

/// How often a command was given to Redis.
pub async fn commands(redis: &Redis, name: &str) -> u64 {
    let said = tell_redis(redis, "INFO commandstats").await;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

/// Gives Redis a command; what it said.
pub async fn tell_redis(redis: &Redis, command: &str) -> String {
    let address = ("127.0.0.1", redis.port());
    let mut stream = TcpStream::connect(address).await.expect("Redis listens");
    let both = format!("{command}\r\nQUIT\r\n");
    stream
        .write_all(both.as_bytes())
        .await
        .expect("it takes a command");
    let mut said = String::new();
    stream.read_to_string(&mut said).await.expect("it answers");
    said
}

/// Fails the test when an invariant does not hold.
pub async fn assert_invariants(store: &Store) {
    let violations = check_invariants(store.pool())
        .await
        .expect("the checks run");
    assert!(violations.is_empty(), "invariants broken: {violations:#?}");
}

/// Waits until the condition holds; panics with `what` after half a minute. A deadline, not a synchronisation: it asks
/// again after a moment until the answer is yes.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, condition: F) {
    within(Duration::from_secs(30), what, condition).await;
}

/// The same for what is much, on machines that have other work.
pub async fn within<F: AsyncFnMut() -> bool>(limit: Duration, what: &str, mut condition: F) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
