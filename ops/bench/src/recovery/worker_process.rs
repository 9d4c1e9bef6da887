//! A worker that may die: this program, started by itself.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use engine::{
    step::{ClaimedStep, Outcome},
    store::claims::ClaimOptions,
};
use serde_json::Value;
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::LEASE;
use crate::{child::stop_at_end_of_input, setup::store_over};

/// Connections of a worker, as `codelab worker` has them.
const CONNECTIONS: u32 = 16;
/// What a step takes, as in the public benchmark.
const STEP: Duration = Duration::from_millis(1);
/// Longest wait for a worker to end when it is told to; it has nothing left to do then.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a worker process is told.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    places: usize,
    /// Where it notes the id of each step that it runs: what really happened, whatever becomes of the process.
    #[arg(long)]
    receipts: PathBuf,
}

/// Works until standard input closes: on purpose, or because the parent died.
pub(crate) async fn work(args: WorkerArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let stop = CancellationToken::new();
    stop_at_end_of_input(stop.clone());
    let store = store_over(
        &args.database_url,
        CONNECTIONS,
        LEASE,
        &CancellationToken::new(),
    )?;
    let receipts = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.receipts)?;
    let receipts = Arc::new(receipts);
    let duties = tokio::spawn(worker::duty::run(store.clone(), stop.clone()));
    let options = ClaimOptions {
        places: args.places,
        drain: stop.clone(),
        abandon: CancellationToken::new(),
    };
    worker::supervise::until(&stop, "the claim loop", || {
        let receipts = Arc::clone(&receipts);
        worker::pool::run(store.clone(), options.clone(), move |step| {
            one(Arc::clone(&receipts), step)
        })
    })
    .await;
    duties.await?;
    Ok(())
}

async fn one(receipts: Arc<File>, step: ClaimedStep) {
    // One write to the page cache: it is whole, and there even if the process is killed right after it.
    let noted = (&*receipts).write_all(step.claim.id.0.as_bytes());
    if let Err(error) = noted {
        // Reported as an end of its own: without receipts nothing can be judged.
        eprintln!("ERROR no receipt: {error}");
        std::process::exit(1);
    }
    sleep(STEP).await;
    step.finish(Outcome::Succeed {
        result: Value::Null,
        reply: None,
    });
}

/// A worker process as its parent sees it. Killed when dropped.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    input: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Starts the `number`th worker of a cell.
    pub(super) fn start(
        database_url: &str,
        places: usize,
        folder: &Path,
        number: usize,
    ) -> anyhow::Result<Self> {
        let log = File::create(folder.join(format!("{number}.log")))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["recovery-worker", "--database-url", database_url])
            .args(["--places", &places.to_string()])
            .arg("--receipts")
            .arg(folder.join(format!("{number}.receipts")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start a worker process")?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Tells it to stop, and says whether it lived until then and ended in order.
    pub(super) async fn stop(mut self) -> anyhow::Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(false);
        }
        drop(self.input.take());
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => Ok(false),
        }
    }
}
