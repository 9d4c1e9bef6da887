//! Benchmarks of DESIGN section 8: one JSON line a workload, each beside the raw-Postgres limit of the same run.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

mod direct;
mod recovery;
mod service;
mod setup;
mod storm;
mod workloads;

use clap::{Parser, Subcommand};

/// Runs the workloads named (all by default) and prints one JSON line each.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// limit, diamonds, chain, idle, full-agent, direct, storm; not by default: recovery, or one of its cells by name
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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    engine::install_crypto();
    let args = Args::parse();
    if let Some(Role::RecoveryWorker(worker)) = args.role {
        return recovery::work(worker).await;
    }
    let bench = setup::Bench::start(args.database_url.as_deref(), args.profile).await?;
    let all = [
        "limit",
        "diamonds",
        "chain",
        "idle",
        "full-agent",
        "direct",
        "storm",
    ];
    let wanted: Vec<&str> = if args.workloads.is_empty() {
        all.to_vec()
    } else {
        args.workloads.iter().map(String::as_str).collect()
    };
    for name in wanted {
        if let Some(cells) = recovery::cells(name) {
            recovery::run(&bench, cells, args.seconds, args.places).await?;
            continue;
        }
        let line = match name {
            "limit" => workloads::limit(&bench, args.seconds).await?,
            "diamonds" => workloads::diamonds(&bench, args.seconds, args.places).await?,
            "chain" => workloads::chain(&bench).await?,
            "idle" => workloads::idle(&bench).await?,
            "direct" => direct::direct(&bench, args.seconds).await?,
            "storm" => storm::storm(&bench).await?,
            "full-agent" => workloads::full_agent(&bench).await?,
            other => anyhow::bail!("there is no workload {other:?}"),
        };
        println!("{line}");
    }
    if args.profile {
        println!("{}", bench.profile().await?);
    }
    Ok(())
}
