//! A private Redis without persistence, owned by this process. For tests: `up` needs none.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::ServersError;
use crate::account::Account;
use crate::find::Search;
use crate::place;
use crate::postgres::{open_log, quote_log};
use crate::supervisor::{Launch, Supervised};

/// Free ports are looked for here, below the range from which systems take ports of outgoing
/// connections: one of those could take the port between a kill and the next start, and a client
/// that reconnects to a dead port of that range can even meet itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How many ports are tried before giving up.
const ATTEMPTS: usize = 50;

/// How long a server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at a starting server.
const POLL: Duration = Duration::from_millis(3);

/// A running Redis on a loopback port. Dropping it stops it.
pub struct Redis {
    // Dropped in this order: the server, then its folder.
    server: Option<Supervised>,
    scratch: TempDir,
    account: Account,
    program: PathBuf,
    port: u16,
}

impl Redis {
    /// Starts a Redis on `port`, or on a free one if that is 0, and waits until it answers.
    /// Installs Redis if the machine has none.
    pub fn start(port: u16) -> Result<Self, ServersError> {
        let program = Search::everywhere().redis()?;
        let account = Account::choose(Path::new("/nonexistent"))?;
        account.must_use(&program)?;
        let scratch = place::scratch(&account)?;
        let mut redis = Self {
            server: None,
            scratch,
            account,
            program,
            port,
        };
        let ports = std::iter::repeat_with(|| fastrand::u16(PORTS)).filter(|port| is_free(*port));
        let ports = if port == 0 {
            ports.take(ATTEMPTS).collect()
        } else {
            vec![port]
        };
        let mut outcome = Err(Self::failed("no free port".to_owned(), String::new()));
        for port in ports {
            redis.port = port;
            outcome = redis.start_again();
            // Another process may have taken the port since we looked.
            if !matches!(&outcome, Err(ServersError::Start { log, .. }) if log.contains("in use")) {
                break;
            }
        }
        outcome.map(|()| redis)
    }

    /// `redis://127.0.0.1:PORT/`, the same for the life of this value.
    pub fn url(&self) -> String {
        format!("redis://{}:{}/", Ipv4Addr::LOCALHOST, self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server; 0 when it is stopped.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Supervised::pid)
    }

    /// Kills the server (SIGKILL). Its data is lost, as always with this Redis.
    pub fn kill(&mut self) -> Result<(), ServersError> {
        self.server
            .take()
            .map_or(Ok(()), |mut server| server.stop())
    }

    /// Starts the server after [`Self::kill`], empty and on the same port. Does
    /// nothing while it runs.
    pub fn start_again(&mut self) -> Result<(), ServersError> {
        if self
            .server
            .as_ref()
            .is_some_and(|server| !server.wait_gone(Duration::ZERO))
        {
            return Ok(());
        }
        self.server = None;
        let path = self.scratch.path().join("redis.log");
        let (log, begin) = open_log(&path)?;
        let mut server = self.launch(log)?;
        self.wait_ready(&mut server)
            .map_err(|why| Self::failed(why, quote_log(&path, begin)))?;
        self.server = Some(server);
        Ok(())
    }

    fn launch(&self, log: std::fs::File) -> Result<Supervised, ServersError> {
        let port = self.port.to_string();
        let mut command: Vec<OsString> = vec![self.program.clone().into()];
        command.extend(["--port", &port, "--bind", "127.0.0.1"].map(OsString::from));
        command.extend(["--save", "", "--appendonly", "no", "--dir"].map(OsString::from));
        command.push(self.scratch.path().into());
        Supervised::launch(&Launch {
            server: "Redis",
            account: &self.account,
            log,
            // In order it would take 100 ms, with nothing to save.
            stop: Signal::SIGKILL,
            scratch: self.scratch.path(),
            command,
        })
    }

    fn wait_ready(&self, server: &mut Supervised) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < START_LIMIT {
            if answering_pid(self.port) == Some(server.pid()) {
                return Ok(());
            }
            if server.wait_gone(POLL) {
                let status = server
                    .status()
                    .map_or_else(String::new, |status| status.to_string());
                return Err(format!("it ended at once with {status}"));
            }
        }
        Err(format!(
            "it did not answer within {} s",
            START_LIMIT.as_secs()
        ))
    }

    fn failed(why: String, log: String) -> ServersError {
        ServersError::Start {
            server: "Redis",
            why,
            log,
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Who answers on a port. A mere PING would also be answered by a stranger's Redis there.
fn answering_pid(port: u16) -> Option<u32> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    // `QUIT` makes the server close, so that the answer has an end.
    stream.write_all(b"INFO server\r\nQUIT\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer
        .lines()
        .find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok())
}
