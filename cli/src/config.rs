//! The settings: environment variables, read once, checked together, explained in `--help`.
//!
//! One table names every variable; reading one that the table does not name is a test failure, so that help and code
//! cannot drift apart. Secrets are never flags: a command line can be read by every user of the machine.

use std::{
    fmt::{self, Write},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use engine::store::RunLimits;
use reqwest::Url;
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;
use worker::tool::Network;

/// Shortest secret that may sign tokens, in bytes: below it HS256 can be guessed.
const SECRET_BYTES: usize = 32;

/// A variable: its name, what holds without it, what it is for.
pub(crate) struct Variable(pub(crate) &'static str, &'static str, &'static str);

/// Every variable that is read.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable(
        "DATABASE_URL",
        "up: a Postgres of its own",
        "Postgres, the only thing that must be there: postgres://user:password@host/database",
    ),
    Variable(
        "REDIS_URL",
        "none",
        "carries token deltas between processes; everything works without",
    ),
    Variable("OPENAI_API_KEY", "none", "key for models named openai/..."),
    Variable(
        "OPENAI_BASE_URL",
        "https://api.openai.com/v1",
        "any server that speaks Chat Completions",
    ),
    Variable(
        "CODELAB_LISTEN",
        "127.0.0.1:8080",
        "address of the API (--listen)",
    ),
    Variable(
        "CODELAB_DATA_DIR",
        ".codelab",
        "folder of `up`: its Postgres and its signing secret (--data-dir)",
    ),
    Variable(
        "CODELAB_JWT_SECRET",
        "up: made and kept",
        "signs and checks tokens (HS256), 32 bytes or more",
    ),
    Variable(
        "CODELAB_JWKS_URL",
        "none",
        "keys of your identity provider, instead of the secret",
    ),
    Variable("CODELAB_JWT_ISSUER", "any", "`iss` that tokens must have"),
    Variable(
        "CODELAB_JWT_AUDIENCE",
        "none",
        "`aud` that tokens must name; unset: they must have none",
    ),
    Variable(
        "CODELAB_DEFAULT_MODEL",
        "scripted/default",
        "model of agents that name none: provider/model",
    ),
    Variable(
        "CODELAB_WORKER_CONCURRENCY",
        "64",
        "steps that a worker process runs at once",
    ),
    Variable(
        "CODELAB_LEASE_SECONDS",
        "30",
        "how long a claim lasts without a renewal",
    ),
    Variable(
        "CODELAB_ATTEMPT_TIMEOUT_SECONDS",
        "300",
        "longest single run of a step; then it is tried again",
    ),
    Variable(
        "CODELAB_STEP_TIMEOUT_SECONDS",
        "600",
        "longest time that a step's runs may take together; then it has failed",
    ),
    Variable(
        "CODELAB_RETRY_FOR_SECONDS",
        "900",
        "how long a step bears with a provider that is down or limits it",
    ),
    Variable(
        "CODELAB_APPROVAL_TIMEOUT_SECONDS",
        "300",
        "how long a person has for an answer",
    ),
    Variable(
        "CODELAB_EVENT_RETENTION_DAYS",
        "30",
        "how long events are kept; who was away for longer reads the snapshot",
    ),
    Variable(
        "CODELAB_STREAMS_PER_USER",
        "1000",
        "event streams that one person may have open in a process",
    ),
    Variable(
        "CODELAB_MAX_CONNECTIONS",
        "12000",
        "connections of an API process at once, streams included; fewer where the system allows fewer files",
    ),
    Variable(
        "CODELAB_EGRESS_ALLOW",
        "none",
        "networks that tools may reach beside public addresses: 10.0.0.0/8,127.0.0.1",
    ),
    Variable(
        "CODELAB_PLANNING_TIMEOUT_SECONDS",
        "5",
        "longest time for planning; then a simple plan goes ahead",
    ),
    Variable(
        "CODELAB_DB_POOL_MIN",
        "10",
        "connections that the API keeps open",
    ),
    Variable(
        "CODELAB_DB_POOL_MAX",
        "50",
        "connections that the API opens at most",
    ),
    Variable(
        "CODELAB_LOG",
        "info; up: warn",
        "what is logged to stderr: info, debug, codelab_engine=debug,warn ...",
    ),
    Variable("CODELAB_LOG_FORMAT", "text", "text or json"),
    Variable(
        "CODELAB_PG_BIN",
        "found",
        "folder of `postgres` and `initdb` for `up` and `demo`",
    ),
    Variable(
        "CODELAB_NO_INSTALL",
        "unset",
        "1: `up` and `demo` must not install Postgres when there is none",
    ),
];

