//! What can go wrong below the edge.

use crate::{id::StepId, plan::graph::GraphError};

/// Errors of the store. "Not there" is no error: reads return `Option`, transitions a verdict.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres did not answer, or broke off; worth another try.
    #[error("the database is not reachable")]
    Unavailable(#[source] sqlx::Error),
    /// All connections are busy.
    #[error("no database connection became free in time")]
    PoolExhausted,
    /// A unique name is taken; the constraint says which.
    #[error("{constraint} is violated")]
    Conflict {
        /// Name of the constraint.
        constraint: String,
    },
    /// A row does not say what its column promises.
    #[error("failed to read {what}")]
    Decode {
        /// Which row.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The plan is no DAG that may run.
    #[error("the plan is not valid: {}", .0.first().map_or_else(String::new, ToString::to_string))]
    Graph(Vec<GraphError>),
    /// Two transitions waited for each other, or a row moved; the whole transition may be tried again.
    #[error("the transition has to be tried again")]
    Again(#[source] sqlx::Error),
    /// The schema is not the one that this program knows.
    #[error("failed to migrate the schema")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The lease is gone: somebody else runs the step, or it ended.
    #[error("the lease of step {0} was lost")]
    LeaseLost(StepId),
    /// Anything else: a defect of ours.
    #[error("a statement failed")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing it.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::PoolExhausted | Self::Again(_)
        )
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut => Self::PoolExhausted,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(error),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // Classes: connection exception (08), insufficient resources (53: too many connections, disk full).
                Some(code) if code.starts_with("08") || code.starts_with("53") => {
                    Self::Unavailable(error)
                }
                // unique_violation
                Some("23505") => Self::Conflict {
                    constraint: database.constraint().unwrap_or("a unique key").to_owned(),
                },
                // serialization_failure, deadlock_detected
                Some("40001" | "40P01") => Self::Again(error),
                // admin_shutdown and friends, cannot_connect_now, query_canceled (statement_timeout), lock_not_available,
                // idle_in_transaction_session_timeout, read_only (a standby)
                Some("57P01" | "57P02" | "57P03" | "57014" | "55P03" | "25P03" | "25006") => {
                    Self::Unavailable(error)
                }
                _ => Self::Statement(error),
            },
            _ => Self::Statement(error),
        }
    }
}
