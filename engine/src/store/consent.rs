//! Rules about calls of tools, and grants given ahead.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;

use crate::{
    error::StoreError,
    id::{GrantId, WaitId},
    scope::UserScope,
    store::Store,
    tool::policy::Rule,
};

/// What decides over a call beside the tool itself.
#[derive(Debug, Clone, Default)]
pub struct Consents {
    /// The person's rules, in order.
    pub rules: Vec<Rule>,
    /// Grants that still hold, the one that ends first before the others.
    pub grants: Vec<Grant>,
}

/// The person's rules as they stand.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ApprovalPolicy {
    /// Counts changes, from 1; 0: there are none.
    pub version: i32,
    /// In order; the first that fits holds.
    #[sqlx(json)]
    pub rules: Vec<Rule>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// Consent given ahead.
#[derive(Debug, Clone, serde::Deserialize, sqlx::FromRow)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Name of the tool.
    pub tool: String,
    /// The version that it was given for.
    pub tool_version: i32,
    /// The exact call; none: any call of the tool.
    pub digest: Option<String>,
    /// Calls that it still covers.
    pub uses_left: i32,
    /// Its end.
    pub expires_at: DateTime<Utc>,
    /// The approval that it came with.
    pub wait_id: WaitId,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Since when it is taken back.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Consent ahead for further calls of the tool that an approval is about.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// The exact call; none: any call of the tool's version.
    pub digest: Option<String>,
    /// Calls that it covers, 1 to 100.
    pub uses: i32,
    /// How long, from the decision on, by the database's clock.
    pub lasts: Duration,
}

impl NewGrant {
    pub(super) fn document(&self) -> Value {
        json!({ "id": GrantId::new(), "digest": self.digest, "uses": self.uses, "for_ms": self.lasts.as_millis() })
    }
}

impl Store {
    /// What decides over calls of the person's agents.
    pub async fn consents(&self, scope: UserScope) -> Result<Consents, StoreError> {
        let (rules, grants): (Value, Value) = sqlx::query_as(
            "select coalesce((select p.rules from approval_policies p where p.user_id = $1), '[]'),
                    coalesce((select jsonb_agg(to_jsonb(g) - 'user_id' order by g.expires_at) from approval_grants g
                      where g.user_id = $1 and g.uses_left > 0 and g.revoked_at is null
                        and g.expires_at > coalesce($2, clock_timestamp())), '[]')",
        )
        .bind(scope.user())
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?;
        let wrong = |what| move |source| StoreError::Decode { what, source };
        Ok(Consents {
            rules: serde_json::from_value(rules).map_err(wrong("approval rules"))?,
            grants: serde_json::from_value(grants).map_err(wrong("approval grants"))?,
        })
    }

    /// The person's rules; without any an empty list.
    pub async fn approval_policy(&self, scope: UserScope) -> Result<ApprovalPolicy, StoreError> {
        let found = sqlx::query_as(
            "select version, rules, updated_at from approval_policies where user_id = $1",
        )
        .bind(scope.user())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.unwrap_or(ApprovalPolicy {
            version: 0,
            rules: Vec::new(),
            updated_at: DateTime::UNIX_EPOCH,
        }))
    }

    /// Sets the person's rules.
    pub async fn put_approval_policy(
        &self,
        scope: UserScope,
        rules: &[Rule],
    ) -> Result<ApprovalPolicy, StoreError> {
        Ok(sqlx::query_as(
            "insert into approval_policies as p (user_id, rules) values ($1, $2)
             on conflict (user_id) do update set rules = excluded.rules, version = p.version + 1, updated_at = now()
             returning version, rules, updated_at",
        )
        .bind(scope.user())
        .bind(Json(rules))
        .fetch_one(&self.pool)
        .await?)
    }

    /// Grants, newest first, older than `before`; those that ended too.
    pub async fn grants(
        &self,
        scope: UserScope,
        before: Option<GrantId>,
        limit: i64,
    ) -> Result<Vec<Grant>, StoreError> {
        Ok(sqlx::query_as(
            "select id, tool, tool_version, digest, uses_left, expires_at, wait_id, created_at, revoked_at from approval_grants
             where user_id = $1 and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff') order by id desc limit $3",
        )
        .bind(scope.user())
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Takes a grant back; `false`: not there.
    pub async fn revoke_grant(&self, scope: UserScope, id: GrantId) -> Result<bool, StoreError> {
        let revoked = sqlx::query(
            "update approval_grants set revoked_at = coalesce(revoked_at, now()) where user_id = $1 and id = $2",
        )
        .bind(scope.user())
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(revoked.rows_affected() == 1)
    }
}