/// What a command cannot do without.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    /// `DATABASE_URL`.
    pub(crate) database: bool,
    /// A way to check tokens.
    pub(crate) tokens: bool,
}

/// The settings, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Postgres, where it is not `up`'s own.
    pub(crate) database_url: Option<String>,
    /// Redis, if any.
    pub(crate) redis: Option<redis::Client>,
    /// Key for `openai/...`.
    pub(crate) openai_api_key: Option<SecretString>,
    /// Address for `openai/...`.
    pub(crate) openai_base_url: Option<String>,
    /// Address of the API.
    pub(crate) listen: String,
    /// Folder of `up`.
    pub(crate) data_dir: PathBuf,
    /// Signs tokens.
    pub(crate) jwt_secret: Option<SecretString>,
    /// Keys of an identity provider.
    pub(crate) jwks_url: Option<Url>,
    /// `iss` of tokens.
    pub(crate) jwt_issuer: Option<String>,
    /// `aud` of tokens.
    pub(crate) jwt_audience: Option<String>,
    /// `provider/model`.
    pub(crate) default_model: String,
    /// Steps at once.
    pub(crate) worker_concurrency: usize,
    /// Length of a lease.
    pub(crate) lease: Duration,
    /// How long things may last.
    pub(crate) limits: RunLimits,
    /// Where tools may reach, beside public addresses.
    pub(crate) egress: Vec<Network>,
    /// Longest time for planning.
    pub(crate) planning_timeout: Duration,
    /// Streams of one person.
    pub(crate) streams_per_user: usize,
    /// Connections to the API.
    pub(crate) max_connections: usize,
    /// Connections of the API: kept open. None: not set.
    pub(crate) db_pool_min: Option<u32>,
    /// Connections of the API: at most.
    pub(crate) db_pool_max: u32,
    /// What is logged.
    pub(crate) log: LogSettings,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogSettings {
    /// A filter as `tracing-subscriber` reads it; none: the command's own default.
    pub(crate) filter: Option<String>,
    /// One JSON object a line.
    pub(crate) json: bool,
}

