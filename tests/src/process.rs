//! Real processes: the `codelab` binary as a person or a deployment starts it.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

/// Longest wait for a process to say or do something; machines under load are slow.
const LIMIT: Duration = Duration::from_mins(1);

/// What a process may know of its surroundings: how to find programs, and nothing that configures it.
const INHERITED: [&str; 6] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CODELAB_PG_BIN",
    "CODELAB_NO_INSTALL",
];

/// What a process may know of its surroundings, with the values of here.
pub fn surroundings() -> impl Iterator<Item = (&'static str, OsString)> {
    INHERITED
        .iter()
        .filter_map(|name| Some((*name, env::var_os(name)?)))
}

/// The binary, built once with the profile of the tests. Blocks.
pub fn codelab() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

fn build() -> PathBuf {
    // .../target/debug/deps/it-0123456789abcdef, or .../target/debug/chaos
    let program = env::current_exe().expect("a program knows its own file");
    let profile = program
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name() != Some(OsStr::new("deps")))
        .expect("a program is in target/<profile>");
    let target = profile.parent().expect("a profile is in the target folder");
    let mut cargo =
        std::process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "codelab",
            "--features",
            "faults",
            "--target-dir",
        ])
        .arg(target);
    if profile.file_name() == Some(OsStr::new("release")) {
        cargo.arg("--release");
    }
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the binary builds");
    profile.join("codelab")
}

/// What a process has complained of. How long a statement or a new connection takes says something of the machine, not of us.
pub fn complaints(said: &str) -> Vec<&str> {
    said.lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .filter(|line| !line.contains("slow statement") && !line.contains("slow threshold"))
        .collect()
}

/// A running `codelab`; killed when dropped.
#[derive(Debug)]
pub struct Codelab {
    child: Child,
    lines: UnboundedReceiver<String>,
    said: Vec<String>,
}

impl Codelab {
    /// Starts it with these arguments and variables and no others, in a folder.
    pub async fn start(arguments: &[&str], variables: &[(&str, &str)], folder: &Path) -> Self {
        let binary = tokio::task::spawn_blocking(codelab)
            .await
            .expect("no panic");
        let mut child = Command::new(binary)
            .args(arguments)
            .env_clear()
            .envs(surroundings())
            .envs(variables.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let (sender, lines) = unbounded_channel();
        tokio::spawn(read_lines(
            child.stdout.take().expect("it is piped"),
            sender.clone(),
        ));
        tokio::spawn(read_lines(
            child.stderr.take().expect("it is piped"),
            sender,
        ));
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits for a line with these words, on either stream; gives the whole line.
    pub async fn says(&mut self, words: &str) -> String {
        if let Some(line) = self.said.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        let found = timeout(LIMIT, async {
            while let Some(line) = self.lines.recv().await {
                self.said.push(line.clone());
                if line.contains(words) {
                    return Some(line);
                }
            }
            None
        });
        let found = found
            .await
            .map_err(|_| "it did not say in time")
            .and_then(|found| found.ok_or("it ended without saying"));
        found.unwrap_or_else(|why| panic!("{why}: {words:?}; it said:\n{}", self.said.join("\n")))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it still runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal)
            .expect("the signal is sent");
    }

    /// Waits for its end; how it ended and all that it said.
    pub async fn ends(mut self) -> (ExitStatus, String) {
        let ended = timeout(LIMIT, self.child.wait()).await;
        let Ok(ended) = ended else {
            panic!("it did not end in time:\n{}", self.said.join("\n"))
        };
        while let Ok(Some(line)) = timeout(LIMIT, self.lines.recv()).await {
            self.said.push(line);
        }
        (ended.expect("its end is known"), self.said.join("\n"))
    }

    /// Starts it and waits for its end.
    pub async fn run(
        arguments: &[&str],
        variables: &[(&str, &str)],
        folder: &Path,
    ) -> (ExitStatus, String) {
        Self::start(arguments, variables, folder).await.ends().await
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, to: UnboundedSender<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The test has seen enough.
        let _ = to.send(line);
    }
}
