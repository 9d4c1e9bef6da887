//! Finds, installs, starts and stops a private Postgres or Redis, for `codelab up` and for tests.
//!
//! Everything here blocks (async callers use `spawn_blocking`); nothing here knows about schemas,
//! pools or `DATABASE_URL`, which the caller asks first.
//!
//! Invariants:
//!
//! - a server never outlives the process that started it, not even after SIGKILL ([`Postgres`]
//!   and [`Redis`] run under a supervisor that watches a pipe);
//! - never two servers on one data folder, never one socket for two folders;
//! - a data folder is usable after any crash: of the server, of its owner, of `initdb`;
//! - a server never runs as root.
//!
//! How it fails: every error is a [`ServersError`] that names the folder, the server's own last
//! log lines or the command to type.

mod account;
mod error;
mod find;
mod install;
mod place;
mod postgres;
mod redis;
mod supervisor;

pub use error::ServersError;
pub use postgres::{Postgres, PostgresOptions};
pub use redis::Redis;
