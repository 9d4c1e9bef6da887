//! The journal of a running step.

use serde_json::Value;

use crate::{error::StoreError, fault, step::claimed::Claim, store::Store, tool::Entry};

impl Store {
    /// Writes entries, all in one commit, or none of them.
    pub async fn journal(&self, claim: &Claim, entries: &[Entry]) -> Result<Written, StoreError> {
        let entries = serde_json::to_value(entries).map_err(|source| StoreError::Decode {
            what: "journal entries",
            source,
        })?;
        fault::point("journal.before");
        let (verdict, ordinal): (String, Option<i32>) = sqlx::query_as(
            "select verdict, ordinal from pg_temp.journal_write($1, $2, $3, $4, $5, $6)",
        )
        .bind(claim.scope.user())
        .bind(claim.id)
        .bind(round(claim))
        .bind(claim.token)
        .bind(entries)
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?;
        fault::point("journal.after");
        let ordinal = ordinal.and_then(|ordinal| u32::try_from(ordinal).ok());
        Ok(match (verdict.as_str(), ordinal) {
            ("written", _) => Written::All,
            ("no_consent", Some(ordinal)) => Written::NoConsent(ordinal),
            _ => Written::Fenced,
        })
    }

    /// Keeps the text of a long turn so far, for whoever looks in between; `false`: another run has taken over.
    pub async fn journal_text(
        &self,
        claim: &Claim,
        ordinal: u32,
        text: &str,
    ) -> Result<bool, StoreError> {
        fault::point("text.before");
        let kept = sqlx::query_scalar("select pg_temp.journal_text($1, $2, $3, $4, $5, $6)")
            .bind(claim.scope.user())
            .bind(claim.id)
            .bind(round(claim))
            .bind(claim.token)
            .bind(i32::try_from(ordinal).unwrap_or(i32::MAX))
            .bind(text)
            .fetch_one(&self.pool)
            .await?;
        fault::point("text.after");
        Ok(kept)
    }

    /// What the children of a step came to, in their order: `{key, state, result, error}`.
    pub async fn children(&self, claim: &Claim) -> Result<Vec<Child>, StoreError> {
        Ok(sqlx::query_as(
            "select s.key, s.state, s.result, s.error from steps s
             where s.parent_id = $2 and s.user_id = $1 order by s.position",
        )
        .bind(claim.scope.user())
        .bind(claim.id)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// What became of entries for the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// They are in it.
    All,
    /// The lease is gone.
    Fenced,
    /// This call has lost its consent: the grant is used up, over or taken back; or the approval was for something else, because
    /// tool or agent are not what they were. None of the entries is in it.
    NoConsent(u32),
}

/// A step that another one made.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Child {
    /// Its key.
    pub key: String,
    /// How it ended.
    pub state: crate::step::StateName,
    /// What it returned.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<Value>,
}

impl Child {
    /// Whether it succeeded.
    pub fn ended_well(&self) -> bool {
        self.state == crate::step::StateName::Succeeded
    }

    /// What it said, if it has succeeded with a text.
    pub fn text(&self) -> Option<&Value> {
        self.result.as_ref()?.get("text")
    }
}

pub(super) fn round(claim: &Claim) -> i16 {
    i16::try_from(claim.round).unwrap_or(i16::MAX)
}
