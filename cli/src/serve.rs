//! The two tiers over one database: the wiring that `up`, `demo`, `api` and `worker` share.
//!
//! Connections come from three pools that cannot starve each other: the API's, the worker's, and the one that hints
//! come and go by.

use std::{future::Future, io, time::Duration};

use anyhow::{Context, bail};
use api::{
    ApiConfig,
    auth::{AuthConfig, Fetch, JwksSource},
};
use engine::{
    Store,
    event::{
        hints::{Hints, Reach},
        relay::Relay,
    },
    store::{self, PoolLimits, RunLimits},
};
use futures::future::{BoxFuture, join_all};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::{Client, RequestBuilder, Url, redirect::Policy};
use secrecy::SecretString;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use worker::{WorkerConfig, tool::Egress};

use crate::config::Settings;

/// Connections for NOTIFY and LISTEN.
const HINT_CONNECTIONS: u32 = 3;
/// Connections of a worker: claims and finishes share round trips, so that few serve many places.
const WORKER_CONNECTIONS: u32 = 16;
/// Open files beside the connections of clients: pools, models, tools, logs.
const OTHER_FILES: usize = 400;
/// Longest wait for Postgres at the start.
const DATABASE_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries.
const DATABASE_AGAIN: Duration = Duration::from_millis(200);
/// Time for the hints' tasks to end.
const HINTS_END: Duration = Duration::from_millis(20);
/// Longest wait for connections to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Longest fetch of an identity provider's keys.
const JWKS_LIMIT: Duration = Duration::from_secs(5);
/// Longest document of keys.
const JWKS_BYTES: usize = 1 << 20;

/// The tiers of this process, running until one fails or all are told to stop.
pub(crate) struct Tiers {
    url: String,
    lease: Duration,
    limits: RunLimits,
    hints: Hints,
    redis: Option<redis::Client>,
    streams_per_user: usize,
    max_connections: usize,
    running: JoinSet<anyhow::Result<()>>,
    /// What closes each pool: connections that Postgres has to cut are complained about, here and in its log.
    closing: Vec<BoxFuture<'static, ()>>,
    stop: CancellationToken,
    /// Fires after all tiers have ended: leases are given back with hints still going out.
    hints_stop: CancellationToken,
}

impl Tiers {
    /// Nothing runs yet but the hints.
    pub(crate) fn over(
        url: &str,
        settings: &Settings,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let hints_stop = CancellationToken::new();
        let postgres = store::pool(
            url,
            PoolLimits {
                max: HINT_CONNECTIONS,
                ..PoolLimits::default()
            },
        )?;
        let closing = postgres.clone();
        let reach = Reach {
            postgres,
            redis: settings.redis.clone(),
        };
        Ok(Self {
            url: url.to_owned(),
            lease: settings.lease,
            limits: settings.limits,
            hints: Hints::start(reach, &hints_stop),
            redis: settings.redis.clone(),
            streams_per_user: settings.streams_per_user,
            max_connections: settings.max_connections,
            running: JoinSet::new(),
            closing: vec![Box::pin(async move { closing.close().await })],
            stop: stop.clone(),
            hints_stop,
        })
    }

    /// Serves the API on the listener.
    pub(crate) fn api(
        &mut self,
        listener: TcpListener,
        auth: AuthConfig,
        limits: PoolLimits,
    ) -> anyhow::Result<()> {
        let store = self.store(limits)?;
        let relay = self.redis.clone().map(Relay::new).transpose()?;
        let max_connections = connections_that_fit(self.max_connections);
        let config = ApiConfig {
            relay,
            max_streams_per_user: self.streams_per_user,
            max_connections,
            // Others want to be heard, too.
            max_streams: max_connections / 6 * 5,
            ..ApiConfig::new(auth)
        };
        let serving = api::serve(listener, store, config, self.stop.clone());
        self.run("the API", async move {
            serving.await.map_err(anyhow::Error::from)
        });
        Ok(())
    }

    /// Works on steps.
    pub(crate) fn worker(&mut self, config: WorkerConfig) -> anyhow::Result<()> {
        let store = self.store(PoolLimits {
            max: WORKER_CONNECTIONS,
            ..PoolLimits::default()
        })?;
        let working = worker::run(store, config, self.stop.clone());
        self.run("the worker", async move {
            working.await.map_err(anyhow::Error::from)
        });
        Ok(())
    }

    /// Waits until all have ended. One that fails, or ends without being told to, takes the others with it.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.running.join_next().await {
            self.stop.cancel();
            let ended = ended.context("a tier panicked").flatten();
            result = result.and(ended);
        }
        self.hints_stop.cancel();
        // The hints' tasks end when they are next polled; a pool closed under them would be reported as a broken one.
        sleep(HINTS_END).await;
        if timeout(CLOSE_LIMIT, join_all(self.closing)).await.is_err() {
            warn!("connections were still in use {CLOSE_LIMIT:?} after the stop; they are cut off");
        }
        result
    }

    fn store(&mut self, limits: PoolLimits) -> anyhow::Result<Store> {
        let pool = store::pool(&self.url, limits)?;
        let closing = pool.clone();
        self.closing
            .push(Box::pin(async move { closing.close().await }));
        Ok(Store::new(pool, self.hints.clone(), self.lease).with_limits(self.limits))
    }

    fn run(
        &mut self,
        name: &'static str,
        tier: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            tier.await.with_context(|| format!("{name} failed"))?;
            if !stop.is_cancelled() {
                bail!("{name} ended though nobody told it to");
            }
            Ok(())
        });
    }
}

