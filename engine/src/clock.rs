//! Time. Deadlines, leases and ranks are decided by the database's clock; a test can put its own in
//! its place.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

/// Which clock the transitions go by.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// `clock_timestamp()` of Postgres.
    #[default]
    Database,
    /// A clock that a test moves.
    Manual(ManualClock),
}

impl Clock {
    /// What a transition gets as `p_clock`: nothing in production.
    pub fn instant(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Database => None,
            Self::Manual(clock) => Some(clock.now()),
        }
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<DateTime<Utc>>>);

impl ManualClock {
    /// Starts at the given instant.
    pub fn at(instant: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    /// What it shows.
    pub fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it on.
    pub fn advance(&self, by: TimeDelta) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }
}
