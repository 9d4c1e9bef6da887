//! The HTTP face of Codelab Core: REST and the event stream over the engine's [`Store`].
//!
//! A handler checks what came, calls the store, and gives back what it said; there is no layer between. Nothing here
//! knows SQL, calls a model or decides about a plan. What a person may see follows from the [`engine::UserScope`] that
//! `auth` makes of a verified token; `problem` is the one place where errors become answers.
//!
//! ```text
//! request -> observe (id, log line) -> router -> auth (everything under /my/) -> handler -> Store
//!                                                                    feed: hub -> pump -> sse
//! ```

mod agui;
pub mod auth;
mod claims;
mod extract;
mod hub;
mod jwks;
mod line;
mod my;
mod observe;
mod openapi;
mod ops;
mod page;
mod problem;
mod pump;
mod router;
mod server;
mod sse;
mod texts;

use std::{io, sync::Arc, time::Duration};

use engine::{Store, event::relay::Relay};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{auth::Auth, hub::Hub};

pub use openapi::document;
pub use server::Patience;

/// How the API behaves.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Whose tokens count.
    pub auth: auth::AuthConfig,
    /// Where the newest events are kept for those who come back; none: they are read from Postgres.
    pub relay: Option<Relay>,
    /// Longest silence of an event stream.
    pub heartbeat: Duration,
    /// How often the feeds of those who listen are looked at without a hint; the guarantee behind the hints.
    pub poll: Duration,
    /// Event streams that one person may hold open in this process.
    pub max_streams_per_user: usize,
    /// Event streams that this process serves at once: each is an open connection.
    pub max_streams: usize,
    /// Connections that this process has open at once, streams included.
    pub max_connections: usize,
    /// How long clients may take.
    pub patience: Patience,
    /// Longest wait that `Prefer: wait=` may ask for.
    pub wait_limit: Duration,
    /// How long requests may take to end once the process is told to stop.
    pub drain: Duration,
}

impl ApiConfig {
    /// The usual behaviour.
    pub fn new(auth: auth::AuthConfig) -> Self {
        Self {
            auth,
            relay: None,
            heartbeat: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            max_streams_per_user: 1000,
            max_streams: 10_000,
            max_connections: 12_000,
            patience: Patience::default(),
            wait_limit: Duration::from_mins(1),
            drain: Duration::from_secs(10),
        }
    }
}

/// What every handler can reach.
#[derive(Debug, Clone)]
struct App(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Store,
    hub: Hub,
    auth: Auth,
    config: ApiConfig,
    /// Cancelled when the process is told to stop.
    stop: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Serves until `stop`; then streams are told to reconnect elsewhere, waiting requests get the answer they would get at
/// the end of their wait, and the call returns when all requests have ended, or after [`ApiConfig::drain`].
pub async fn serve(
    listener: TcpListener,
    store: Store,
    config: ApiConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let auth = Auth::new(&config.auth, store.clone()).map_err(io::Error::other)?;
    let hub = Hub::start(store.clone(), &config, &stop);
    let ApiConfig {
        drain,
        patience,
        max_connections,
        ..
    } = config;
    let app = App(Arc::new(Parts {
        store,
        hub,
        auth,
        config,
        stop: stop.clone(),
    }));
    info!(address = %listener.local_addr()?, "the API listens");
    let service = router::service(app);
    let serving = server::serve(listener, service, patience, max_connections, stop.clone());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        () = serving => {}
        () = overdue => warn!("requests were still running {drain:?} after the stop; they are cut off"),
    }
    Ok(())
}
