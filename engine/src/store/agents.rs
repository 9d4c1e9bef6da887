//! Agents and the orchestrator.

use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    agent::{Agent, AgentConfig, Orchestrator, OrchestratorConfig},
    error::StoreError,
    id::{AgentId, UserId},
    scope::UserScope,
    store::Store,
};

impl Store {
    /// A new agent; `Conflict` on `user_agents_name_key` where the name is taken.
    pub async fn create_agent(
        &self,
        scope: UserScope,
        name: &str,
        config: &AgentConfig,
    ) -> Result<Agent, StoreError> {
        Ok(sqlx::query_as(
            "with agent as (
               insert into user_agents (user_id, id, name, max_concurrency, places) values ($1, $2, $3, $4, $4) returning *),
             first as (insert into agent_versions (user_id, agent_id, version, config) select user_id, id, version, $5 from agent)
             select id, name, version, $5 as config, running_steps, created_at, updated_at from agent",
        )
        .bind(scope.user())
        .bind(AgentId::new())
        .bind(name)
        .bind(i16::from(config.max_concurrency))
        .bind(Json(config))
        .fetch_one(&self.pool)
        .await?)
    }

    /// Living agents, newest first, older than `before`.
    pub async fn agents(
        &self,
        scope: UserScope,
        before: Option<AgentId>,
        limit: i64,
    ) -> Result<Vec<Agent>, StoreError> {
        Ok(sqlx::query_as(
            "select a.id, a.name, a.version, v.config, a.running_steps, a.created_at, a.updated_at
             from user_agents a join agent_versions v on v.user_id = a.user_id and v.agent_id = a.id and v.version = a.version
             where a.user_id = $1 and a.id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff') and a.deleted_at is null
             order by a.id desc limit $3",
        )
        .bind(scope.user())
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One living agent.
    pub async fn agent(&self, scope: UserScope, id: AgentId) -> Result<Option<Agent>, StoreError> {
        Ok(sqlx::query_as(
            "select a.id, a.name, a.version, v.config, a.running_steps, a.created_at, a.updated_at
             from user_agents a join agent_versions v on v.user_id = a.user_id and v.agent_id = a.id and v.version = a.version
             where a.user_id = $1 and a.id = $2 and a.deleted_at is null",
        )
        .bind(scope.user())
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Ids of living agents by name or id, in the order asked; none where there is no such agent.
    pub async fn resolve_agents(
        &self,
        scope: UserScope,
        names: &[String],
    ) -> Result<Vec<Option<AgentId>>, StoreError> {
        let found: Vec<Option<AgentId>> = sqlx::query_scalar(
            "select coalesce(
               (select a.id from user_agents a where a.user_id = $1 and a.name = n.name and a.deleted_at is null),
               (select a.id from user_agents a where a.user_id = $1 and a.id::text = lower(n.name) and a.deleted_at is null))
             from unnest($2::text[]) with ordinality n(name, n) order by n.n",
        )
        .bind(scope.user())
        .bind(names)
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    /// Changes an agent: a new version, and what its new limit lets in. None: not there. A lower limit takes hold as
    /// running steps end.
    pub async fn update_agent(
        &self,
        scope: UserScope,
        id: AgentId,
        name: &str,
        config: &AgentConfig,
    ) -> Result<Option<Agent>, StoreError> {
        self.write_agent(scope, id, name, config, None).await
    }

    /// The same, if the agent is still of the version that the change was made from. None: it is not, or not there.
    pub async fn update_agent_from(
        &self,
        scope: UserScope,
        known: i32,
        id: AgentId,
        name: &str,
        config: &AgentConfig,
    ) -> Result<Option<Agent>, StoreError> {
        self.write_agent(scope, id, name, config, Some(known)).await
    }

    async fn write_agent(
        &self,
        scope: UserScope,
        id: AgentId,
        name: &str,
        config: &AgentConfig,
        known: Option<i32>,
    ) -> Result<Option<Agent>, StoreError> {
        let agent: Option<Agent> = sqlx::query_as(
            "with agent as (
               update user_agents set name = $3, version = version + 1, updated_at = now(),
                 max_concurrency = $4, places = greatest($4, running_steps)
               where user_id = $1 and id = $2 and deleted_at is null and version = coalesce($6, version) returning *),
             newest as (insert into agent_versions (user_id, agent_id, version, config) select user_id, id, version, $5 from agent)
             select id, name, version, $5 as config, running_steps, created_at, updated_at from agent",
        )
        .bind(scope.user())
        .bind(id)
        .bind(name)
        .bind(i16::from(config.max_concurrency))
        .bind(Json(config))
        .bind(known)
        .fetch_optional(&self.pool)
        .await?;
        if agent.is_some() {
            self.admit_agent(scope.user(), id).await?;
        }
        Ok(agent)
    }

    /// Retires an agent; its name is free again, and its open steps fail when their turn comes. `false`: not there.
    pub async fn delete_agent(&self, scope: UserScope, id: AgentId) -> Result<bool, StoreError> {
        let deleted = sqlx::query(
            "update user_agents set deleted_at = now(), updated_at = now() where user_id = $1 and id = $2 and deleted_at is null",
        )
        .bind(scope.user())
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected() == 1)
    }

    /// The person's planner; none: the defaults hold.
    pub async fn orchestrator(&self, scope: UserScope) -> Result<Option<Orchestrator>, StoreError> {
        Ok(sqlx::query_as("select id, version, config, created_at, updated_at from user_orchestrators where user_id = $1")
            .bind(scope.user())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Sets the person's planner.
    pub async fn put_orchestrator(
        &self,
        scope: UserScope,
        config: &OrchestratorConfig,
    ) -> Result<Orchestrator, StoreError> {
        Ok(sqlx::query_as(
            "insert into user_orchestrators as o (user_id, id, config) values ($1, $2, $3)
             on conflict (user_id) do update set config = excluded.config, version = o.version + 1, updated_at = now()
             returning id, version, config, created_at, updated_at",
        )
        .bind(scope.user())
        .bind(Uuid::now_v7())
        .bind(Json(config))
        .fetch_one(&self.pool)
        .await?)
    }

    async fn admit_agent(&self, user: UserId, agent: AgentId) -> Result<(), StoreError> {
        let admitted: i32 = sqlx::query_scalar("select pg_temp.agents_admit($1, $2, $3)")
            .bind(user)
            .bind(agent)
            .bind(self.clock.instant())
            .fetch_one(&self.pool)
            .await?;
        if admitted > 0 {
            self.moved(user);
        }
        Ok(())
    }
}
