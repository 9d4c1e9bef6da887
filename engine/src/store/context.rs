//! What an executor needs to know beyond its claim: one read per run.

use serde_json::Value;

use crate::{
    agent::{AgentConfig, OrchestratorConfig},
    error::StoreError,
    fault,
    llm::{Line, Role},
    plan::{PlanMode, graph::When},
    step::{StateName, claimed::Claim},
    store::Store,
    tool::{Entry, Tool},
};

/// Lines of history that a prompt may carry.
const HISTORY: i64 = 20;

/// What an agent step needs.
#[derive(Debug, Clone)]
pub struct AgentContext {
    /// Name of the agent; none: it was deleted meanwhile.
    pub agent: Option<String>,
    /// Its version now: a question about a call is asked of this one.
    pub version: Option<i32>,
    /// Its configuration, in the version the step began with.
    pub config: AgentConfig,
    /// The plan's goal: the person's message.
    pub goal: String,
    /// How the plan came to be.
    pub mode: PlanMode,
    /// The session before this message, oldest first.
    pub history: Vec<Line>,
    /// What the needed steps returned.
    pub needs: Vec<NeedResult>,
    /// What the step has called so far, in order.
    pub journal: Vec<Entry>,
    /// Those of the agent's tools that exist.
    pub tools: Vec<Tool>,
}

/// What a needed step came to.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct NeedResult {
    /// Its key.
    pub key: String,
    /// Its agent's name.
    pub agent: Option<String>,
    /// How it ended.
    pub state: StateName,
    /// What it returned.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<Value>,
    /// Which edge it meets.
    pub when: When,
}

/// What planning and summing up need.
#[derive(Debug, Clone)]
pub struct PlanContext {
    /// The planner's configuration.
    pub config: OrchestratorConfig,
    /// The person's message.
    pub goal: String,
    /// The session before this message, oldest first.
    pub history: Vec<Line>,
    /// The person's agents, oldest first, at most 50.
    pub team: Vec<TeamMember>,
    /// What the needed steps returned.
    pub needs: Vec<NeedResult>,
    /// What the step has called so far, in order.
    pub journal: Vec<Entry>,
}

/// An agent, as the planner sees it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct TeamMember {
    /// Its id.
    pub id: crate::id::AgentId,
    /// Its name.
    pub name: String,
    /// What it is good at, or the beginning of its system prompt.
    pub about: String,
    /// Some tool of its changes the world.
    pub dangerous: bool,
}

#[derive(sqlx::FromRow)]
struct ContextRow {
    goal: String,
    mode: PlanMode,
    agent: Option<String>,
    version: Option<i32>,
    config: Option<Value>,
    history: Value,
    needs: Value,
    team: Value,
    journal: Value,
    tools: Value,
    held: bool,
}

/// The read behind both contexts; `$4` asks for the team and the planner's configuration. In the same round trip the step's
/// first model turn becomes an intent in the journal, under the lease's token; an intent of an earlier run is taken over.
const CONTEXT: &str = "
  with held as (
    select l.step_id from leases l where l.user_id = $1 and l.step_id = $2 and l.token = $5 for key share),
  begun as (
    insert into effects as e (user_id, step_id, round, ordinal, kind, effect, state, token, request, created_at)
    select $1, h.step_id, $6, 0, 'model', 'idempotent', 'intent', $5, '{}', coalesce($7, clock_timestamp()) from held h
    on conflict (step_id, round, ordinal, user_id) do update set token = excluded.token, partial = null where e.state = 'intent')
  select exists (select 1 from held) as held,
    coalesce((select jsonb_agg(jsonb_build_object('ordinal', e.ordinal, 'kind', e.kind, 'effect', e.effect, 'state', e.state,
         'request', e.request, 'result', e.result) order by e.ordinal)
       from effects e where e.user_id = s.user_id and e.step_id = s.id and e.round = $6), '[]') as journal,
    coalesce((select jsonb_agg(to_jsonb(t) - '{user_id,deleted_at}'::text[] order by t.name)
       from agent_versions v cross join lateral jsonb_array_elements_text(v.config -> 'tools') n(name)
       join tools t on t.user_id = v.user_id and t.name = n.name and t.deleted_at is null
       where v.user_id = s.user_id and v.agent_id = s.agent_id and v.version = s.agent_version), '[]') as tools,
    p.goal, p.mode, a.name as agent, a.version,
    case when $4 then (select o.config from user_orchestrators o where o.user_id = s.user_id)
         else (select v.config from agent_versions v
               where v.user_id = s.user_id and v.agent_id = s.agent_id and v.version = s.agent_version) end as config,
    coalesce((select jsonb_agg(jsonb_build_object('role', h.role, 'content', h.content) order by h.created_at, h.id) from (
       select m.role, m.content, m.created_at, m.id from messages m
       where m.user_id = s.user_id and m.session_id = p.session_id and p.message_id is not null
         and (m.created_at, m.id) < (p.created_at, p.message_id)
       order by m.created_at desc, m.id desc limit $3) h), '[]') as history,
    coalesce((select jsonb_agg(jsonb_build_object('key', n.key, 'agent', na.name, 'state', n.state, 'result', n.result,
         'error', n.error, 'when', e.met_when) order by n.position)
       from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
       left join user_agents na on na.user_id = n.user_id and na.id = n.agent_id
       where e.user_id = s.user_id and e.step_id = s.id), '[]') as needs,
    case when $4 then coalesce((select jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name, 'about', t.about, 'dangerous', t.dangerous) order by t.id) from (
       select u.id, u.name, coalesce(v.config ->> 'about', left(v.config ->> 'system_prompt', 200)) as about,
         v.config ? 'tools' and exists (select 1 from jsonb_array_elements_text(v.config -> 'tools') n(name)
           join tools o on o.user_id = u.user_id and o.name = n.name and o.deleted_at is null
           where o.effect in ('reversible', 'irreversible')) as dangerous
       from user_agents u join agent_versions v on v.user_id = u.user_id and v.agent_id = u.id and v.version = u.version
       where u.user_id = s.user_id and u.deleted_at is null order by u.id limit 50) t), '[]') else '[]' end as team
  from steps s
  join plans p on p.user_id = s.user_id and p.id = s.plan_id
  left join user_agents a on a.user_id = s.user_id and a.id = s.agent_id and a.deleted_at is null
  where s.user_id = $1 and s.id = $2";

