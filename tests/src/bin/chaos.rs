//! The chaos harness as a program: runs by seed, every crash point once, mutants that must be caught. The exit code is 0 only when
//! all is as it must be.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::ops::Range;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use codelab_tests::chaos::{
    mutants::{self, MUTANTS, Mutant},
    points::{self, Depth},
    profile::{self, Profile},
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
        /// smoke, ci, soak or hunt
        #[arg(long, default_value = "smoke")]
        profile: String,
        /// With this breakage, which has to be noticed
        #[arg(long)]
        mutant: Option<String>,
    },
    /// A fixed scenario, once for each crash point, with a process that dies there
    Points {
        /// smoke (the first pass of each point), ci (first, middle, last) or soak (up to 40 passes)
        #[arg(long, default_value = "ci")]
        profile: String,
    },
    /// Every mutant: by what it was caught, and after how long
    Mutants {
        /// Only this one
        #[arg(long)]
        only: Option<String>,
    },
    /// What a change has to pass: two seeds and the crash points
    Ci,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("warn,sqlx=off")
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let cluster = Cluster::start().await;
    match arguments.command {
        Command::Run {
            seed,
            seeds,
            profile,
            mutant: None,
        } => runs(&cluster, seed..seed + seeds, &size(&profile)?).await,
        Command::Run {
            profile,
            mutant: Some(mutant),
            ..
        } => hunts(&cluster, &size(&profile)?, Some(&mutant)).await,
        Command::Points { profile } => all_points(&cluster, &profile).await,
        Command::Mutants { only } => hunts(&cluster, &size("hunt")?, only.as_deref()).await,
        Command::Ci => {
            runs(&cluster, 1..3, &size("ci")?).await?;
            all_points(&cluster, "ci").await
        }
    }
}

fn size(name: &str) -> anyhow::Result<Profile> {
    profile::named(name).with_context(|| format!("there is no profile {name}"))
}

async fn runs(cluster: &Cluster, seeds: Range<u64>, profile: &Profile) -> anyhow::Result<()> {
    let mut red = Vec::new();
    for seed in seeds {
        // Every other seed goes without a single hint between processes.
        let profile = Profile {
            deaf: seed.is_multiple_of(2),
            ..profile.clone()
        };
        let report = run(cluster, &profile, seed, &Breakage::default()).await;
        println!("{}", serde_json::to_string_pretty(&report)?);
        if !report.violations.is_empty() {
            red.push(seed);
        }
    }
    ensure!(red.is_empty(), "violations with the seeds {red:?}");
    Ok(())
}

async fn all_points(cluster: &Cluster, profile: &str) -> anyhow::Result<()> {
    let depth = match profile {
        "smoke" => Depth::First,
        "soak" => Depth::All(40),
        _ => Depth::Three,
    };
    let report = points::enumerate(cluster, depth).await;
    println!("{}", serde_json::to_string_pretty(&report)?);
    ensure!(report.violations.is_empty(), "crash points: violations");
    Ok(())
}

async fn hunts(cluster: &Cluster, profile: &Profile, only: Option<&str>) -> anyhow::Result<()> {
    let mut alive = Vec::new();
    let wanted = |mutant: &&Mutant| only.is_none_or(|name| name == mutant.name);
    let mutants: Vec<&Mutant> = MUTANTS.iter().filter(wanted).collect();
    ensure!(!mutants.is_empty(), "there is no such mutant");
    for mutant in mutants {
        let hunted = mutants::hunt(cluster, profile, mutant).await;
        println!("{}", serde_json::to_string(&hunted)?);
        if hunted.caught_by.is_none() {
            alive.push(hunted.mutant);
        }
    }
    ensure!(alive.is_empty(), "mutants that nothing noticed: {alive:?}");
    Ok(())
}
