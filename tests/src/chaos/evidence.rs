//! What the checkers look at: the rows at the end, the receipts, what clients were told, what was done to the stage.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
};

use chrono::{DateTime, Utc};
use engine::event::Event;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    history::Written,
    nemesis::Blow,
    program::{Program, Step},
    receipts::Receipt,
    stream::Transcript,
};

/// A worker that was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// When.
    pub at: DateTime<Utc>,
    /// Its number.
    pub worker: usize,
    /// All leases just before, by step and token; some of them were its own.
    pub leases: Vec<(Uuid, i64)>,
}

/// A step as its row has it.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the schema")]
pub struct StepRow {
    pub id: Uuid,
    pub user_id: Uuid,
    pub plan_id: Uuid,
    pub agent_id: Option<Uuid>,
    pub key: String,
    pub kind: String,
    pub state: String,
    pub token: i64,
    pub failures: i16,
    pub round: i16,
    pub waived: bool,
    pub parent_id: Option<Uuid>,
    pub depth: i16,
    pub joins: String,
    pub result: Option<Value>,
    pub error: Option<Value>,
}

/// A plan as its row has it.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the schema")]
pub struct PlanRow {
    pub id: Uuid,
    pub user_id: Uuid,
    pub goal: String,
    pub state: String,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// An edge as its row has it.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the schema")]
pub struct EdgeRow {
    pub step_id: Uuid,
    pub needs_step_id: Uuid,
    pub met_when: String,
}

/// A wait as its row has it.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the schema")]
pub struct WaitRow {
    pub id: Uuid,
    pub step_id: Uuid,
    pub payload: Value,
    pub kind: String,
    pub decision: Option<String>,
    pub answer: Option<Value>,
    pub deadline: Option<DateTime<Utc>>,
    pub decided_at: Option<DateTime<Utc>>,
}

/// An entry of the journal.
#[derive(Debug, Clone, sqlx::FromRow)]
#[expect(missing_docs, reason = "columns of the schema")]
pub struct EffectRow {
    pub step_id: Uuid,
    pub round: i16,
    pub ordinal: i32,
    pub kind: String,
    pub state: String,
    pub done_at: Option<DateTime<Utc>>,
}

/// One run of one step, as the feed tells it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The step.
    pub step: Uuid,
    /// Its place among the step's runs, from 1: the token.
    pub token: i64,
    /// The claim.
    pub started: DateTime<Utc>,
    /// Position of the claim's event.
    pub seq: i64,
    /// The end, and how.
    pub ended: Option<(DateTime<Utc>, String)>,
}

impl Run {
    /// When its lease was taken away, if that is how it ended.
    pub fn lost_at(&self) -> Option<DateTime<Utc>> {
        let (at, how) = self.ended.as_ref()?;
        (how == "worker_lost").then_some(*at)
    }
}

/// Everything.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is described where it comes from")]
pub struct Evidence {
    pub programs: Vec<Program>,
    pub written: Written,
    pub receipts: Vec<Receipt>,
    pub transcripts: Vec<Transcript>,
    pub blows: Vec<Blow>,
    pub kills: Vec<Kill>,
    pub surprises: Vec<String>,
    pub logs: BTreeMap<String, String>,
    pub stolen: u64,
    pub lease: std::time::Duration,
    pub rows: Rows,
}

/// The database at the end.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is a table")]
pub struct Rows {
    pub people: BTreeMap<String, Uuid>,
    pub events: BTreeMap<Uuid, Vec<Event>>,
    pub steps: Vec<StepRow>,
    pub plans: Vec<PlanRow>,
    pub edges: Vec<EdgeRow>,
    pub effects: Vec<EffectRow>,
    pub waits: Vec<WaitRow>,
    /// Limit of each agent.
    pub limits: HashMap<String, usize>,
    /// Invariants that the rows break.
    pub broken: Vec<String>,
}

impl Rows {
    /// Reads all.
    pub async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let people: Vec<(String, Uuid)> = sqlx::query_as("select subject, id from users")
            .fetch_all(pool)
            .await?;
        let mut events = BTreeMap::new();
        for (_, user) in &people {
            let of_user = sqlx::query_as(
                "select type, payload, created_at, seq, session_id, plan_id, step_id from events where user_id = $1 order by seq")
                .bind(user)
                .fetch_all(pool)
                .await?;
            events.insert(*user, of_user);
        }
        let limits: Vec<(Uuid, i16)> =
            sqlx::query_as("select id, max_concurrency from user_agents")
                .fetch_all(pool)
                .await?;
        let broken = engine::testing::check_invariants(pool).await?;
        Ok(Self {
            people: people.into_iter().collect(),
            events,
            steps: sqlx::query_as(
                "select id, user_id, plan_id, agent_id, key, kind, state::text as state, token, failures, round, waived, parent_id, depth,
                   joins::text as joins, result, error
                 from steps order by plan_id, position")
                .fetch_all(pool)
                .await?,
            plans: sqlx::query_as(
                "select id, user_id, goal, state::text as state, cancel_requested_at, finished_at from plans order by id")
                .fetch_all(pool)
                .await?,
            edges: sqlx::query_as("select step_id, needs_step_id, met_when::text as met_when from step_edges")
                .fetch_all(pool)
                .await?,
            effects: sqlx::query_as("select step_id, round, ordinal, kind, state, done_at from effects")
                .fetch_all(pool)
                .await?,
            waits: sqlx::query_as(
                "select id, step_id, payload, kind::text as kind, decision::text as decision, answer, deadline, decided_at from waits")
                .fetch_all(pool)
                .await?,
            limits: limits
                .into_iter()
                .map(|(id, limit)| (id.to_string(), usize::try_from(limit).unwrap_or(0)))
                .collect(),
            broken: broken
                .into_iter()
                .map(|violation| format!("{}: {}", violation.rule, violation.example))
                .collect(),
        })
    }

