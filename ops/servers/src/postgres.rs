//! A private Postgres, owned by this process.

mod cluster;
mod wire;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::cluster::Making;
pub(crate) use self::cluster::{open_log, quote_log};
use self::wire::{Answer, WireError};
use crate::ServersError;
use crate::account::Account;
use crate::find::{Installation, Search};
use crate::place::{self, Home};
use crate::supervisor::{Launch, Supervised};

/// How long a server may be silent after its start.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How long it may repair its data after a crash, which it does at some 100 MB/s of its log.
const RECOVERY_LIMIT: Duration = Duration::from_mins(10);

/// Between two looks at a starting server.
const POLL: Duration = Duration::from_millis(3);

/// How often a start is tried when remains of a killed predecessor are in its way, and the pause.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// What Postgres says about such remains: backends that have not noticed yet, or a predecessor
/// that was started but had not written its pid file when we looked.
const REMAINS: [&str; 2] = [
    "pre-existing shared memory block",
    "lock file \"postmaster.pid\" already exists",
];

/// What holds for every cluster. One machine, one owner: no replication, hence the smallest log.
const SETTINGS: [(&str, &str); 6] = [
    ("listen_addresses", ""),
    ("shared_buffers", "128MB"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("checkpoint_timeout", "15min"),
    ("max_wal_size", "2GB"),
];

/// What makes tests fast and a power cut fatal.
const CARELESS: [(&str, &str); 3] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
];

/// Where a private cluster lives and how careful it is.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// A new or empty folder, or one used before. Its parents are made if missing.
    pub data_dir: PathBuf,
    /// Whether committed data survives a power cut. `false` is for tests; it survives a crash of
    /// the server all the same.
    pub durable: bool,
    /// Postgres' `max_connections`.
    pub max_connections: u16,
    /// Further settings (name, value); they win over ours.
    pub settings: Vec<(String, String)>,
}

/// A running Postgres. Dropping it stops it.
pub struct Postgres {
    // Dropped in this order: the server, its sockets, the lock of its folder.
    server: Option<Supervised>,
    scratch: TempDir,
    home: Home,
    account: Account,
    installation: Installation,
    /// `-c name=value ...`
    settings: Vec<OsString>,
    /// Ends the server: SIGINT in order, SIGQUIT when its data goes anyway.
    stop: Signal,
}

impl PostgresOptions {
    /// A durable cluster in `data_dir` with 100 connections.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            durable: true,
            max_connections: 100,
            settings: Vec::new(),
        }
    }
}

impl Postgres {
    /// Starts a cluster and waits until it takes queries. Makes it at the first start; installs
    /// Postgres if the machine has none. Ends the server of an earlier owner that was killed.
    pub fn start(options: PostgresOptions) -> Result<Self, ServersError> {
        let home = Home::open(&options.data_dir)?;
        let (installation, account) = equip(&home.cluster())?;
        let scratch = place::scratch(&account)?;
        Self::run(
            options,
            home,
            installation,
            account,
            scratch,
            Signal::SIGINT,
        )
    }

    /// Starts a new careless cluster in a temporary folder, which goes when the server goes:
    /// also when this process is killed, or ends without dropping its statics as tests do. The
    /// folder is in `TMPDIR` if that is short and open to the server's user, else in `/tmp`.
    pub fn start_throwaway(
        max_connections: u16,
        settings: Vec<(String, String)>,
    ) -> Result<Self, ServersError> {
        let (installation, account) = equip(Path::new("/nonexistent"))?;
        let scratch = place::scratch(&account)?;
        let home = Home::throwaway(scratch.path());
        let data_dir = home.cluster();
        let options = PostgresOptions {
            data_dir,
            durable: false,
            max_connections,
            settings,
        };
        Self::run(
            options,
            home,
            installation,
            account,
            scratch,
            Signal::SIGQUIT,
        )
    }

