//! What a cell plays on: a database of its own on the bench's cluster, people, clients and workers.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use engine::{Store, UserScope, agent::AgentConfig, id::AgentId, store};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{LEASE, clients::Clients, worker_process::WorkerProcess};
use crate::setup::{Bench, store_over};

/// People, with two agents each. Many, so that the check of the feeds stays quick.
const PEOPLE: usize = 600;
/// Connections of those who send plans, as the product's API has them.
const CONNECTIONS: u32 = 16;
/// Longest wait for everything to end: the lease of a worker that was killed last, and then some.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);
/// Between two looks whether everything has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A cell's surroundings.
pub(super) struct Stage<'a> {
    pub(super) bench: &'a Bench,
    pub(super) url: String,
    pub(super) clients: Arc<Clients>,
    pub(super) workers: Vec<WorkerProcess>,
    /// Logs and receipts of the workers.
    pub(super) folder: TempDir,
    database: String,
    places: usize,
    started: usize,
    stop: CancellationToken,
    store: Store,
}

impl<'a> Stage<'a> {
    /// With so many workers.
    pub(super) async fn open(
        bench: &'a Bench,
        name: &str,
        workers: usize,
        places: usize,
    ) -> anyhow::Result<Self> {
        let database = format!("recovery_{name}");
        let url = database_url(bench, &database).await?;
        store::migrate(&url).await?;
        let stop = CancellationToken::new();
        let store = store_over(&url, CONNECTIONS, LEASE, &stop)?;
        let clients = Arc::new(Clients::new(store.clone(), people(&store).await?));
        let mut stage = Self {
            bench,
            url,
            clients,
            workers: Vec::new(),
            folder: tempfile::tempdir()?,
            database,
            places,
            started: 0,
            stop,
            store,
        };
        for _ in 0..workers {
            stage.start_worker()?;
        }
        Ok(stage)
    }

    /// One worker more; the last in the list.
    pub(super) fn start_worker(&mut self) -> anyhow::Result<()> {
        let worker =
            WorkerProcess::start(&self.url, self.places, self.folder.path(), self.started)?;
        self.started += 1;
        self.workers.push(worker);
        Ok(())
    }

    /// Kills the worker that was started last.
    pub(super) async fn kill_worker(&mut self) -> anyhow::Result<()> {
        match self.workers.pop() {
            Some(worker) => worker.kill().await,
            None => Ok(()),
        }
    }

    /// A plain connection, without our transitions or settings.
    pub(super) async fn connect(&self) -> anyhow::Result<PgConnection> {
        PgConnection::connect(&self.url)
            .await
            .context("failed to connect to the cell's database")
    }

    /// Waits until every step has ended, and says how long that took; none: some never did.
    pub(super) async fn drained(&self) -> anyhow::Result<Option<Duration>> {
        let mut connection = self.connect().await?;
        let began = Instant::now();
        while began.elapsed() < DRAIN_LIMIT {
            let open: bool =
                sqlx::query_scalar("select exists (select from steps where finished_at is null)")
                    .fetch_one(&mut connection)
                    .await?;
            if !open {
                return Ok(Some(began.elapsed()));
            }
            sleep(LOOK).await;
        }
        Ok(None)
    }

    /// Stops the workers; how many had ended before, or did not end in order.
    pub(super) async fn stop_workers(&mut self) -> anyhow::Result<usize> {
        let mut ended = 0;
        for worker in self.workers.drain(..) {
            ended += usize::from(!worker.stop().await?);
        }
        Ok(ended)
    }

    /// Removes the database.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.store.pool().close().await;
        let drop = format!("drop database {} with (force)", self.database);
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
            .execute(&self.bench.raw)
            .await?;
        Ok(())
    }
}

async fn database_url(bench: &Bench, database: &str) -> anyhow::Result<String> {
    let database = database.to_owned();
    bench
        .with_server(move |server| {
            server.create_database(&database, None)?;
            Ok(server.url(&database))
        })
        .await
}

async fn people(store: &Store) -> anyhow::Result<Vec<(UserScope, Vec<AgentId>)>> {
    stream::iter(0..PEOPLE)
        .map(|number| person(store, number))
        .buffer_unordered(8)
        .try_collect()
        .await
}

async fn person(store: &Store, number: usize) -> anyhow::Result<(UserScope, Vec<AgentId>)> {
    let user = store
        .user_at_sight("", &format!("person-{number}"), None)
        .await?;
    let scope = UserScope::vouched(user);
    let config = AgentConfig {
        max_concurrency: 10,
        ..AgentConfig::default()
    };
    let mut agents = Vec::new();
    for name in ["one", "two"] {
        agents.push(store.create_agent(scope, name, &config).await?.id);
    }
    Ok((scope, agents))
}
