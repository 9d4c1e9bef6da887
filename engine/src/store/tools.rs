//! Tools of a person's agents.

use sqlx::types::Json;

use crate::{
    error::StoreError,
    scope::UserScope,
    store::Store,
    tool::{Consent, Effect, Executor, Risk, Tool},
};

/// A tool to make, or to put in another's place.
#[derive(Debug, Clone)]
pub struct NewTool {
    /// Unique among its owner's.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: serde_json::Value,
    /// What carries it out.
    pub executor: Executor,
    /// What a call does to the world.
    pub effect: Effect,
    /// How bad a wrong call is.
    pub risk: Risk,
    /// Whether the person is asked before each call.
    pub consent: Consent,
    /// Longest call, in seconds.
    pub timeout_seconds: i16,
}

/// What a tool is read from.
macro_rules! columns {
    () => {
        "name, version, description, input_schema, executor, effect, risk, consent, timeout_seconds, created_at, updated_at"
    };
}

impl Store {
    /// A new tool; `Conflict` on `tools_pkey` where the name is taken. One that takes the name of a deleted tool counts its versions
    /// on.
    pub async fn create_tool(&self, scope: UserScope, tool: &NewTool) -> Result<Tool, StoreError> {
        let created = sqlx::query_as(concat!(
            "insert into tools as t (user_id, name, description, input_schema, executor, effect, consent, timeout_seconds, risk)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (user_id, name) do update set version = t.version + 1, description = excluded.description,
               input_schema = excluded.input_schema, executor = excluded.executor, effect = excluded.effect,
               consent = excluded.consent, timeout_seconds = excluded.timeout_seconds, risk = excluded.risk,
               created_at = now(), updated_at = now(), deleted_at = null
             where t.deleted_at is not null returning ",
            columns!()
        ))
        .bind(scope.user())
        .bind(&tool.name)
        .bind(&tool.description)
        .bind(&tool.input_schema)
        .bind(Json(&tool.executor))
        .bind(tool.effect.as_str())
        .bind(tool.consent.as_str())
        .bind(tool.timeout_seconds)
        .bind(tool.risk.as_str())
        .fetch_optional(&self.pool)
        .await?;
        created.ok_or_else(|| StoreError::Conflict {
            constraint: "tools_pkey".to_owned(),
        })
    }

    /// Changes a tool: a new version. None: not there.
    pub async fn replace_tool(
        &self,
        scope: UserScope,
        tool: &NewTool,
    ) -> Result<Option<Tool>, StoreError> {
        Ok(sqlx::query_as(concat!(
            "update tools set version = version + 1, description = $3, input_schema = $4, executor = $5, effect = $6, consent = $7,
               timeout_seconds = $8, risk = $9, updated_at = now()
             where user_id = $1 and name = $2 and deleted_at is null returning ",
            columns!()
        ))
        .bind(scope.user())
        .bind(&tool.name)
        .bind(&tool.description)
        .bind(&tool.input_schema)
        .bind(Json(&tool.executor))
        .bind(tool.effect.as_str())
        .bind(tool.consent.as_str())
        .bind(tool.timeout_seconds)
        .bind(tool.risk.as_str())
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Tools by name, after `after`.
    pub async fn tools(
        &self,
        scope: UserScope,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Tool>, StoreError> {
        Ok(sqlx::query_as(concat!(
            "select ",
            columns!(),
            " from tools where user_id = $1 and name > coalesce($2, '') and deleted_at is null order by name limit $3"
        ))
        .bind(scope.user())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One tool.
    pub async fn tool(&self, scope: UserScope, name: &str) -> Result<Option<Tool>, StoreError> {
        Ok(sqlx::query_as(concat!(
            "select ",
            columns!(),
            " from tools where user_id = $1 and name = $2 and deleted_at is null"
        ))
        .bind(scope.user())
        .bind(name)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Removes a tool; agents that name it go on without. `false`: not there.
    pub async fn delete_tool(&self, scope: UserScope, name: &str) -> Result<bool, StoreError> {
        let deleted = sqlx::query(
            "update tools set deleted_at = now(), description = '', input_schema = '{}', executor = '{}'
             where user_id = $1 and name = $2 and deleted_at is null",
        )
        .bind(scope.user())
        .bind(name)
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected() == 1)
    }
}
