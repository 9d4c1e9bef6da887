//! Worker processes that report. Nothing is decided by it; people are told.

use crate::{error::StoreError, id::WorkerId, store::Store};

impl Store {
    /// Says that this claim loop is there.
    pub async fn report(&self, worker: WorkerId, places: usize) -> Result<(), StoreError> {
        sqlx::query(
            "insert into workers as w (id, places, started_at, seen_at)
             values ($1, $2, coalesce($3, clock_timestamp()), coalesce($3, clock_timestamp()))
             on conflict (id) do update set seen_at = excluded.seen_at",
        )
        .bind(worker)
        .bind(i32::try_from(std::cmp::max(places, 1)).unwrap_or(i32::MAX))
        .bind(self.clock.instant())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Says that it has gone.
    pub async fn sign_off(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query("delete from workers where id = $1")
            .bind(worker)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets those that have not been heard of for an hour.
    pub async fn forget_workers(&self) -> Result<(), StoreError> {
        sqlx::query("delete from workers where seen_at < coalesce($1, clock_timestamp()) - interval '1 hour'")
            .bind(self.clock.instant())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
