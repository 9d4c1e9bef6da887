//! A server process that cannot outlive us.
//!
//! Between us and the server sits a ten-line shell. It holds the reading end of a pipe whose only
//! writing end is ours: when we are gone, however we went, the pipe ends and the shell stops the
//! server. (The alternative, `PR_SET_PDEATHSIG`, is bound to the *thread* that spawned, is
//! Linux's alone, and needs `unsafe` or util-linux.)
//!
//! A second pipe goes the other way: the server and all its children inherit its writing end, so
//! its end is the exact moment when the last of them is gone. No polling of pids.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ServersError;
use crate::account::Account;

/// `$1` is the signal that stops the server in order, `$2` a scratch folder to remove when its
/// owner is gone, the rest is the server's command line.
///
/// A line on the lifeline says that the server ended under its owner's eyes; the end of the
/// lifeline says that the owner is dead. While the shell is here to `wait`, the server's pid
/// cannot be given to another process.
const SUPERVISOR: &str = r#"
stop=$1 scratch=$2
shift 2
exec 3<&0 </dev/null
"$@" 4>&1 >&2 3<&- &
server=$!
trap '' HUP INT TERM
echo "$server"
exec >&2
if read -r _ <&3; then
    wait "$server"
    exit
fi
kill -s "$stop" "$server" 2>/dev/null
wait "$server"
rm -rf -- "$scratch"
"#;

/// How long a server may take to stop in order (it may have a checkpoint to write).
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a server may take to die of the harsher signals.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// What a server must not inherit: our keys, and everything that changes its meaning (`PGPORT`).
const INHERITED: [&str; 4] = [
    "PATH",
    "TZ",
    "LD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
];

/// What to run, as whom and how it ends.
pub(crate) struct Launch<'a> {
    /// Name for error messages.
    pub(crate) server: &'static str,
    pub(crate) account: &'a Account,
    /// Receives standard output and error.
    pub(crate) log: File,
    /// Ends the server in order.
    pub(crate) stop: Signal,
    /// Removed by the supervisor if we die.
    pub(crate) scratch: &'a Path,
    /// Program and arguments.
    pub(crate) command: Vec<OsString>,
}

/// A running server, stopped when dropped.
pub(crate) struct Supervised {
    server: &'static str,
    stop: Signal,
    shell: Child,
    pid: Pid,
    /// Never receives; its hanging up says that all processes of the server are gone.
    gone: Mutex<Receiver<()>>,
}

impl Supervised {
    /// Starts the server. That it runs does not yet mean that it answers.
    pub(crate) fn launch(launch: &Launch) -> Result<Self, ServersError> {
        let failed = ServersError::io("run a supervisor with", Path::new("/bin/sh"));
        let mut shell = spawn_shell(launch).map_err(failed)?;
        let (watched, gone) = channel();
        let pid = introduce(&mut shell, watched).ok_or_else(|| {
            // Its lifeline is gone with this failure, so it stops what it may have started.
            let _ = shell.wait();
            ServersError::Start {
                server: launch.server,
                why: "its supervisor said nothing".to_owned(),
                log: String::new(),
            }
        })?;
        Ok(Self {
            server: launch.server,
            stop: launch.stop,
            shell,
            pid,
            gone: Mutex::new(gone),
        })
    }

    /// The server's process id (not the supervisor's).
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Waits for at most `limit` until every process of the server is gone; says whether it is.
    pub(crate) fn wait_gone(&self, limit: Duration) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
    }

    /// Sends a signal, then waits as [`Self::wait_gone`].
    pub(crate) fn end_by(&self, signal: Signal, limit: Duration) -> bool {
        // Not when it is gone: by then its pid may belong to somebody else.
        if self.wait_gone(Duration::ZERO) {
            return true;
        }
        let _ = kill(self.pid, signal);
        self.wait_gone(limit)
    }

    /// Stops the server: in order, else hard, else with SIGKILL.
    pub(crate) fn stop(&mut self) -> Result<(), ServersError> {
        let ended = self.end_by(self.stop, PATIENCE)
            || self.end_by(Signal::SIGQUIT, IMPATIENCE)
            || self.end_by(Signal::SIGKILL, IMPATIENCE);
        if !ended {
            return Err(ServersError::Stop {
                server: self.server,
                pid: self.pid(),
            });
        }
        self.status();
        Ok(())
    }

    /// How the server ended. To be asked when it is gone, else it waits.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.shell.wait().ok()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a server did not stop");
        }
    }
}

fn spawn_shell(launch: &Launch) -> std::io::Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", SUPERVISOR, "codelab-supervisor"])
        // `kill -s` wants the name without its prefix.
        .arg(launch.stop.as_str().trim_start_matches("SIG"))
        .arg(launch.scratch)
        .args(&launch.command)
        .env_clear()
        .envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("LC_ALL", "C")
        .current_dir("/")
        // Ctrl-C goes to the terminal's process group: we want to stop the server after our work.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(launch.log.try_clone()?);
    launch.account.apply(&mut shell);
    shell.spawn()
}

/// Learns the server's pid and begins to watch it.
fn introduce(shell: &mut Child, watched: Sender<()>) -> Option<Pid> {
    let lifeline = shell.stdin.take()?;
    let mut server = BufReader::new(shell.stdout.take()?);
    let mut pid = String::new();
    server.read_line(&mut pid).ok()?;
    let pid = pid.trim().parse().ok()?;
    let watch = move || watch(server, lifeline, watched);
    std::thread::Builder::new()
        .name("server-watch".to_owned())
        .spawn(watch)
        .ok()?;
    Some(Pid::from_raw(pid))
}

/// Holds the lifeline until the server is gone. Takes its arguments to drop them here.
fn watch(mut server: impl Read, mut lifeline: ChildStdin, watched: Sender<()>) {
    let _ = std::io::copy(&mut server, &mut std::io::sink());
    let _ = lifeline.write_all(b"gone\n");
    drop(watched);
}
