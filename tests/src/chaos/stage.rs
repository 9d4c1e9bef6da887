//! The stage of a run: real servers, real processes, and a proxy on every edge between them.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use engine::store;
use servers::{Postgres, Redis};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use uuid::Uuid;

use super::{
    model_server::ModelServer,
    proxy::{Proxy, Upstream, Weather, free_port},
    receipts::Book,
    slot::Slot,
    tool_server::ToolServer,
};
use crate::person::SECRET;

const TEMPLATE: &str = "chaos_template";
/// Longest start of the API.
const START: Duration = Duration::from_mins(1);

/// The Postgres and Redis of this process; every run has a database of its own.
#[derive(Clone)]
pub struct Cluster {
    postgres: Arc<Mutex<Postgres>>,
    redis: Arc<Mutex<Redis>>,
}

/// How a stage is set.
#[derive(Debug, Clone, Default)]
pub struct Setting {
    /// Worker processes.
    pub workers: usize,
    /// Seconds of a lease.
    pub lease: u64,
    /// Further variables of all processes.
    pub variables: Vec<(String, String)>,
    /// Statements that make room in the schema for a breakage.
    pub schema: Vec<String>,
}

/// The edges of a deployment.
pub struct Edges {
    /// API to Postgres.
    pub api_postgres: Proxy,
    /// Each worker to Postgres.
    pub worker_postgres: Vec<Proxy>,
    /// API to Redis.
    pub api_redis: Proxy,
    /// Workers to Redis.
    pub worker_redis: Proxy,
    /// Each worker to the model.
    pub worker_model: Vec<Proxy>,
    /// Workers to the tools.
    pub tools: Proxy,
}

/// A deployment that runs.
pub struct Stage {
    /// Its servers.
    pub cluster: Cluster,
    /// Its database, not by a proxy.
    pub direct: PgPool,
    /// What was physically done.
    pub book: Book,
    /// The model vendor.
    pub model: ModelServer,
    /// The tools.
    pub tools: ToolServer,
    /// What lies between.
    pub edges: Edges,
    /// The API.
    pub api: Slot,
    /// The workers.
    pub workers: Vec<Slot>,
    /// Where the API answers.
    pub base: String,
    /// How long a lease lasts.
    pub lease: Duration,
    /// Numbers of the workers that shall die for what they asked.
    pub deaths: tokio::sync::Mutex<UnboundedReceiver<usize>>,
    folder: TempDir,
}

impl Cluster {
    /// Starts them, and migrates a template.
    pub async fn start() -> Self {
        engine::install_crypto();
        let started = tokio::task::spawn_blocking(|| {
            // Commits that were answered survive a crash of the server here, as they do in production.
            let settings = [("synchronous_commit", "on"), ("log_min_messages", "fatal")];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let postgres = Postgres::start_throwaway(300, settings.into()).expect("a Postgres");
            postgres
                .create_database(TEMPLATE, None)
                .expect("a template");
            (postgres, Redis::start(0).expect("a Redis"))
        });
        let (postgres, redis) = started.await.expect("no panic");
        store::migrate(&postgres.url(TEMPLATE))
            .await
            .expect("the schema migrates");
        Self {
            postgres: Arc::new(Mutex::new(postgres)),
            redis: Arc::new(Mutex::new(redis)),
        }
    }

