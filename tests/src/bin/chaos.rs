//! The chaos harness as a program: runs by seed, every crash point once, mutants that must be caught. The exit code is 0 only when
//! all is as it must be.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use clap::{Parser, Subcommand};
use codelab_tests::chaos::{
    profile,
    run::{Breakage, run},
    stage::Cluster,
};

#[derive(Parser)]
#[command(about = "Breaks a whole deployment on purpose and checks what must hold nevertheless")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Seeded runs: people at work while everything breaks
    Run {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// smoke, ci or soak
        #[arg(long, default_value = "smoke")]
        profile: String,
    },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("warn,sqlx=off")
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Run {
            seed,
            seeds,
            profile,
        } => runs(seed..seed + seeds, &profile).await,
    }
}

async fn runs(seeds: std::ops::Range<u64>, profile: &str) -> anyhow::Result<()> {
    let Some(profile) = profile::named(profile) else {
        anyhow::bail!("there is no profile {profile}: smoke, ci, soak");
    };
    let cluster = Cluster::start().await;
    let mut red = Vec::new();
    for seed in seeds {
        let report = run(&cluster, &profile, seed, &Breakage::default()).await;
        println!("{}", serde_json::to_string_pretty(&report)?);
        if !report.violations.is_empty() {
            red.push(seed);
        }
    }
    anyhow::ensure!(red.is_empty(), "violations with the seeds {red:?}");
    Ok(())
}
