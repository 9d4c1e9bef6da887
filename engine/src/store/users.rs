//! People.

use crate::{error::StoreError, id::UserId, store::Store};

impl Store {
    /// The person behind a token, created at first sight.
    pub async fn user_at_sight(
        &self,
        issuer: &str,
        subject: &str,
        email: Option<&str>,
    ) -> Result<UserId, StoreError> {
        let known: Option<UserId> =
            sqlx::query_scalar("select id from users where issuer = $1 and subject = $2")
                .bind(issuer)
                .bind(subject)
                .fetch_optional(&self.pool)
                .await?;
        if let Some(user) = known {
            return Ok(user);
        }
        // The update makes the row of a racing first sight visible to `returning`.
        let user = sqlx::query_scalar(
            "with seen as (
               insert into users (id, issuer, subject, email) values ($1, $2, $3, $4)
               on conflict (issuer, subject) do update set subject = excluded.subject
               returning id),
             counters as (insert into user_feeds (user_id) select id from seen on conflict do nothing)
             select id from seen",
        )
        .bind(UserId::new())
        .bind(issuer)
        .bind(subject)
        .bind(email)
        .fetch_one(&self.pool)
        .await?;
        Ok(user)
    }
}