impl Store {
    /// Reads what an agent step needs.
    pub async fn agent_context(&self, claim: &Claim) -> Result<AgentContext, StoreError> {
        let row = self.context(claim, false).await?;
        Ok(AgentContext {
            agent: row.agent,
            version: row.version,
            config: row.config.map_or_else(
                || Ok(AgentConfig::default()),
                |config| decode("an agent's configuration", config),
            )?,
            goal: row.goal,
            mode: row.mode,
            history: decode("a session's history", row.history)?,
            needs: decode("the results of needed steps", row.needs)?,
            journal: decode("a step's journal", row.journal)?,
            tools: decode("an agent's tools", row.tools)?,
        })
    }

    /// Reads what planning and summing up need.
    pub async fn plan_context(&self, claim: &Claim) -> Result<PlanContext, StoreError> {
        let row = self.context(claim, true).await?;
        Ok(PlanContext {
            config: row.config.map_or_else(
                || Ok(OrchestratorConfig::default()),
                |config| decode("the planner's configuration", config),
            )?,
            goal: row.goal,
            history: decode("a session's history", row.history)?,
            team: decode("a team", row.team)?,
            needs: decode("the results of needed steps", row.needs)?,
            journal: decode("a step's journal", row.journal)?,
        })
    }

    /// What the steps that a running step needs came to.
    pub async fn needs(&self, claim: &Claim) -> Result<Vec<NeedResult>, StoreError> {
        let needs: Value = sqlx::query_scalar(
            "select coalesce(jsonb_agg(jsonb_build_object('key', n.key, 'agent', null, 'state', n.state, 'result', n.result,
               'error', n.error, 'when', e.met_when) order by n.position), '[]')
             from step_edges e join steps n on n.user_id = e.user_id and n.id = e.needs_step_id
             where e.user_id = $1 and e.step_id = $2",
        )
        .bind(claim.scope.user())
        .bind(claim.id)
        .fetch_one(&self.pool)
        .await?;
        decode("the results of needed steps", needs)
    }

    /// Agents by name, for an agent that asks another one.
    pub async fn agent_named(
        &self,
        claim: &Claim,
        name: &str,
    ) -> Result<Option<crate::id::AgentId>, StoreError> {
        let found = self.resolve_agents(claim.scope, &[name.to_owned()]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// Records progress of a running step in the feed; refused (false) once its lease is gone.
    pub async fn progress(&self, claim: &Claim, payload: Value) -> Result<bool, StoreError> {
        let told: bool = sqlx::query_scalar("select pg_temp.step_progress($1, $2, $3, $4)")
            .bind(claim.scope.user())
            .bind(claim.id)
            .bind(claim.token)
            .bind(payload)
            .fetch_one(&self.pool)
            .await?;
        self.hints.feed(claim.scope.user());
        Ok(told)
    }

    async fn context(&self, claim: &Claim, planning: bool) -> Result<ContextRow, StoreError> {
        fault::point("context.before");
        let row: ContextRow = sqlx::query_as(CONTEXT)
            .bind(claim.scope.user())
            .bind(claim.id)
            .bind(HISTORY)
            .bind(planning)
            .bind(claim.token)
            .bind(super::journal::round(claim))
            .bind(self.clock.instant())
            .fetch_one(&self.pool)
            .await?;
        fault::point("context.after");
        if row.held {
            Ok(row)
        } else {
            Err(StoreError::LeaseLost(claim.id))
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    what: &'static str,
    value: Value,
) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|source| StoreError::Decode { what, source })
}

impl From<&NeedResult> for Line {
    /// A needed step's result, as data for the next model.
    fn from(need: &NeedResult) -> Self {
        let text = need
            .result
            .as_ref()
            .and_then(|result| result.get("text"))
            .and_then(Value::as_str)
            .unwrap_or("(nothing)");
        Self::new(Role::User, format!("[result of {}]\n{text}", need.key))
    }
}
