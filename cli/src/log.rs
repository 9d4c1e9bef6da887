//! Where logs go: sentences with fields on stderr, so that stdout stays what was asked for.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogSettings;

/// A level for our own crates (all are named `codelab...`), warnings from everybody else.
pub(crate) fn of_ours(level: &str) -> String {
    format!("warn,codelab={level}")
}

/// Starts logging; `default` is the filter when the person has set none.
pub(crate) fn start(settings: &LogSettings, default: &str) {
    let filter = EnvFilter::new(settings.filter.as_deref().unwrap_or(default));
    // A connection that could not be set up is told by whoever wanted it; one that the pool wanted for itself while Postgres
    // was being stopped is nobody's loss.
    let filter = match "sqlx_core::pool::inner=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    let lines = fmt().with_env_filter(filter).with_writer(stderr);
    // An error means that it was started before: then that one goes on.
    let _ = if settings.json {
        lines.json().flatten_event(true).try_init().map_err(drop)
    } else {
        let coloured = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        lines
            .with_ansi(coloured)
            .with_target(false)
            .try_init()
            .map_err(drop)
    };
}