    /// All events of all people.
    pub fn all_events(&self) -> impl Iterator<Item = &Event> {
        self.events.values().flatten()
    }

    /// Steps that were taken up again after their end, by a retry or because of one.
    pub fn reopened(&self) -> HashSet<Uuid> {
        self.all_events()
            .filter(|event| event.event_type == "task_reopened")
            .filter_map(|event| event.step_id.map(|step| step.0))
            .collect()
    }

    /// The runs of all steps, in the order of their feeds.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut running: HashMap<Uuid, usize> = HashMap::new();
        let mut tokens: HashMap<Uuid, i64> = HashMap::new();
        for event in self.all_events() {
            let Some(step) = event.step_id.map(|step| step.0) else {
                continue;
            };
            if event.event_type == "task_started" {
                let token = tokens.entry(step).or_default();
                *token += 1;
                running.insert(step, runs.len());
                runs.push(Run {
                    step,
                    token: *token,
                    started: event.timestamp,
                    seq: event.seq,
                    ended: None,
                });
            } else if let Some(how) = end_of_run(event)
                && let Some(at) = running.remove(&step)
            {
                runs[at].ended = Some((event.timestamp, how));
            }
        }
        runs
    }
}

/// How an event ends a run, if it does.
pub fn end_of_run(event: &Event) -> Option<String> {
    // The last loss that a step may have ends it, or becomes a question.
    if event.payload["error"]["code"] == "poison" {
        return Some("worker_lost".to_owned());
    }
    match event.event_type.as_str() {
        "task_completed" | "task_failed" | "task_cancelled" | "task_waiting"
        | "approval_required" | "task_skipped" => Some(event.event_type.clone()),
        "task_progress" => event.payload["reason"].as_str().map(str::to_owned),
        _ => None,
    }
}

impl Evidence {
    /// The program of a plan, by its label.
    pub fn program_of(&self, plan: &PlanRow) -> Option<&Program> {
        let label = plan.goal.split_whitespace().next()?;
        self.programs.iter().find(|program| program.label == label)
    }

    /// The plan of a program, unless there is none.
    pub fn plan_of(&self, label: &str) -> Option<&PlanRow> {
        self.rows
            .plans
            .iter()
            .find(|plan| plan.goal.split_whitespace().next() == Some(label))
    }

    /// What a step was written as.
    pub fn written_as(&self, step: &StepRow) -> Option<&Step> {
        let plan = self
            .rows
            .plans
            .iter()
            .find(|plan| plan.id == step.plan_id)?;
        let program = self.program_of(plan)?;
        program.steps.iter().find(|one| one.key == step.key)
    }

    /// The step whose model got this label, by plan and key: `p7.s3`, or `p7.s3.i1` for an item of a map.
    pub fn step_of(&self, label: &str) -> Option<&StepRow> {
        let mut parts = label.splitn(3, '.');
        let plan = self.plan_of(parts.next()?)?;
        let key = parts.next()?;
        let key = match parts.next() {
            Some(item) => format!("{key}.{}", item.trim_start_matches('i')),
            None => key.to_owned(),
        };
        self.rows
            .steps
            .iter()
            .find(|step| step.plan_id == plan.id && step.key == key)
    }

    /// Writes everything into a folder, for those who have to find out what happened.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        let lines = |rows: Vec<String>| rows.join("\n");
        let events = self
            .rows
            .all_events()
            .filter_map(|one| serde_json::to_string(one).ok());
        let receipts = self
            .receipts
            .iter()
            .filter_map(|one| serde_json::to_string(one).ok());
        let steps = self.rows.steps.iter().map(|one| format!("{one:?}"));
        let plans = self.rows.plans.iter().map(|one| format!("{one:?}"));
        let blows = self.blows.iter().map(|one| format!("{one:?}"));
        let kills = self.kills.iter().map(|one| format!("{one:?}"));
        let waits = self.rows.waits.iter().map(|one| format!("{one:?}"));
        let programs = self.programs.iter().map(|one| format!("{one:?}"));
        fs::write(folder.join("events.jsonl"), lines(events.collect()))?;
        fs::write(folder.join("receipts.jsonl"), lines(receipts.collect()))?;
        fs::write(
            folder.join("rows.txt"),
            lines(plans.chain(steps).chain(waits).collect()),
        )?;
        fs::write(
            folder.join("faults.txt"),
            lines(blows.chain(kills).collect()),
        )?;
        fs::write(folder.join("programs.txt"), lines(programs.collect()))?;
        fs::write(folder.join("clients.txt"), format!("{:#?}", self.written))
    }

    /// How often the service's logs say this.
    pub fn logged(&self, words: &str) -> usize {
        self.logs
            .values()
            .map(|log| log.matches(words).count())
            .sum()
    }
}
