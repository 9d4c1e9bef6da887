//! What the stories share: folders, deadlines, pids.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codelab_servers::{Postgres, PostgresOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A temporary folder that the server's user can search, unlike `TempDir`'s default for root.
pub(crate) fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    let parent = if nix::unistd::Uid::effective().is_root() {
        PathBuf::from("/tmp")
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .permissions(mode)
        .tempdir_in(parent)
        .unwrap()
}

pub(crate) fn careless(data_dir: &Path) -> PostgresOptions {
    PostgresOptions {
        durable: false,
        max_connections: 20,
        ..PostgresOptions::new(data_dir)
    }
}

pub(crate) fn start(data_dir: &Path) -> Postgres {
    Postgres::start(careless(data_dir)).unwrap_or_else(|error| panic!("{error}"))
}

/// A database exists if another can be made from it.
pub(crate) fn has_database(postgres: &Postgres, name: &str) -> bool {
    postgres
        .create_database(&format!("copy_{}", fastrand::u32(..)), Some(name))
        .is_ok()
}

pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed())
}

/// A zombie is not alive: it waits for a parent that may be in no hurry.
pub(crate) fn is_alive(number: u32) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{number}/stat"))
        .is_ok_and(|stat| stat.contains(") Z "));
    !zombie && kill(pid(number), None).is_ok()
}

pub(crate) fn kill_9(number: u32) {
    kill(pid(number), Signal::SIGKILL).unwrap();
}
