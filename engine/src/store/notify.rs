//! Hints to other processes.

use sqlx::PgPool;

/// Sends a NOTIFY by itself, outside any transaction: inside one it would serialise the commits of the whole instance.
pub(crate) async fn notify(pool: &PgPool, channel: &str, payload: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(channel)
        .bind(payload)
        .execute(pool)
        .await
        .map(drop)
}
