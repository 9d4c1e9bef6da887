//! `codelab migrate`: the schema.

use anyhow::{Context, bail};
use engine::store;

use crate::{config::Settings, say, serve::missing_migrations};

/// What to do with the schema.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub(crate) enum Migrate {
    /// Bring the schema up to this program's version
    Up,
    /// Take the schema back to nothing: every row is lost
    Down {
        /// Yes, lose every row
        #[arg(long)]
        yes: bool,
    },
    /// Show what is applied
    Status,
}

/// Does it; `false`: `status` found something missing.
pub(crate) async fn run(what: Migrate, settings: &Settings) -> anyhow::Result<bool> {
    let url = settings
        .database_url
        .as_deref()
        .context("DATABASE_URL is not set")?;
    // Says within seconds that nobody answers, where the migration itself would try for longer.
    let missing = missing_migrations(url).await?;
    match what {
        Migrate::Up => {
            store::migrate(url).await?;
            say::line(if missing == 0 {
                "nothing to do: the schema is up to date"
            } else {
                "the schema is up to date now"
            });
        }
        Migrate::Down { yes: false } => {
            bail!("this loses every plan, message and event; say so with --yes")
        }
        Migrate::Down { yes: true } => {
            store::migrate_down(url).await?;
            say::line("the schema is gone");
        }
        Migrate::Status => {
            for (version, description, applied) in store::migration_status(url).await? {
                say::line(format!(
                    "{version:04} {description:<30} {}",
                    if applied { "applied" } else { "missing" }
                ));
            }
            return Ok(missing == 0);
        }
    }
    Ok(true)
}
