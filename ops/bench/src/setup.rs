//! A durable private cluster and a store over it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use engine::{
    Store, UserScope,
    agent::AgentConfig,
    event::hints::{Hints, Reach},
    id::AgentId,
    store::{self, PoolLimits},
};
use servers::{Postgres, PostgresOptions};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

/// How long a claim lasts without a renewal, as in the product.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// What workloads run on.
pub(crate) struct Bench {
    pub(crate) url: String,
    /// Plain connections, without our transitions or settings.
    pub(crate) raw: PgPool,
    stop: CancellationToken,
    cluster: Option<Arc<Mutex<Cluster>>>,
}

/// A private server and the folder it lives in, which goes after it.
type Cluster = (Postgres, tempfile::TempDir);

impl Bench {
    pub(crate) async fn start(url: Option<&str>, extra: Extra) -> anyhow::Result<Self> {
        let (url, cluster) = match url {
            Some(url) => (url.to_owned(), None),
            None => tokio::task::spawn_blocking(move || private(extra)).await??,
        };
        store::migrate(&url).await?;
        let raw = PgPoolOptions::new()
            .max_connections(20)
            .connect(&url)
            .await?;
        if extra.statements {
            // Where the extension is not there, nothing is counted.
            let _ = sqlx::query("create extension if not exists pg_stat_statements")
                .execute(&raw)
                .await;
        }
        Ok(Self {
            url,
            raw,
            stop: CancellationToken::new(),
            cluster: cluster.map(|cluster| Arc::new(Mutex::new(cluster))),
        })
    }

    /// Calls and time of each transition so far, in the function alone and with those it calls.
    pub(crate) async fn profile(&self) -> anyhow::Result<serde_json::Value> {
        // Statistics are sent at most once a second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let rows: Vec<(String, i64, f64, f64)> = sqlx::query_as(
            "select funcname, sum(calls)::bigint, round(sum(total_time))::float8, round(sum(self_time))::float8
             from pg_stat_user_functions group by 1 order by 4 desc",
        )
        .fetch_all(&self.raw)
        .await?;
        Ok(serde_json::json!(rows))
    }

    /// Statements that have run in the bench's database so far; none: they are not counted.
    pub(crate) async fn statements(&self) -> Option<i64> {
        sqlx::query_scalar(
            "select sum(calls)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
             where d.datname = current_database()",
        )
        .fetch_one(&self.raw)
        .await
        .ok()
    }

    /// A database of its own on the private server, with the schema.
    pub(crate) async fn database(&self, name: &'static str) -> anyhow::Result<String> {
        let url = self
            .with_server(move |server| {
                server.create_database(name, None)?;
                Ok(server.url(name))
            })
            .await?;
        store::migrate(&url).await?;
        Ok(url)
    }

    /// Removes a database.
    pub(crate) async fn drop_database(&self, name: &'static str) -> anyhow::Result<()> {
        let drop = format!("drop database {name} with (force)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
            .execute(&self.raw)
            .await?;
        Ok(())
    }

    /// Does something with the private server, away from the runtime: starts and stops wait for a process.
    pub(crate) async fn with_server<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Postgres) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let cluster = self
            .cluster
            .clone()
            .context("this needs a private server; do not give --database-url")?;
        tokio::task::spawn_blocking(move || {
            act(&mut cluster.lock().unwrap_or_else(PoisonError::into_inner).0)
        })
        .await?
    }

    /// A store whose hints reach other processes, as in production.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        store_over(&self.url, 8, LEASE, &self.stop)
    }

    /// The stores of an API and a worker in one process, with pools apart and the hints in common, as `codelab up` has them.
    pub(crate) fn tiers(&self) -> anyhow::Result<(Store, Store)> {
        let limits = PoolLimits {
            max: 16,
            ..PoolLimits::default()
        };
        let reach = Reach {
            postgres: store::pool(&self.url, PoolLimits { max: 3, ..limits })?,
            redis: None,
        };
        let hints = Hints::start(reach, &self.stop);
        let api = Store::new(store::pool(&self.url, limits)?, hints.clone(), LEASE);
        Ok((
            api,
            Store::new(store::pool(&self.url, limits)?, hints, LEASE),
        ))
    }

    /// Users with agents: `(scope, agents)`.
    pub(crate) async fn people(
        &self,
        store: &Store,
        users: usize,
        agents: usize,
        max_concurrency: u8,
    ) -> anyhow::Result<Vec<(UserScope, Vec<AgentId>)>> {
        let mut people = Vec::new();
        let config = AgentConfig {
            max_concurrency,
            ..AgentConfig::default()
        };
        for user in 0..users {
            let subject = format!("bench-{user}-{}", uuid::Uuid::now_v7());
            let scope = UserScope::vouched(store.user_at_sight("", &subject, None).await?);
            let mut team = Vec::new();
            for agent in 0..agents {
                team.push(
                    store
                        .create_agent(scope, &format!("agent-{agent}"), &config)
                        .await?
                        .id,
                );
            }
            people.push((scope, team));
        }
        Ok(people)
    }
}

/// A store with so many connections, whose hints reach other processes until `stop`.
pub(crate) fn store_over(
    url: &str,
    connections: u32,
    lease: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<Store> {
    let limits = PoolLimits {
        max: connections,
        ..PoolLimits::default()
    };
    let reach = Reach {
        postgres: store::pool(url, PoolLimits { max: 3, ..limits })?,
        redis: None,
    };
    Ok(Store::new(
        store::pool(url, limits)?,
        Hints::start(reach, stop),
        lease,
    ))
}

/// What the private server counts on top, which costs a few percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extra {
    /// Time by transition, for `--profile`.
    pub(crate) functions: bool,
    /// Statements.
    pub(crate) statements: bool,
}

type Private = (String, Option<Cluster>);

fn private(extra: Extra) -> anyhow::Result<Private> {
    let folder = tempfile::tempdir()?;
    let mut settings = Vec::new();
    if extra.functions {
        settings.push(("track_functions".to_owned(), "all".to_owned()));
    }
    let mut counting = settings.clone();
    counting.extend(
        [
            ("shared_preload_libraries", "pg_stat_statements"),
            // Each connection of the product installs its functions when it opens.
            ("pg_stat_statements.track_utility", "off"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let start = |settings| {
        Postgres::start(PostgresOptions {
            max_connections: 100,
            settings,
            ..PostgresOptions::new(folder.path().join("data"))
        })
    };
    let postgres = if extra.statements {
        // An installation without the extension does not start with it.
        start(counting).or_else(|_| start(settings))
    } else {
        start(settings)
    };
    let postgres = postgres.context("failed to start a private Postgres")?;
    postgres.create_database("bench", None)?;
    Ok((postgres.url("bench"), Some((postgres, folder))))
}
