//! What can go wrong between "no server" and "a server that answers".

use std::io;
use std::path::{Path, PathBuf};

/// Why a private server could not be found, started, stopped or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServersError {
    /// A file operation of ours failed.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another live process runs a server on this folder.
    #[error("the data folder {} is already in use by pid {pid}", folder.display())]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The process that holds it, as it wrote itself down ("unknown" if it did not yet).
        pid: String,
    },
    /// The folder holds somebody else's files, so no cluster is put between them.
    #[error("{} is not empty and was not made by codelab; choose an empty or new data folder", folder.display())]
    NotOurs {
        /// The data folder.
        folder: PathBuf,
    },
    /// `CODELAB_PG_BIN` does not name a usable Postgres.
    #[error("CODELAB_PG_BIN={} is not usable: {why}", folder.display())]
    BadBinFolder {
        /// The folder as given.
        folder: PathBuf,
        /// What is missing or too old.
        why: String,
    },
    /// No server program is installed and none may or can be installed.
    #[error("no usable {server} found{rejected} and it was not installed: {why}; {hint}")]
    NotFound {
        /// What was looked for.
        server: &'static str,
        /// What was found but cannot be used, or nothing.
        rejected: String,
        /// Why it was not installed.
        why: String,
        /// The line to paste.
        hint: String,
    },
    /// The data folder was made by another major version than the installed ones.
    #[error("the data in {} was made by Postgres {made_by}, which is not installed{rejected}; install it, or move the folder away to start anew", folder.display())]
    WrongMajor {
        /// The cluster's folder.
        folder: PathBuf,
        /// The major version that made it.
        made_by: u32,
        /// What was found instead.
        rejected: String,
    },
    /// Running as root, and the user the server must run as cannot get at a file or folder.
    #[error("servers do not run as root, and user {user} cannot reach {}; make its parent folders searchable (chmod o+x) or choose another place", path.display())]
    Unreachable {
        /// What cannot be reached.
        path: PathBuf,
        /// The user the server runs as.
        user: String,
    },
    /// Running as root on a machine without any user to drop to.
    #[error(
        "servers do not run as root, and this machine has neither a user `postgres` nor `nobody`; start codelab as an ordinary user"
    )]
    NoUser,
    /// The server program was started but never answered.
    #[error("{server} did not start: {why}{log}")]
    Start {
        /// Which program.
        server: &'static str,
        /// What was observed.
        why: String,
        /// The end of the server's log, on lines of its own.
        log: String,
    },
    /// The server ignored every signal, SIGKILL included.
    #[error("{server} (pid {pid}) could not be stopped")]
    Stop {
        /// Which program.
        server: &'static str,
        /// Its process id.
        pid: u32,
    },
    /// A database name outside of what needs no quoting anywhere.
    #[error("`{name}` is no database name: 1 to 63 of A-Z a-z 0-9 _ - are")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// The server refused to create a database.
    #[error("could not create database {name}: {why}")]
    CreateDatabase {
        /// The database.
        name: String,
        /// What the server said.
        why: String,
    },
}

impl ServersError {
    /// For `map_err`: names the operation and the path an [`io::Error`] lacks.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
