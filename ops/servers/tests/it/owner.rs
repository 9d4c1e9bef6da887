//! Another process that owns a server: this test program, started once more for one "test".

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use codelab_servers::{Postgres, Redis};

use crate::story::careless;

const ROLE: &str = "CODELAB_TEST_OWNS";

/// The other process. Killed when dropped.
pub(crate) struct Owner {
    process: Child,
    /// The server's pid.
    pub(crate) server: u32,
    /// Its URL, or the error if it did not start.
    pub(crate) said: String,
}

impl Owner {
    /// Starts an owner of a `postgres` on a folder, a `throwaway` or a `redis`, and waits for it.
    pub(crate) fn of(role: &str, folder: &Path, environment: &[(&str, &str)]) -> Self {
        let mut process = spawn(role, folder, environment);
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let said = lines
            .find_map(|line| Some(line.split_once("OWNER ")?.1.to_owned()))
            .unwrap();
        let (pid, said) = said.split_once(' ').unwrap();
        Self {
            process,
            server: pid.parse().unwrap(),
            said: said.to_owned(),
        }
    }

    /// SIGKILL, at once.
    pub(crate) fn kill_9(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts an owner without waiting for its server.
pub(crate) fn spawn(role: &str, folder: &Path, environment: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner::body", "--nocapture"])
        .env(ROLE, format!("{role} {}", folder.display()))
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the other process does. In an ordinary run: nothing.
#[test]
fn body() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (role, folder) = role.split_once(' ').unwrap();
    match role {
        "postgres" => own(&Postgres::start(careless(Path::new(folder))), |it| {
            (it.pid(), it.url("postgres"))
        }),
        "throwaway" => own(&Postgres::start_throwaway(20, Vec::new()), |it| {
            (it.pid(), it.url("postgres"))
        }),
        "redis" => own(&Redis::start(0), |it| (it.pid(), it.url())),
        other => panic!("no role {other}"),
    }
}

#[expect(clippy::print_stdout, reason = "the way to tell the parent")]
fn own<T, E: ToString>(server: &Result<T, E>, describe: impl Fn(&T) -> (u32, String)) {
    let (pid, said) = server
        .as_ref()
        .map_or_else(|error| (0, error.to_string()), describe);
    println!("OWNER {pid} {said}");
    // Until we are killed.
    let _ = std::io::stdin().lines().count();
}