    fn run(
        options: PostgresOptions,
        mut home: Home,
        installation: Installation,
        account: Account,
        scratch: TempDir,
        stop: Signal,
    ) -> Result<Self, ServersError> {
        home.admit(&account)?;
        cluster::ensure(&Making {
            home: &home,
            installation: &installation,
            account: &account,
            scratch: scratch.path(),
            durable: options.durable,
        })?;
        cluster::make_private(&home.cluster())?;
        let settings = arguments(options, scratch.path());
        let mut postgres = Self {
            server: None,
            scratch,
            home,
            account,
            installation,
            settings,
            stop,
        };
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Starts the server after [`Self::crash`] or [`Self::stop`], at the same [`Self::url`]. Does
    /// nothing while it runs.
    pub fn start_again(&mut self) -> Result<(), ServersError> {
        if self.is_running() {
            return Ok(());
        }
        self.server = None;
        let mut attempts = 1..=ATTEMPTS;
        loop {
            attempts.next();
            cluster::end_leftover(&self.home.cluster(), self.scratch.path())?;
            let (log, begin) = open_log(&self.home.log())?;
            let mut server = self.launch(log)?;
            let Err(why) = self.wait_ready(&mut server) else {
                self.server = Some(server);
                return Ok(());
            };
            drop(server);
            let said = cluster::read_log(&self.home.log(), begin);
            if attempts.is_empty() || !REMAINS.iter().any(|remains| said.contains(remains)) {
                let log = quote_log(&self.home.log(), begin);
                return Err(ServersError::Start {
                    server: "Postgres",
                    why,
                    log,
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A URL for `database`, by the private unix socket: for sqlx, psql and everything on libpq.
    ///
    /// The same until this value is dropped; another start of the same folder has another URL.
    pub fn url(&self, database: &str) -> String {
        let sockets = self.scratch.path().to_string_lossy();
        // Everything explicit, since clients fill gaps from PGPORT, PGUSER and PGSSLMODE.
        format!(
            "postgres:///{}?host={}&port={}&user={}&sslmode=disable",
            escape(database),
            escape(&sockets),
            wire::PORT,
            wire::USER
        )
    }

    /// Creates a database, by default from `template1`, unless one of that name exists.
    ///
    /// `name` and `template` consist of 1 to 63 of `A-Z a-z 0-9 _ -`. Postgres refuses a template
    /// that has open connections.
    pub fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), ServersError> {
        let template = template.unwrap_or("template1");
        if let Some(bad) = [name, template]
            .into_iter()
            .find(|name| !is_plain_name(name))
        {
            return Err(ServersError::BadName {
                name: bad.to_owned(),
            });
        }
        let sql = format!("create database \"{name}\" template \"{template}\"");
        match wire::execute(self.scratch.path(), &sql) {
            Err(WireError::Server { code, .. }) if is_duplicate(&code) => Ok(()),
            Err(error) => Err(ServersError::CreateDatabase {
                name: name.to_owned(),
                why: error.to_string(),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The process id of the postmaster; 0 when it is stopped.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Supervised::pid)
    }

    /// Whether the server runs: it has been started, and has not stopped or crashed since.
    pub fn is_running(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| !server.wait_gone(Duration::ZERO))
    }

    /// The folder of `postgres`, `initdb` and, on most systems, `psql`.
    pub fn bin_dir(&self) -> &Path {
        &self.installation.bin
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// Breaks the server off (SIGQUIT): clients are cut, nothing is written out, and the next
    /// start has to recover. For tests of what happens then.
    pub fn crash(&mut self) -> Result<(), ServersError> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        if server.end_by(Signal::SIGQUIT, Duration::from_secs(5)) {
            return Ok(());
        }
        server.stop()
    }

    /// Stops the server in order and waits; clients are cut. Harsher after 30 s.
    pub fn stop(&mut self) -> Result<(), ServersError> {
        self.server
            .take()
            .map_or(Ok(()), |mut server| server.stop())
    }

    fn launch(&self, log: std::fs::File) -> Result<Supervised, ServersError> {
        let mut command: Vec<OsString> = vec![self.installation.bin.join("postgres").into()];
        command.extend(["-D".into(), self.home.cluster().into()]);
        command.extend(self.settings.iter().cloned());
        Supervised::launch(&Launch {
            server: "Postgres",
            account: &self.account,
            log,
            stop: self.stop,
            scratch: self.scratch.path(),
            command,
        })
    }

    /// Waits until the server takes queries, or says why it will not.
    fn wait_ready(&self, server: &mut Supervised) -> Result<(), String> {
        let begin = Instant::now();
        let mut limit = SILENCE_LIMIT;
        while begin.elapsed() < limit {
            match wire::probe(self.scratch.path()) {
                Answer::Ready => return Ok(()),
                Answer::StartingUp => limit = RECOVERY_LIMIT,
                Answer::Silence => {}
            }
            if server.wait_gone(POLL) {
                let status = server
                    .status()
                    .map_or_else(String::new, |status| status.to_string());
                return Err(format!("it ended at once with {status}"));
            }
        }
        Err(format!("it took no connections for {} s", limit.as_secs()))
    }
}

/// Finds or installs Postgres, and the user to run it: in this order, since a package may bring
/// the user `postgres` with it.
fn equip(cluster: &Path) -> Result<(Installation, Account), ServersError> {
    let data = cluster::major(cluster).map(|major| (cluster, major));
    let installation = Search::everywhere().postgres(data)?;
    let account = Account::choose(cluster)?;
    account.must_use(&installation.bin.join("postgres"))?;
    Ok((installation, account))
}

fn arguments(options: PostgresOptions, sockets: &Path) -> Vec<OsString> {
    let careless = CARELESS.iter().filter(|_| !options.durable);
    let fixed = SETTINGS
        .iter()
        .chain(careless)
        .map(|(name, value)| format!("{name}={value}"));
    let ours = [
        format!("port={}", wire::PORT),
        format!("unix_socket_directories={}", sockets.display()),
        format!("max_connections={}", options.max_connections),
    ];
    let theirs = options
        .settings
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"));
    let all = fixed.chain(ours).chain(theirs);
    all.flat_map(|setting| [OsString::from("-c"), setting.into()])
        .collect()
}

/// Two may create it at the same moment: then it is there too, and a unique index says so.
fn is_duplicate(code: &str) -> bool {
    const DUPLICATE_DATABASE: &str = "42P04";
    const UNIQUE_VIOLATION: &str = "23505";
    [DUPLICATE_DATABASE, UNIQUE_VIOLATION].contains(&code)
}

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

/// Percent-encodes all but what a URL never changes, and slashes, which a query may hold.
fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_./".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}
