//! The store: the only place with SQL. Handler -> `Store` method -> one statement.
//!
//! Transitions (everything that writes plans, steps, waits, leases, places or events) are the functions in `sql/`.
//! They are installed into each connection's temporary schema when it opens: they belong to this program and not to the
//! database, so a deploy changes them atomically with the code that calls them, and two versions can run side by side
//! (ops/decisions/0002). Reads are inline.

mod agents;
pub mod claims;
mod consent;
mod context;
mod events;
mod explain;
mod journal;
pub(crate) mod notify;
mod plans;
mod sessions;
mod snapshot;
mod steer;
mod threads;
mod tickets;
mod tools;
mod transitions;
mod users;
mod waits;
mod workers;

use std::time::Duration;

use sqlx::{
    Connection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use consent::{ApprovalPolicy, Consents, Grant, NewGrant};
pub use context::{AgentContext, NeedResult, PlanContext, TeamMember};
pub use events::{Cursor, FeedBounds};
pub use journal::{Child, Written};
pub use plans::{Accepted, Cancelled, NewMessage, NewPlan};
pub use sessions::{Message, Session};
pub use snapshot::Snapshot;
pub use steer::{Edited, Held, Retried, Retry};
pub use threads::Thread;
pub use tickets::{Redeemed, Ticket};
pub use tools::NewTool;
pub use transitions::{Fenced, Finish, Turn};
pub use waits::{Approval, Reopened, Ruling};

use crate::{clock::Clock, error::StoreError, event::hints::Hints};

/// The transitions, in the order of their dependence.
pub const TRANSITIONS: &[(&str, &str)] = &[
    ("types", include_str!("sql/types.sql")),
    ("edge_met", include_str!("sql/edge_met.sql")),
    ("card", include_str!("sql/card.sql")),
    ("events_append", include_str!("sql/events_append.sql")),
    ("events_keep", include_str!("sql/events_keep.sql")),
    ("steps_insert", include_str!("sql/steps_insert.sql")),
    ("steps_admit", include_str!("sql/steps_admit.sql")),
    ("journal_put", include_str!("sql/journal_put.sql")),
    ("as_asked", include_str!("sql/as_asked.sql")),
    ("journal_write", include_str!("sql/journal_write.sql")),
    ("journal_text", include_str!("sql/journal_text.sql")),
    ("steps_settle", include_str!("sql/steps_settle.sql")),
    ("plans_count", include_str!("sql/plans_count.sql")),
    ("steps_cancel", include_str!("sql/steps_cancel.sql")),
    ("steps_take", include_str!("sql/steps_take.sql")),
    ("step_finish", include_str!("sql/step_finish.sql")),
    ("plan_accept", include_str!("sql/plan_accept.sql")),
    ("plan_cancel", include_str!("sql/plan_cancel.sql")),
    ("plan_edit", include_str!("sql/plan_edit.sql")),
    ("plan_pause", include_str!("sql/plan_pause.sql")),
    ("plan_resume", include_str!("sql/plan_resume.sql")),
    ("step_cancel", include_str!("sql/step_cancel.sql")),
    ("steps_revive", include_str!("sql/steps_revive.sql")),
    ("step_retry", include_str!("sql/step_retry.sql")),
    ("waits_close", include_str!("sql/waits_close.sql")),
    ("waits_warn", include_str!("sql/waits_warn.sql")),
    ("wait_reopen", include_str!("sql/wait_reopen.sql")),
    ("steps_due", include_str!("sql/steps_due.sql")),
    ("steps_tell", include_str!("sql/steps_tell.sql")),
    ("agents_admit", include_str!("sql/agents_admit.sql")),
    ("lease_renew", include_str!("sql/lease_renew.sql")),
    ("step_progress", include_str!("sql/step_progress.sql")),
];

/// The schema's migrations.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Plans and their data in Postgres. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    clock: Clock,
    hints: Hints,
    lease: Duration,
    limits: RunLimits,
}

/// How long things may last, by the database's clock, where a step or a plan does not say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// One run of a step (5 min).
    pub run: Duration,
    /// All runs of a step, waiting excluded (10 min, the first design's bound).
    pub step: Duration,
    /// How long passing trouble may keep a step from getting on (15 min: an outage of ten is survived).
    pub patience: Duration,
    /// How long a person has for a decision (300 s, the first design's bound).
    pub card: Duration,
    /// How long events are kept (30 days), in whole weeks: the last one is dropped when all of it is older.
    pub events: Duration,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            run: Duration::from_mins(5),
            step: Duration::from_mins(10),
            patience: Duration::from_mins(15),
            card: Duration::from_mins(5),
            events: Duration::from_hours(24 * 30),
        }
    }
}

/// How many connections a store may open, and how long it waits for one.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Kept open.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// Longest wait for a free connection.
    pub acquire: Duration,
    /// Longest run of a statement.
    pub statement: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            min: 0,
            max: 10,
            acquire: Duration::from_secs(5),
            statement: Duration::from_secs(30),
        }
    }
}

