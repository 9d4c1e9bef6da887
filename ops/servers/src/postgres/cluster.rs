//! The cluster on disk: made whole or not at all, and never served twice.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wire;
use crate::ServersError;
use crate::account::Account;
use crate::find::Installation;
use crate::place::Home;
use crate::supervisor::{Launch, Supervised};

/// `initdb` takes half a second here; a loaded machine with a slow disk may take far longer.
const INITDB_LIMIT: Duration = Duration::from_mins(2);

/// A log that grew beyond this is begun anew, in bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// How much of a log an error quotes, in lines.
const QUOTED_LINES: usize = 12;

/// The major version that made the cluster; None when there is none yet.
pub(super) fn major(cluster: &Path) -> Option<u32> {
    fs::read_to_string(cluster.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What a cluster is made with.
pub(super) struct Making<'a> {
    pub(super) home: &'a Home,
    pub(super) installation: &'a Installation,
    pub(super) account: &'a Account,
    pub(super) scratch: &'a Path,
    /// Whether to wait until it is on the disk.
    pub(super) durable: bool,
}

/// Makes the cluster if it is missing. A kill at any moment leaves either a whole cluster or a
/// folder `initdb-*` that the next call removes.
pub(super) fn ensure(making: &Making) -> Result<(), ServersError> {
    let home = making.home;
    remove_half_finished(home.folder());
    if home.cluster().exists() {
        return Ok(());
    }
    // A name never used before: an `initdb` of a killed owner may still be writing for a moment.
    let name = format!("initdb-{:016x}", fastrand::u64(..));
    let unfinished = home.folder().join(name);
    let failed = |doing| ServersError::io(doing, &unfinished);
    let created = DirBuilder::new().mode(0o700).create(&unfinished);
    created.map_err(failed("create"))?;
    making.account.give(&unfinished)?;
    run_initdb(making, &unfinished)?;
    fs::rename(&unfinished, home.cluster()).map_err(failed("rename"))?;
    let synced = File::open(home.folder()).and_then(|folder| folder.sync_all());
    synced.map_err(ServersError::io("sync", home.folder()))
}

fn remove_half_finished(home: &Path) {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("initdb-"))
    {
        // Not an error: its name is never used again, and the next start tries again.
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "a half-finished cluster stays behind");
        }
    }
}

fn run_initdb(making: &Making, folder: &Path) -> Result<(), ServersError> {
    let server = "initdb";
    let path = making.home.log();
    let (log, quoted_from) = open_log(&path)?;
    let mut initdb = Supervised::launch(&Launch {
        server,
        account: making.account,
        log,
        stop: Signal::SIGINT,
        scratch: making.scratch,
        command: initdb_command(making, folder),
    })?;
    let why = if initdb.wait_gone(INITDB_LIMIT) {
        match initdb.status() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => format!("it ended with {status}"),
            None => "it vanished".to_owned(),
        }
    } else {
        format!("it was not done after {} s", INITDB_LIMIT.as_secs())
    };
    let log = quote_log(&path, quoted_from);
    Err(ServersError::Start { server, why, log })
}

fn initdb_command(making: &Making, folder: &Path) -> Vec<OsString> {
    let program = making.installation.bin.join("initdb");
    let mut command: Vec<OsString> = vec![program.into(), "-D".into(), folder.into()];
    let fixed = [
        "-U",
        wire::USER,
        "-E",
        "UTF8",
        "--locale=C",
        "--auth-local=trust",
        "--auth-host=reject",
        "--no-instructions",
    ];
    command.extend(fixed.map(OsString::from));
    command.extend((!making.durable).then(|| "--no-sync".into()));
    command
}

/// Opens a log for appending, and says where this start's part of it begins.
pub(crate) fn open_log(path: &Path) -> Result<(File, u64), ServersError> {
    let failed = || ServersError::io("open", path);
    let no_link = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    let log = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_link)
        .open(path);
    let log = log.map_err(failed())?;
    let mut length = log.metadata().map_err(failed())?.len();
    if length > LOG_LIMIT {
        log.set_len(0).map_err(failed())?;
        length = 0;
    }
    Ok((log, length))
}

/// The last lines of a log since `from`, ready to be put behind an error message.
pub(crate) fn quote_log(path: &Path, from: u64) -> String {
    let said = read_log(path, from);
    let lines: Vec<&str> = said.lines().collect();
    let last = lines.split_at(lines.len().saturating_sub(QUOTED_LINES)).1;
    if last.is_empty() {
        return format!("; {} says nothing", path.display());
    }
    format!("; {} ends with:\n  {}", path.display(), last.join("\n  "))
}