/// Has the system allow as many open files as that many connections need, as far as it does; how many connections fit.
fn connections_that_fit(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = u64::try_from(wanted + OTHER_FILES).unwrap_or(u64::MAX);
    let allowed = std::cmp::min(std::cmp::max(soft, needed), hard);
    let raised = soft >= allowed || setrlimit(Resource::RLIMIT_NOFILE, allowed, hard).is_ok();
    let files = usize::try_from(if raised { allowed } else { soft }).unwrap_or(usize::MAX);
    let fit = files.saturating_sub(OTHER_FILES);
    if fit < wanted {
        warn!(
            wanted,
            fit, "the system allows too few open files (ulimit -n) for the connections asked for"
        );
    }
    std::cmp::min(wanted, std::cmp::max(fit, 1))
}

/// `codelab api`.
pub(crate) async fn api(settings: Settings) -> anyhow::Result<()> {
    let url = migrated(&settings).await?;
    let listener = listen(&settings.listen).await?;
    let stop = stop_on_signals()?;
    let auth = auth(&settings, settings.jwt_secret.clone())?;
    let mut tiers = Tiers::over(&url, &settings, &stop)?;
    // A pool may not keep more than it may have.
    let min = settings
        .db_pool_min
        .unwrap_or_else(|| std::cmp::min(10, settings.db_pool_max));
    tiers.api(
        listener,
        auth,
        PoolLimits {
            min,
            max: settings.db_pool_max,
            ..PoolLimits::default()
        },
    )?;
    tiers.ended().await
}

/// `codelab worker`.
pub(crate) async fn worker(settings: Settings) -> anyhow::Result<()> {
    let url = migrated(&settings).await?;
    let stop = stop_on_signals()?;
    let mut tiers = Tiers::over(&url, &settings, &stop)?;
    tiers.worker(worker_config(&settings))?;
    info!(
        places = settings.worker_concurrency,
        default_model = settings.default_model,
        "the worker takes steps"
    );
    tiers.ended().await
}

/// What the settings say about a worker.
pub(crate) fn worker_config(settings: &Settings) -> WorkerConfig {
    WorkerConfig {
        places: settings.worker_concurrency,
        default_model: settings.default_model.clone(),
        vendors: settings.vendors(),
        planning_timeout: settings.planning_timeout,
        egress: Egress::allowing(settings.egress.clone()),
        ..WorkerConfig::default()
    }
}

/// What the settings say about tokens; `secret` where no identity provider has the say.
pub(crate) fn auth(
    settings: &Settings,
    secret: Option<SecretString>,
) -> anyhow::Result<AuthConfig> {
    let mut auth = match (&settings.jwks_url, secret) {
        (Some(url), _) => AuthConfig::jwks(JwksSource::new(fetch(url.clone())?)),
        (None, Some(secret)) => AuthConfig::hs256(secret),
        (None, None) => {
            bail!("there is neither a secret nor an identity provider to check tokens with")
        }
    };
    auth.issuer.clone_from(&settings.jwt_issuer);
    auth.audience.clone_from(&settings.jwt_audience);
    Ok(auth)
}

/// Opens the port; says in plain words why it cannot.
pub(crate) async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "{address} is taken by another program; choose another port, for example --listen 127.0.0.1:0 for any that is free"
            )
        }
        bound => bound.with_context(|| format!("could not listen on {address}")),
    }
}

/// Stops in order at the first SIGINT or SIGTERM, at once at the second.
pub(crate) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stopping.is_cancelled() {
                // What is left open is picked up by others, or by the next start: leases expire, Postgres recovers.
                std::process::exit(130);
            }
            info!("stopping; once more to stop at once");
            stopping.cancel();
        }
    });
    Ok(stop)
}

/// The database's URL, once it answers and has this program's schema.
async fn migrated(settings: &Settings) -> anyhow::Result<String> {
    let url = settings
        .database_url
        .clone()
        .context("DATABASE_URL is not set")?;
    let missing = missing_migrations(&url).await?;
    if missing > 0 {
        bail!(
            "the database lacks {missing} of this program's migrations: run `codelab migrate up` first"
        );
    }
    Ok(url)
}

/// How many migrations are not applied yet.
pub(crate) async fn missing_migrations(url: &str) -> anyhow::Result<usize> {
    let deadline = Instant::now() + DATABASE_LIMIT;
    let status = loop {
        match timeout_at(deadline, store::migration_status(url)).await {
            // It may be starting, or somebody between may be: connections are reset then.
            Ok(Err(error)) if error.is_passing() && Instant::now() + DATABASE_AGAIN < deadline => {
                warn!(%error, "Postgres cannot be reached; trying again");
                sleep(DATABASE_AGAIN).await;
            }
            status => break status,
        }
    };
    let status = status.with_context(|| {
        format!(
            "Postgres did not answer within {} s",
            DATABASE_LIMIT.as_secs()
        )
    })?;
    let status = status.context("could not reach Postgres at DATABASE_URL")?;
    Ok(status.iter().filter(|(_, _, applied)| !applied).count())
}

/// Brings the identity provider's keys. Redirects are not followed: the keys decide who is who, so they come from the
/// address that was configured or not at all.
fn fetch(url: Url) -> anyhow::Result<Fetch> {
    let http = Client::builder()
        .timeout(JWKS_LIMIT)
        .redirect(Policy::none())
        .build()
        .context("the HTTP client does not start")?;
    Ok(std::sync::Arc::new(move || {
        let request = http.get(url.clone());
        Box::pin(async move { document(request).await.map_err(Into::into) })
    }))
}

async fn document(request: RequestBuilder) -> anyhow::Result<Value> {
    let mut response = request.send().await?;
    if !response.status().is_success() {
        bail!("the answer was {}", response.status());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > JWKS_BYTES {
            bail!("the document is longer than {JWKS_BYTES} bytes");
        }
        body.extend_from_slice(&piece);
    }
    serde_json::from_slice(&body).context("the document is not JSON")
}
