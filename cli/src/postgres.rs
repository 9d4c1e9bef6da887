//! The Postgres of `up` and `demo`: a private one that lives and dies with this process, or the one that is given.

use std::{path::Path, time::Duration};

use anyhow::Context;
use servers::{Postgres, PostgresOptions, ServersError};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The database in the private cluster.
const DATABASE: &str = "codelab";
/// Connections of the private cluster: two tiers' pools, and some for whoever looks in with psql.
const CONNECTIONS: u16 = 100;
/// How often it is looked after.
const ROUND: Duration = Duration::from_secs(1);

/// A private Postgres that is looked after.
pub(crate) struct PrivatePostgres {
    /// How to reach the database; the same over restarts.
    pub(crate) url: String,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl PrivatePostgres {
    /// Starts the cluster in the folder; makes it first where there is none.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let options = PostgresOptions {
            max_connections: CONNECTIONS,
            ..PostgresOptions::new(folder)
        };
        Self::keep(move || Postgres::start(options)).await
    }

    /// Starts a new cluster that leaves nothing behind.
    pub(crate) async fn start_throwaway() -> anyhow::Result<Self> {
        Self::keep(|| Postgres::start_throwaway(CONNECTIONS, Vec::new())).await
    }

    async fn keep(
        start: impl FnOnce() -> Result<Postgres, ServersError> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let started = spawn_blocking(|| {
            let postgres = start()?;
            postgres.create_database(DATABASE, None)?;
            Ok::<_, ServersError>(postgres)
        });
        let postgres = started
            .await
            .context("starting Postgres panicked")?
            .context("could not start Postgres")?;
        let stop = CancellationToken::new();
        Ok(Self {
            url: postgres.url(DATABASE),
            stop: stop.clone(),
            keeper: tokio::spawn(look_after(postgres, stop)),
        })
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.keeper.await {
            warn!(%error, "nobody looked after Postgres any more");
        }
    }
}

/// Starts it again if it dies (somebody killed it, memory ran out): the tiers wait for it and go on.
async fn look_after(postgres: Postgres, stop: CancellationToken) {
    let mut postgres = postgres;
    loop {
        let stopping = stop
            .run_until_cancelled(tokio::time::sleep(ROUND))
            .await
            .is_none();
        let round = spawn_blocking(move || {
            let done = if stopping {
                postgres.stop()
            } else {
                revive(&mut postgres)
            };
            (postgres, done)
        });
        let done;
        (postgres, done) = match round.await {
            Ok(round) => round,
            Err(error) => return warn!(%error, "looking after Postgres panicked"),
        };
        match done {
            Ok(()) if stopping => return,
            Ok(()) => {}
            Err(error) if stopping => {
                return warn!(error = %chain(error), "Postgres did not stop in order");
            }
            Err(error) => {
                warn!(error = %chain(error), "Postgres did not start again; trying once more");
            }
        }
    }
}

fn revive(postgres: &mut Postgres) -> Result<(), ServersError> {
    if postgres.is_running() {
        return Ok(());
    }
    warn!(log = %postgres.log().display(), "Postgres has ended; starting it again");
    postgres.start_again()?;
    info!("Postgres is back");
    Ok(())
}

fn chain(error: ServersError) -> String {
    crate::say::told(&anyhow::Error::new(error))
}
