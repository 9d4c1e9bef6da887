//! The one binary: `codelab`. Thin over the libraries: it reads settings, wires tiers, and shows a person what happens.
//!
//! Exit codes: 0 it worked, 1 it failed, 2 the command line or the settings are wrong.

mod approvals;
mod board;
mod client;
mod config;
mod data;
mod demo;
mod doctor;
mod graph;
mod log;
mod migrate;
mod postgres;
mod say;
mod screen;
mod serve;
mod token;
mod up;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flags, Invalid, Needs, Settings};

/// A team of AI agents that carries out plans durably.
#[derive(Debug, Parser)]
#[command(name = "codelab", version, after_long_help = config::help(), after_help = "Settings are environment variables: see `codelab --help`.")]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, with a Postgres of its own
    Up,
    /// Watch a scripted team carry out a plan, in a temporary folder
    Demo,
    /// Run the API alone, against the database at `DATABASE_URL`
    Api,
    /// Run a worker alone, against the database at `DATABASE_URL`
    Worker,
    /// Look after the schema at `DATABASE_URL`
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Print a development token
    Token(token::TokenArgs),
    /// Draw a plan while it runs
    Watch(watch::WatchArgs),
    /// List what waits for you, and answer
    Approvals(approvals::ApprovalsArgs),
    /// Say what is missing or wrong in this installation
    Doctor,
}

impl Command {
    fn needs(&self) -> Needs {
        let database = matches!(self, Self::Api | Self::Worker | Self::Migrate(_));
        Needs {
            database,
            tokens: matches!(self, Self::Api),
        }
    }

    /// What is logged where `CODELAB_LOG` does not say: little, where logs and a drawing share the terminal.
    fn log(&self) -> String {
        match self {
            Self::Api | Self::Worker | Self::Migrate(_) => log::of_ours("info"),
            // What a person has to know it says itself; a line for each request is there for the asking.
            Self::Up | Self::Doctor | Self::Token(_) => "warn".to_owned(),
            Self::Demo | Self::Watch(_) | Self::Approvals(_) => "off".to_owned(),
        }
    }
}

fn main() -> ExitCode {
    engine::install_crypto();
    let cli = Cli::parse();
    match start(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say::error(&error);
            if error.is::<Invalid>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Does what is asked; `false`: it was done, and what it found is not well.
fn start(cli: Cli) -> anyhow::Result<bool> {
    let settings = Settings::read(&cli.flags, cli.command.needs(), |name| {
        std::env::var(name).ok()
    })?;
    log::start(&settings.log, &cli.command.log());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(cli.command, settings))
}

async fn run(command: Command, settings: Settings) -> anyhow::Result<bool> {
    match command {
        Command::Up => up::run(settings).await?,
        Command::Demo => return demo::run(settings).await,
        Command::Api => serve::api(settings).await?,
        Command::Worker => serve::worker(settings).await?,
        Command::Migrate(what) => return migrate::run(what, &settings).await,
        Command::Token(args) => token::run(&args, &settings)?,
        Command::Watch(args) => return watch::run(args).await,
        Command::Approvals(args) => approvals::run(args).await?,
        Command::Doctor => return doctor::run(&settings).await,
    }
    Ok(true)
}
