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
    pub(crate) async fn start(url: Option<&str>, profile: bool) -> anyhow::Result<Self> {
        let (url, cluster) = match url {
            Some(url) => (url.to_owned(), None),
            None => tokio::task::spawn_blocking(move || private(profile)).await??,
        };
        store::migrate(&url).await?;
        let raw = PgPoolOptions::new()
            .max_connections(20)
            .connect(&url)
            .await?;
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
        store_over(&self.url, 8, Duration::from_secs(30), &self.stop)
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
        let lease = Duration::from_secs(30);
        let api = Store::new(store::pool(&self.url, limits)?, hints.clone(), lease);
        Ok((
            api,
            Store::new(store::pool(&self.url, limits)?, hints, lease),
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

type Private = (String, Option<Cluster>);

fn private(profile: bool) -> anyhow::Result<Private> {
    let folder = tempfile::tempdir()?;
    // Time by transition, for `--profile`; costs a few percent.
    let settings = if profile {
        vec![("track_functions".to_owned(), "all".to_owned())]
    } else {
        Vec::new()
    };
    let options = PostgresOptions {
        max_connections: 100,
        settings,
        ..PostgresOptions::new(folder.path().join("data"))
    };
    let postgres = Postgres::start(options).context("failed to start a private Postgres")?;
    postgres.create_database("bench", None)?;
    Ok((postgres.url("bench"), Some((postgres, folder))))
}
