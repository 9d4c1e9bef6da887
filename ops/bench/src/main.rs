//! Benchmarks of DESIGN section 8: one JSON line a workload, each beside the raw-Postgres limit of the same run.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

mod child;
mod direct;
mod notify;
mod recovery;
mod service;
mod setup;
mod storm;
mod stream;
mod workloads;

use clap::{Parser, Subcommand};

/// Runs the workloads named (all by default) and prints one JSON line each.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// limit, diamonds, chain, idle, full-agent, direct, storm; not by default: feed or one of its cells by name, reconnect,
    /// stalled, notify, recovery or one of its cells by name
    #[arg(value_delimiter = ',')]
    workloads: Vec<String>,
    /// Seconds a workload is measured.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Places of the worker.
    #[arg(long, default_value_t = 100)]
    places: usize,
    /// Prints calls, total and own milliseconds of each transition after the workloads.
    #[arg(long)]
    profile: bool,
    /// An existing Postgres instead of a private one.
    #[arg(long, env = "BENCH_DATABASE_URL")]
    database_url: Option<String>,
}

/// What this program is when it started itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// A worker that a recovery cell may kill.
    #[command(hide = true)]
    RecoveryWorker(recovery::WorkerArgs),
    /// The API that streams are read from.
    #[command(hide = true)]
    StreamApi(stream::ApiArgs),
    /// The bare server that it is measured against.
    #[command(hide = true)]
    StreamBare(stream::BareArgs),
}

impl Role {
    async fn play(self) -> anyhow::Result<()> {
        match self {
            Self::RecoveryWorker(worker) => recovery::work(worker).await,
            Self::StreamApi(api) => stream::serve_api(api).await,
            Self::StreamBare(bare) => stream::serve_bare(bare).await,
        }
    }
}

/// Measured when nothing is named.
const USUAL: [&str; 7] = [
    "limit",
    "diamonds",
    "chain",
    "idle",
    "full-agent",
    "direct",
    "storm",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    engine::install_crypto();
    let args = Args::parse();
    if let Some(role) = args.role {
        return Box::pin(role.play()).await;
    }
    let wanted: Vec<&str> = if args.workloads.is_empty() {
        USUAL.to_vec()
    } else {
        args.workloads.iter().map(String::as_str).collect()
    };
    let extra = setup::Extra {
        functions: args.profile,
        statements: wanted.iter().any(|name| reads_streams(name)),
    };
    let bench = setup::Bench::start(args.database_url.as_deref(), extra).await?;
    for name in wanted {
        Box::pin(measure(&bench, name, args.seconds, args.places)).await?;
    }
    if args.profile {
        println!("{}", bench.profile().await?);
    }
    Ok(())
}

fn reads_streams(name: &str) -> bool {
    stream::cells(name).is_some() || ["reconnect", "stalled"].contains(&name)
}

/// Prints the line or lines of a workload.
async fn measure(
    bench: &setup::Bench,
    name: &str,
    seconds: u64,
    places: usize,
) -> anyhow::Result<()> {
    if reads_streams(name) {
        stream::open_many_files()?;
    }
    if let Some(cells) = recovery::cells(name) {
        return recovery::run(bench, cells, seconds, places).await;
    }
    if let Some(cells) = stream::cells(name) {
        return stream::run(bench, cells, seconds).await;
    }
    let line = match name {
        "limit" => workloads::limit(bench, seconds).await?,
        "diamonds" => workloads::diamonds(bench, seconds, places).await?,
        "chain" => workloads::chain(bench).await?,
        "idle" => workloads::idle(bench).await?,
        "direct" => direct::direct(bench, seconds).await?,
        "storm" => storm::storm(bench).await?,
        "full-agent" => workloads::full_agent(bench).await?,
        "reconnect" => return stream::reconnect(bench, seconds).await,
        "stalled" => stream::stalled(bench, seconds).await?,
        "notify" => return notify::run(bench, seconds, places).await,
        other => anyhow::bail!("there is no workload {other:?}"),
    };
    println!("{line}");
    Ok(())
}