/// The log since `from`.
pub(crate) fn read_log(path: &Path, from: u64) -> String {
    let mut said = Vec::new();
    let read = File::open(path).and_then(|mut log| {
        log.seek(SeekFrom::Start(from))?;
        log.read_to_end(&mut said)
    });
    read.map_or_else(
        |_| String::new(),
        |_| String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Ends the Postgres that a dead owner may have left on this cluster (its supervisor may still be
/// stopping it, or may have been killed too), and removes what would stop the next: a pid file
/// that names a stranger, and sockets other than `ours`.
///
/// Its caller holds the home's lock, so no other owner is alive.
pub(super) fn end_leftover(cluster: &Path, ours: &Path) -> Result<(), ServersError> {
    let Some((pid, sockets)) = recorded(cluster) else {
        return Ok(());
    };
    end(pid, cluster)?;
    if kill(pid, None) != Err(Errno::ESRCH) {
        forget_stranger(cluster)?;
    }
    if let Some(sockets) = sockets.filter(|sockets| sockets != ours) {
        remove_sockets(&sockets);
    }
    Ok(())
}

fn end(pid: Pid, cluster: &Path) -> Result<(), ServersError> {
    let ladder = [
        (Signal::SIGINT, 30),
        (Signal::SIGQUIT, 5),
        (Signal::SIGKILL, 5),
    ];
    for (signal, patience) in ladder {
        if !serves(pid, cluster) {
            return Ok(());
        }
        tracing::info!(pid = pid.as_raw(), %signal, "ending the Postgres of an owner that died");
        let _ = kill(pid, signal);
        let deadline = Instant::now() + Duration::from_secs(patience);
        while serves(pid, cluster) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if serves(pid, cluster) {
        let pid = pid.as_raw().cast_unsigned();
        return Err(ServersError::Stop {
            server: "Postgres",
            pid,
        });
    }
    Ok(())
}

/// What `postmaster.pid` says: the process on its first line, the folder of its socket on its
/// fifth. The second tells whether it is ours at all: it is not in a copy of a running cluster.
fn recorded(cluster: &Path) -> Option<(Pid, Option<PathBuf>)> {
    let file = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let mut lines = file.lines();
    let pid = lines.next()?.trim().parse::<i32>().ok()?;
    let is_original = lines.next().is_some_and(|data| Path::new(data) == cluster);
    let sockets = lines.nth(2).filter(|_| is_original).map(PathBuf::from);
    (pid > 1).then(|| (Pid::from_raw(pid), sockets))
}

/// The supervisor does this, unless it was killed as well. Removes nothing but a socket and an
/// empty folder of ours, since the name comes from a file that the server's user can write.
fn remove_sockets(folder: &Path) {
    let name = folder.file_name().unwrap_or_default();
    if !name.as_bytes().starts_with(b"codelab-") {
        return;
    }
    for name in [".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_dir(folder);
}

/// Pids are used again, in containers within seconds, and zombies keep theirs. Postgres takes a
/// process of that number for its predecessor and refuses to start; we know better. (When
/// the number is free the file stays: Postgres then checks what its line on shared memory says.)
fn forget_stranger(cluster: &Path) -> Result<(), ServersError> {
    let file = cluster.join("postmaster.pid");
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServersError::io("remove", &file)(error))
        }
        _ => Ok(()),
    }
}

/// Whether the process lives and is a Postgres on this cluster: by its working folder, which is
/// its data folder, or by its command line, which even root in a container may read of others.
fn serves(pid: Pid, cluster: &Path) -> bool {
    if !Path::new("/proc/self/cmdline").exists() {
        return listed_as_serving(pid, cluster);
    }
    let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let is_postgres = words
        .next()
        .is_some_and(|program| program.ends_with(b"postgres"));
    let on_cluster = |folder: &[u8]| folder == cluster.as_os_str().as_bytes();
    is_postgres && (words.any(on_cluster) || works_in.is_ok_and(|folder| folder == cluster))
}

/// The same on systems without `/proc`.
fn listed_as_serving(pid: Pid, cluster: &Path) -> bool {
    let pid = pid.to_string();
    let listed = Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid])
        .output();
    listed.is_ok_and(|listed| {
        let line = String::from_utf8_lossy(&listed.stdout).into_owned();
        line.contains("postgres") && line.contains(&*cluster.to_string_lossy())
    })
}

/// Sets the mode Postgres insists on, which a copy or a checkout may have changed.
pub(super) fn make_private(cluster: &Path) -> Result<(), ServersError> {
    fs::set_permissions(cluster, Permissions::from_mode(0o700))
        .map_err(ServersError::io("chmod", cluster))
}
