//! The event stream over HTTP, from a commit to those who listen.
//!
//! The API is a process of its own, so that its processor time and memory are its own; the clients are in this process, over
//! raw sockets: they have the machine in common with the server, and what they take is missing there.

mod client;
mod crowd;
mod feed;
mod processes;
mod reconnect;
mod side;
mod speaker;
mod stalled;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

pub(crate) use feed::{cells, run};
pub(crate) use processes::{ApiArgs, BareArgs, serve_api, serve_bare};
pub(crate) use reconnect::reconnect;
pub(crate) use stalled::stalled;

/// Open files that the largest cell needs here: a socket for each stream of two servers.
const FILES: u64 = 12_000;

/// Lets this process and those that it starts open as many files as they may.
pub(crate) fn open_many_files() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    anyhow::ensure!(
        hard >= FILES,
        "{FILES} open files are needed and {hard} are allowed: raise the hard limit (`ulimit -Hn {FILES}` as root)"
    );
    Ok(())
}

fn add(line: &mut Value, more: Value) {
    if let (Value::Object(line), Value::Object(more)) = (line, more) {
        line.extend(more);
    }
}
