//! Passes to a stream for those who cannot send a token.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    error::StoreError,
    id::{SessionId, UserId},
    scope::UserScope,
    store::{Store, transitions::interval},
};

/// How long a ticket can be used.
const TICKET: Duration = Duration::from_secs(30);

/// A ticket that was sold.
#[derive(Debug)]
pub struct Ticket {
    /// What opens the stream; kept nowhere.
    pub secret: String,
    /// Until when.
    pub expires_at: DateTime<Utc>,
}

/// A ticket that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Redeemed {
    /// Whose it was.
    pub user_id: UserId,
    /// The session whose stream it opens; none: the person's whole feed.
    pub session_id: Option<SessionId>,
    /// When the token ends that it was bought with.
    pub token_expires_at: DateTime<Utc>,
}

impl Store {
    /// Sells a ticket for one stream. Those that nobody used go with it.
    pub async fn sell_ticket(
        &self,
        scope: UserScope,
        session: Option<SessionId>,
        token_expires_at: DateTime<Utc>,
    ) -> Result<Ticket, StoreError> {
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let expires_at = sqlx::query_scalar(
            "with swept as (
               delete from stream_tickets where ctid = any (array(
                 select o.ctid from stream_tickets o where o.expires_at < now() order by o.expires_at limit 10 for update skip locked)))
             insert into stream_tickets (digest, user_id, session_id, token_expires_at, expires_at)
             values ($1, $2, $3, $4, least(now() + $5, $4)) returning expires_at",
        )
        .bind(digest(&secret))
        .bind(scope.user())
        .bind(session)
        .bind(token_expires_at)
        .bind(interval(TICKET))
        .fetch_one(&self.pool)
        .await?;
        Ok(Ticket { secret, expires_at })
    }

    /// Takes a ticket, once; none: it is not known, was used, or is too old.
    pub async fn redeem_ticket(&self, secret: &str) -> Result<Option<Redeemed>, StoreError> {
        Ok(sqlx::query_as(
            "with taken as (
               delete from stream_tickets where digest = $1 returning user_id, session_id, token_expires_at, expires_at)
             select user_id, session_id, token_expires_at from taken where expires_at > now()",
        )
        .bind(digest(secret))
        .fetch_optional(&self.pool)
        .await?)
    }
}

fn digest(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}
