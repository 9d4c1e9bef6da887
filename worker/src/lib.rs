//! The worker: turns claims into outcomes. Knows apalis, model vendors and (later) tools; knows no SQL and no HTTP server.

pub mod duty;
pub mod exec;
/// The model vendors.
pub mod llm;
pub mod pool;
pub mod run;
pub mod supervise;
pub mod tool;

use std::{sync::Arc, time::Duration};

use engine::{Store, llm::LlmError, store::claims::ClaimOptions};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use run::Runner;

/// How a worker process works.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Steps at once in this process.
    pub places: usize,
    /// Model of agents and planners that name none.
    pub default_model: String,
    /// Keys and addresses of the vendors.
    pub vendors: llm::RouterConfig,
    /// Longest time for planning; then the fallback plan.
    pub planning_timeout: Duration,
    /// Where tools may reach, beside public addresses.
    pub egress: tool::Egress,
    /// How long running steps may go on after a stop was asked for; then they are given back.
    pub grace: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            places: 64,
            default_model: "scripted/default".to_owned(),
            vendors: llm::RouterConfig::default(),
            planning_timeout: Duration::from_secs(5),
            egress: tool::Egress::default(),
            grace: Duration::from_secs(20),
        }
    }
}

/// Works until `stop`, then lets running steps finish for the grace period and gives back the rest.
pub async fn run(
    store: Store,
    config: WorkerConfig,
    stop: CancellationToken,
) -> Result<(), LlmError> {
    let router = llm::Router::new(config.vendors)?;
    let tools = tool::Tools::new(config.egress)
        .map_err(|error| LlmError::Invalid(format!("the HTTP client does not start: {error}")))?;
    let abandon = CancellationToken::new();
    let duties = tokio::spawn(duty::run(store.clone(), stop.clone()));
    let deadline = tokio::spawn(abandon_after(stop.clone(), config.grace, abandon.clone()));
    let runner = Arc::new(Runner {
        store: store.clone(),
        router,
        default_model: config.default_model,
        planning_timeout: config.planning_timeout,
        tools,
    });
    let options = ClaimOptions {
        places: config.places,
        drain: stop.clone(),
        abandon,
    };
    // A claim loop that breaks off is a defect, and no reason for a process to end: its leases expire, and a new one begins.
    supervise::until(&stop, "the claim loop", || {
        let runner = Arc::clone(&runner);
        pool::run(store.clone(), options.clone(), move |step| {
            run::step(Arc::clone(&runner), step)
        })
    })
    .await;
    deadline.abort();
    // The duties end with `stop`; what they return is nothing.
    let _ = duties.await;
    info!("the worker has stopped; every lease is given back");
    Ok(())
}

async fn abandon_after(stop: CancellationToken, grace: Duration, abandon: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
    abandon.cancel();
}