/// A connection that has rested for longer is tested before it is used.
const IDLE_UNTESTED: Duration = Duration::from_millis(250);

/// Opens connections that know the transitions; none is opened before it is needed, or `min` asks for it.
pub fn pool(url: &str, limits: PoolLimits) -> Result<PgPool, StoreError> {
    pool_with(url, limits, transitions_source())
}

/// The transitions as one text, for tests that break them on purpose.
#[cfg(feature = "testing")]
pub fn transitions() -> &'static str {
    transitions_source()
}

/// Opens connections that know these transitions and no others (tests install broken ones to see them caught).
pub fn pool_with(
    url: &str,
    limits: PoolLimits,
    transitions: &'static str,
) -> Result<PgPool, StoreError> {
    let options: PgConnectOptions = url
        .parse::<PgConnectOptions>()?
        .application_name("codelab")
        .options([
            // Every statement here is driven by a few keys: a plan made while tables were small must not scan them later.
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_bitmapscan", "off"),
            // Joins run as they are written: from the keys given to the rows behind them.
            ("join_collapse_limit", "1"),
            ("from_collapse_limit", "1"),
            ("max_parallel_workers_per_gather", "0"),
            ("random_page_cost", "1.1"),
            ("jit", "off"),
            ("client_min_messages", "warning"),
            (
                "statement_timeout",
                &limits.statement.as_millis().to_string(),
            ),
            ("idle_in_transaction_session_timeout", "10000"),
        ]);
    let pool = PgPoolOptions::new()
        .min_connections(limits.min)
        .max_connections(limits.max)
        .acquire_timeout(limits.acquire)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                // One in use a moment ago needs no test. The others may have died with a server or a network, and each
                // would cost its user an error.
                Ok(meta.idle_for < IDLE_UNTESTED || connection.ping().await.is_ok())
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(transitions)
                    .execute(connection)
                    .await
                    .map(drop)
            })
        })
        .connect_lazy_with(options);
    Ok(pool)
}

fn transitions_source() -> &'static str {
    static SOURCE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    SOURCE.get_or_init(|| {
        let source: String = TRANSITIONS.iter().map(|(_, sql)| *sql).collect();
        #[cfg(feature = "faults")]
        let source = crate::fault::mutated(&source);
        source
    })
}

/// Brings the schema up to this program's version. Safe to run from several processes at once.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    // A pool of its own: the schema may not be there yet, so the transitions cannot be installed.
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    MIGRATIONS.run(&pool).await?;
    pool.close().await;
    let pool = self::pool(
        url,
        PoolLimits {
            max: 1,
            ..PoolLimits::default()
        },
    )?;
    let store = Store::new(pool, Hints::local(), Duration::ZERO);
    store.make_partitions().await?;
    store.pool.close().await;
    Ok(())
}

/// Takes the schema back to nothing; every row is lost.
pub async fn migrate_down(url: &str) -> Result<(), StoreError> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    MIGRATIONS.undo(&pool, 0).await?;
    pool.close().await;
    Ok(())
}

/// What is applied and what is known: `(version, description, applied)`.
pub async fn migration_status(url: &str) -> Result<Vec<(i64, String, bool)>, StoreError> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    let applied =
        sqlx::query_scalar("select version from _sqlx_migrations where success order by version")
            .fetch_all(&pool)
            .await;
    pool.close().await;
    let applied: Vec<i64> = match applied {
        // There is no such table before the first migration. A connection that broke off says nothing about the schema.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        applied => applied?,
    };
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .map(|migration| {
            (
                migration.version,
                migration.description.to_string(),
                applied.contains(&migration.version),
            )
        })
        .collect())
}

impl Store {
    /// A store over the pool. `lease` is how long a claim lasts without a renewal.
    pub fn new(pool: PgPool, hints: Hints, lease: Duration) -> Self {
        Self {
            pool,
            clock: Clock::Database,
            hints,
            lease,
            limits: RunLimits::default(),
        }
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: RunLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How long things may last.
    pub fn limits(&self) -> RunLimits {
        self.limits
    }

    /// The same store going by another clock (tests).
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The hints of this process.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// How long a claim lasts without a renewal.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The same store with connections of its own, for a thread with a runtime of its own: a connection belongs to the runtime
    /// that opened it.
    #[must_use]
    pub fn on_this_runtime(&self) -> Self {
        let options = self
            .pool
            .options()
            .clone()
            .min_connections(0)
            .max_connections(1);
        let pool = options.connect_lazy_with((*self.pool.connect_options()).clone());
        Self {
            pool,
            ..self.clone()
        }
    }

    /// A connection to keep for a while.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        Ok(self.pool.acquire().await?)
    }

    /// Whether Postgres answers and the schema is there.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1 from users limit 1")
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The connections, for the tests and benchmarks that look at rows themselves.
    #[cfg(feature = "testing")]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}