/// What is wrong with the settings, each thing in a line of plain words.
#[derive(Debug)]
pub(crate) struct Invalid(pub(crate) Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are not valid:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Invalid {}

/// What the command line says about settings; it wins over the environment.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// Address of the API
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Folder of `up`: its Postgres and its signing secret
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The table for `codelab --help`.
pub(crate) fn help() -> String {
    let mut text = "Settings are environment variables; flags win over them:\n".to_owned();
    for Variable(name, default, what) in VARIABLES {
        // Writing to a string cannot fail.
        let _ = write!(text, "  {name}\n          {what} [default: {default}]\n");
    }
    text
}

impl Settings {
    /// Reads and checks all; every problem is in the error.
    pub(crate) fn read(
        flags: &Flags,
        needs: Needs,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Invalid> {
        let mut reader = Reader {
            lookup: &lookup,
            problems: Vec::new(),
        };
        let settings = reader.settings(flags);
        reader.check_together(&settings, needs);
        if reader.problems.is_empty() {
            Ok(settings)
        } else {
            Err(Invalid(reader.problems))
        }
    }

    /// Which vendors of models there are.
    pub(crate) fn vendors(&self) -> worker::llm::RouterConfig {
        worker::llm::RouterConfig {
            openai_api_key: self.openai_api_key.clone(),
            openai_base_url: self.openai_base_url.clone(),
            ..worker::llm::RouterConfig::default()
        }
    }
}

/// Collects problems while it reads.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn settings(&mut self, flags: &Flags) -> Settings {
        let listen = flags.listen.clone().or_else(|| self.text("CODELAB_LISTEN"));
        let data_dir = flags
            .data_dir
            .clone()
            .or_else(|| self.text("CODELAB_DATA_DIR").map(PathBuf::from));
        Settings {
            database_url: self
                .url("DATABASE_URL", &["postgres", "postgresql"])
                .map(|(text, _)| text),
            redis: self.redis(),
            openai_api_key: self.text("OPENAI_API_KEY").map(SecretString::from),
            openai_base_url: self
                .url("OPENAI_BASE_URL", &["http", "https"])
                .map(|(text, _)| text),
            listen: self.address(listen.as_deref().unwrap_or("127.0.0.1:8080")),
            data_dir: data_dir.unwrap_or_else(|| PathBuf::from(".codelab")),
            jwt_secret: self.secret("CODELAB_JWT_SECRET"),
            jwks_url: self
                .url("CODELAB_JWKS_URL", &["http", "https"])
                .map(|(_, url)| url),
            jwt_issuer: self.text("CODELAB_JWT_ISSUER"),
            jwt_audience: self.text("CODELAB_JWT_AUDIENCE"),
            default_model: self
                .text("CODELAB_DEFAULT_MODEL")
                .unwrap_or_else(|| "scripted/default".to_owned()),
            worker_concurrency: self
                .number("CODELAB_WORKER_CONCURRENCY", 1, 10_000)
                .unwrap_or(64),
            lease: self.seconds("CODELAB_LEASE_SECONDS", 3, 3_600, 30),
            limits: RunLimits {
                run: self.seconds("CODELAB_ATTEMPT_TIMEOUT_SECONDS", 1, 86_400, 300),
                step: self.seconds("CODELAB_STEP_TIMEOUT_SECONDS", 1, 86_400, 600),
                patience: self.seconds("CODELAB_RETRY_FOR_SECONDS", 0, 86_400, 900),
                card: self.seconds("CODELAB_APPROVAL_TIMEOUT_SECONDS", 1, 86_400, 300),
                events: self.days("CODELAB_EVENT_RETENTION_DAYS", 1, 3650, 30),
            },
            egress: self.networks("CODELAB_EGRESS_ALLOW"),
            planning_timeout: self.seconds("CODELAB_PLANNING_TIMEOUT_SECONDS", 1, 600, 5),
            streams_per_user: self
                .number("CODELAB_STREAMS_PER_USER", 1, 1_000_000)
                .unwrap_or(1000),
            max_connections: self
                .number("CODELAB_MAX_CONNECTIONS", 10, 1_000_000)
                .unwrap_or(12_000),
            db_pool_min: self.number("CODELAB_DB_POOL_MIN", 0, 10_000),
            db_pool_max: self.number("CODELAB_DB_POOL_MAX", 1, 10_000).unwrap_or(50),
            log: self.log(),
        }
    }

    fn networks(&mut self, name: &'static str) -> Vec<Network> {
        let text = self.text(name).unwrap_or_default();
        let mut networks = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.parse() {
                Ok(network) => networks.push(network),
                Err(problem) => self.problems.push(format!("{name}: {problem}")),
            }
        }
        networks
    }

    /// What single variables cannot say.
    fn check_together(&mut self, settings: &Settings, needs: Needs) {
        // A variable that is set but wrong has its line already.
        if needs.database && self.text("DATABASE_URL").is_none() {
            self.problems
                .push("DATABASE_URL is not set: say where Postgres is, or use `codelab up`, which brings its own".to_owned());
        }
        let (secret, keys) = (
            self.text("CODELAB_JWT_SECRET").is_some(),
            self.text("CODELAB_JWKS_URL").is_some(),
        );
        if secret && keys {
            self.problems
                .push("CODELAB_JWT_SECRET and CODELAB_JWKS_URL are both set: tokens are checked by one of them".to_owned());
        }
        if needs.tokens && !secret && !keys {
            self.problems
                .push("neither CODELAB_JWT_SECRET nor CODELAB_JWKS_URL is set: one is needed to check tokens".to_owned());
        }
        if let Some(min) = settings
            .db_pool_min
            .filter(|min| *min > settings.db_pool_max)
        {
            self.problems.push(format!(
                "CODELAB_DB_POOL_MIN={min} is more than CODELAB_DB_POOL_MAX={}",
                settings.db_pool_max
            ));
        }
        if let Err(error) = worker::llm::Router::new(settings.vendors())
            .and_then(|router| router.for_model(&settings.default_model))
        {
            self.problems.push(format!(
                "CODELAB_DEFAULT_MODEL={}: {error}",
                settings.default_model
            ));
        }
    }

    /// Blank counts as absent: `REDIS_URL=` in a compose file means none.
    fn text(&self, name: &'static str) -> Option<String> {
        debug_assert!(
            VARIABLES.iter().any(|variable| variable.0 == name),
            "{name} is read but not in the table"
        );
        (self.lookup)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn redis(&mut self) -> Option<redis::Client> {
        let (text, _) = self.url("REDIS_URL", &["redis", "redis+unix", "unix"])?;
        let client = redis::Client::open(text);
        client
            .inspect_err(|error| {
                self.problems
                    .push(format!("REDIS_URL is not usable: {error}"));
            })
            .ok()
    }

    fn log(&mut self) -> LogSettings {
        let filter = self.text("CODELAB_LOG").map(|text| {
            if is_level(&text) {
                crate::log::of_ours(&text)
            } else {
                text
            }
        });
        let json = self.text("CODELAB_LOG_FORMAT");
        if let Some(Err(error)) = filter.as_deref().map(EnvFilter::try_new) {
            self.problems.push(format!("CODELAB_LOG is not a filter ({error}); try info, debug, or codelab_engine=debug,warn"));
        }
        if !matches!(json.as_deref(), None | Some("text" | "json")) {
            self.problems.push(format!(
                "CODELAB_LOG_FORMAT is {:?}; it has to be text or json",
                json.as_deref().unwrap_or("")
            ));
        }
        LogSettings {
            filter,
            json: json.as_deref() == Some("json"),
        }
    }

    /// The value is not repeated: it may hold a password.
    fn url(&mut self, name: &'static str, schemes: &[&str]) -> Option<(String, Url)> {
        let text = self.text(name)?;
        let schemes_said = schemes.join(":// or ");
        match Url::parse(&text) {
            Ok(url) if schemes.contains(&url.scheme()) => return Some((text, url)),
            Ok(url) => {
                self.problems.push(format!(
                    "{name} begins with {}://; it has to begin with {schemes_said}://",
                    url.scheme()
                ));
            }
            Err(error) => self.problems.push(format!(
                "{name} is not a URL ({error}); it has to begin with {schemes_said}://"
            )),
        }
        None
    }

    fn address(&mut self, text: &str) -> String {
        let port = text
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| u16::from_str(port).ok());
        if port.is_none() {
            self.problems.push(format!(
                "CODELAB_LISTEN (--listen) is {text:?}; it has to be an address and a port, such as 127.0.0.1:8080"
            ));
        }
        text.to_owned()
    }

    fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        let text = self.text(name)?;
        if text.len() < SECRET_BYTES {
            self.problems.push(format!(
                "{name} has {} bytes; it needs {SECRET_BYTES} or more (try: openssl rand -hex 32)",
                text.len()
            ));
        }
        Some(SecretString::from(text))
    }

    fn number<N>(&mut self, name: &'static str, least: N, most: N) -> Option<N>
    where
        N: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let text = self.text(name)?;
        match text.parse::<N>() {
            Ok(number) if number >= least && number <= most => return Some(number),
            _ => self.problems.push(format!(
                "{name} is {text:?}; it has to be a whole number from {least} to {most}"
            )),
        }
        None
    }

    fn seconds(&mut self, name: &'static str, least: u64, most: u64, default: u64) -> Duration {
        Duration::from_secs(self.number(name, least, most).unwrap_or(default))
    }

    fn days(&mut self, name: &'static str, least: u64, most: u64, default: u64) -> Duration {
        Duration::from_hours(24 * self.number(name, least, most).unwrap_or(default))
    }
}

