//! Benchmarks of DESIGN section 8: one JSON line a workload, each beside the raw-Postgres limit of the same run.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

mod direct;
mod setup;
mod workloads;

use clap::Parser;

/// Runs the workloads named (all by default) and prints one JSON line each.
#[derive(Debug, Parser)]
struct Args {
    /// limit, diamonds, chain, idle, full-agent, direct
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

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    engine::install_crypto();
    let args = Args::parse();
    let bench = setup::Bench::start(args.database_url.as_deref(), args.profile).await?;
    let all = ["limit", "diamonds", "chain", "idle", "full-agent", "direct"];
    let wanted: Vec<&str> = if args.workloads.is_empty() {
        all.to_vec()
    } else {
        args.workloads.iter().map(String::as_str).collect()
    };
    for name in wanted {
        let line = match name {
            "limit" => workloads::limit(&bench, args.seconds).await?,
            "diamonds" => workloads::diamonds(&bench, args.seconds, args.places).await?,
            "chain" => workloads::chain(&bench).await?,
            "idle" => workloads::idle(&bench).await?,
            "direct" => direct::direct(&bench, args.seconds).await?,
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