    /// Does something with Postgres itself, on a thread that may block.
    pub async fn postgres<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Postgres) -> R + Send + 'static,
    ) -> R {
        let postgres = Arc::clone(&self.postgres);
        let done = tokio::task::spawn_blocking(move || {
            f(&mut postgres.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.expect("no panic")
    }

    /// The same with Redis.
    pub async fn redis<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Redis) -> R + Send + 'static,
    ) -> R {
        let redis = Arc::clone(&self.redis);
        let done = tokio::task::spawn_blocking(move || {
            f(&mut redis.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.expect("no panic")
    }

    /// A fresh database: its name and URL, not by a proxy.
    pub async fn database(&self) -> (String, String) {
        let name = format!("c{}", Uuid::now_v7().simple());
        self.postgres(move |postgres| {
            postgres
                .create_database(&name, Some(TEMPLATE))
                .expect("a database");
            let url = postgres.url(&name);
            (name, url)
        })
        .await
    }
}

impl Stage {
    /// Sets it and starts every process.
    pub async fn set(cluster: &Cluster, setting: &Setting) -> Self {
        let stage = Self::build(cluster, setting).await;
        stage.all().for_each(Slot::start);
        stage.api_answers().await;
        stage
    }

    /// Sets it; no process runs yet.
    pub async fn build(cluster: &Cluster, setting: &Setting) -> Self {
        let (database, url) = cluster.database().await;
        let direct = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(30))
            .connect(&url)
            .await
            .expect("the database answers");
        for change in &setting.schema {
            sqlx::query(sqlx::AssertSqlSafe(change.clone()))
                .execute(&direct)
                .await
                .expect("the schema gives way");
        }
        let book = Book::default();
        let (death, deaths) = unbounded_channel();
        let model = ModelServer::start(book.clone(), death).await;
        let tools = ToolServer::start(book.clone()).await;
        let redis = cluster.redis(|redis| redis.port()).await;
        let edges = Edges::lay(&url, redis, &model, &tools, setting.workers).await;
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_port().await.local_addr().expect("it is bound");
        let (api, workers) = slots(&edges, &database, address, setting, folder.path());
        Self {
            cluster: cluster.clone(),
            direct,
            book,
            model,
            tools,
            edges,
            api,
            workers,
            base: format!("http://{address}"),
            lease: Duration::from_secs(setting.lease),
            deaths: tokio::sync::Mutex::new(deaths),
            folder,
        }
    }

    /// Every process.
    pub fn all(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.api).chain(&self.workers)
    }

    /// Everything works again: the network, the servers, the processes.
    pub async fn heal(&self) {
        self.edges.all().for_each(|edge| {
            edge.weather(Weather::Clear);
            edge.steal_nothing();
        });
        self.model.moods.calm();
        self.tools.moods.calm();
        self.cluster
            .postgres(|postgres| postgres.start_again().expect("Postgres starts again"))
            .await;
        self.cluster
            .redis(|redis| redis.start_again().expect("Redis starts again"))
            .await;
        for slot in self.all() {
            slot.thaw();
            slot.start();
        }
    }

    /// Waits until the API takes requests.
    pub async fn api_answers(&self) {
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        let health = format!("{}/health", self.base);
        let begun = Instant::now();
        while http.get(&health).send().await.is_err() {
            assert!(
                begun.elapsed() < START,
                "the API does not answer:\n{}",
                self.api.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where the run keeps its files.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Keeps the folder of the run, for those who have to find out what happened; where it is.
    pub fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}

impl Edges {
    async fn lay(
        url: &str,
        redis: u16,
        model: &ModelServer,
        tools: &ToolServer,
        workers: usize,
    ) -> Self {
        let postgres = Upstream::Unix(socket_of(url));
        let redis = Upstream::Tcp(SocketAddr::from(([127, 0, 0, 1], redis)));
        let model = Upstream::Tcp(model.address());
        let mut edges = Self {
            api_postgres: Proxy::start(postgres.clone(), true).await,
            worker_postgres: Vec::new(),
            api_redis: Proxy::start(redis.clone(), false).await,
            worker_redis: Proxy::start(redis, false).await,
            worker_model: Vec::new(),
            tools: Proxy::start(Upstream::Tcp(tools.address()), false).await,
        };
        for _ in 0..workers {
            let proxy = Proxy::start(postgres.clone(), true).await;
            edges.worker_postgres.push(proxy);
            let proxy = Proxy::start(model.clone(), false).await;
            edges.worker_model.push(proxy);
        }
        edges
    }

    /// Every edge.
    pub fn all(&self) -> impl Iterator<Item = &Proxy> {
        [
            &self.api_postgres,
            &self.api_redis,
            &self.worker_redis,
            &self.tools,
        ]
        .into_iter()
        .chain(&self.worker_postgres)
        .chain(&self.worker_model)
    }

    /// Replies stolen so far.
    pub fn stolen(&self) -> u64 {
        self.all().map(Proxy::stolen).sum()
    }
}

/// The Unix socket that a URL of the private cluster names.
fn socket_of(url: &str) -> PathBuf {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let value = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name} in {url}"))
            .to_owned()
    };
    PathBuf::from(value("host")).join(format!(".s.PGSQL.{}", value("port")))
}

fn slots(
    edges: &Edges,
    database: &str,
    api: SocketAddr,
    setting: &Setting,
    folder: &std::path::Path,
) -> (Slot, Vec<Slot>) {
    let variables = |postgres: &Proxy, redis: &Proxy| {
        let mut variables = vec![
            (
                "DATABASE_URL".to_owned(),
                format!(
                    "postgres://app@{}/{database}?sslmode=disable",
                    postgres.address()
                ),
            ),
            (
                "REDIS_URL".to_owned(),
                format!("redis://{}/", redis.address()),
            ),
            ("CODELAB_JWT_SECRET".to_owned(), SECRET.to_owned()),
            (
                "CODELAB_LEASE_SECONDS".to_owned(),
                setting.lease.to_string(),
            ),
            ("CODELAB_LOG".to_owned(), "info".to_owned()),
        ];
        variables.extend(setting.variables.iter().cloned());
        variables
    };
    let workers = (0..setting.workers).map(|number| {
        let mut variables = variables(&edges.worker_postgres[number], &edges.worker_redis);
        let model = edges.worker_model[number].address();
        variables.extend([
            (
                "OPENAI_BASE_URL".to_owned(),
                format!("http://{model}/{number}/v1"),
            ),
            ("CODELAB_EGRESS_ALLOW".to_owned(), "127.0.0.0/8".to_owned()),
            ("CODELAB_WORKER_CONCURRENCY".to_owned(), "16".to_owned()),
        ]);
        Slot::new(&format!("worker{number}"), &["worker"], variables, folder)
    });
    let listen = api.to_string();
    let variables = variables(&edges.api_postgres, &edges.api_redis);
    let api = Slot::new("api", &["api", "--listen", &listen], variables, folder);
    (api, workers.collect())
}