/// A level alone is meant for our own words; everybody else's debug lines would drown them.
fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    fn read(needs: Needs, variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        engine::install_crypto();
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&Flags::default(), needs, lookup).map_err(|invalid| invalid.0)
    }

    #[test]
    fn nothing_set_is_what_up_needs() {
        let settings = read(Needs::default(), &[("REDIS_URL", " ")]).expect("defaults are valid");
        assert_eq!(settings.listen, "127.0.0.1:8080");
        assert!(settings.redis.is_none());
    }

    #[test]
    fn all_problems_are_told_at_once_and_no_password() {
        let problems = read(
            Needs {
                database: true,
                tokens: true,
            },
            &[
                ("DATABASE_URL", "mysql://me:hunter2@db/x"),
                ("CODELAB_LISTEN", "8080"),
                ("CODELAB_JWT_SECRET", "short"),
                ("CODELAB_LEASE_SECONDS", "soon"),
                ("CODELAB_DB_POOL_MIN", "60"),
                ("CODELAB_DEFAULT_MODEL", "openai/gpt-5"),
            ],
        )
        .expect_err("six problems");
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(!problems.concat().contains("hunter2"));
    }

    #[test]
    fn the_tiers_say_what_they_miss() {
        let problems = read(
            Needs {
                database: true,
                tokens: true,
            },
            &[],
        )
        .expect_err("two problems");
        assert_eq!(problems.len(), 2, "{problems:#?}");
    }

    #[test]
    fn help_names_every_variable() {
        let help = help();
        assert!(VARIABLES.iter().all(|variable| help.contains(variable.0)));
    }
}
