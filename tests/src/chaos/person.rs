//! People under chaos: they send their plans, steer some of them, and answer what they are asked. They tell the truth about what the
//! world shows, and repeat every answer that they did not hear the end of.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::Utc;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    client::Client,
    history::{Cancel, Decision, History, Pause, Reply, Submission},
    program::{AGENTS, Program, Steering},
    receipts::Book,
    stage::Stage,
};

/// Between two looks into the inbox.
const LOOK: Duration = Duration::from_millis(250);

/// One person.
#[derive(Debug, Clone)]
pub struct Person {
    client: Client,
    history: History,
    book: Book,
    tools: String,
}

impl Person {
    /// Someone who can reach the tools there.
    pub fn new(client: Client, history: &History, stage: &Stage, tools: &str) -> Self {
        Self {
            client,
            history: history.clone(),
            book: stage.book.clone(),
            tools: tools.to_owned(),
        }
    }

    /// Makes tools, agents and a session; the session's id.
    ///
    /// # Panics
    ///
    /// When the service does not take them.
    pub async fn settle_in(&self) -> String {
        for (name, effect) in [
            ("add", "idempotent"),
            ("charge", "irreversible"),
            ("look", "read"),
        ] {
            self.must("tools/", &tool(&self.tools, name, effect)).await;
        }
        // The same charge, but the person is asked before.
        let mut pay = tool(&self.tools, "charge", "irreversible");
        pay["name"] = "pay".into();
        pay["consent"] = "ask".into();
        self.must("tools/", &pay).await;
        for (name, limit) in AGENTS {
            let config = json!({ "model": "openai/chaos", "max_concurrency": limit, "tools": ["add", "charge", "look", "pay"] });
            self.must("agents/", &json!({ "name": name, "config": config }))
                .await;
        }
        let session = self.must("chat/sessions/", &json!({})).await;
        session["id"].as_str().unwrap_or_default().to_owned()
    }

    async fn must(&self, path: &str, body: &Value) -> Value {
        match self.client.insist(path, body).await {
            Reply::Taken(_, made) => made,
            other => panic!("{path} {body}: {other:?}"),
        }
    }

    /// Sends the programs, each at its time, and steers them. Returns when all that is done.
    pub async fn work(self: Arc<Self>, programs: Vec<Program>, session: String, begun: Instant) {
        let mut steering = tokio::task::JoinSet::new();
        for (number, program) in programs.into_iter().enumerate() {
            sleep_until(begun + program.at).await;
            let session = (number % 2 == 0).then_some(session.as_str());
            let reply = self.client.post("plans/", &program.body(session)).await;
            let plan = reply.taken().and_then(|plan| uuid_of(&plan["id"]));
            self.history.write().submissions.push(Submission {
                label: program.label.clone(),
                person: self.client.person,
                reply,
            });
            if let Some(plan) = plan {
                let person = Arc::clone(&self);
                steering.spawn(async move { person.steer(plan, &program).await });
            }
        }
        while steering.join_next().await.is_some() {}
    }

    async fn steer(&self, plan: Uuid, program: &Program) {
        match program.steering {
            Steering::None => {}
            Steering::Cancel(after) => {
                sleep(after).await;
                self.cancel(plan, None).await;
            }
            Steering::CancelStep(number, after) => {
                sleep(after).await;
                let key = &program.steps[number].key;
                if let Some(step) = self.step(plan, |step| step["key"] == key.as_str()).await {
                    self.cancel(plan, Some(step)).await;
                }
            }
            Steering::Pause(after, rest) => {
                sleep(after).await;
                let paused = self
                    .client
                    .insist(&format!("plans/{plan}/pause/"), &json!({}))
                    .await;
                let from = Utc::now();
                sleep(rest).await;
                let to = Utc::now();
                if paused.taken().is_some() {
                    self.history.write().pauses.push(Pause { plan, from, to });
                }
                self.client
                    .insist(&format!("plans/{plan}/resume/"), &json!({}))
                    .await;
            }
            Steering::Retry => self.retry(plan).await,
        }
    }

    async fn cancel(&self, plan: Uuid, step: Option<String>) {
        let path = step.as_ref().map_or_else(
            || format!("plans/{plan}/cancel/"),
            |step| format!("plans/{plan}/steps/{step}/cancel/"),
        );
        let reply = self.client.insist(&path, &json!({})).await;
        let taken_at = reply.taken().is_some().then(Utc::now);
        self.history.write().cancels.push(Cancel {
            plan,
            step,
            taken_at,
        });
    }

    /// Waits a while for something to have failed for good, and retries it in place.
    async fn retry(&self, plan: Uuid) {
        for _ in 0..40 {
            sleep(LOOK).await;
            let Some(step) = self.step(plan, |step| step["state"] == "failed").await else {
                continue;
            };
            let path = format!("plans/{plan}/steps/{step}/retry/");
            // Once: whether a second one would be a second retry is not for a client to guess.
            let reply = self.client.post(&path, &json!({})).await;
            if !matches!(reply, Reply::Refused(..))
                && let Ok(step) = step.parse()
            {
                self.history.write().retried.push(step);
            }
            return;
        }
    }

    async fn step(&self, plan: Uuid, wanted: impl Fn(&Value) -> bool) -> Option<String> {
        let steps = self
            .client
            .get(&format!("plans/{plan}/steps/?limit=200"))
            .await?;
        let found = steps["items"]
            .as_array()?
            .iter()
            .find(|step| wanted(step))?;
        found["id"].as_str().map(str::to_owned)
    }

    /// Answers all questions until told to stop.
    pub async fn answer(self: Arc<Self>, mut rng: fastrand::Rng, stop: CancellationToken) {
        let mut chosen: HashMap<Uuid, Value> = HashMap::new();
        while !stop.is_cancelled() {
            let inbox = self.client.get("approvals/?status=pending").await;
            let items = inbox.and_then(|inbox| inbox["items"].as_array().cloned());
            for item in items.unwrap_or_default() {
                if let Some(id) = uuid_of(&item["id"]) {
                    let choice = chosen
                        .entry(id)
                        .or_insert_with(|| self.choose(&mut rng, &item));
                    self.decide(id, &item, choice.clone()).await;
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Answers all questions with this until told to stop.
    pub async fn decide_all(&self, choice: Value, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let inbox = self.client.get("approvals/?status=pending").await;
            let items = inbox.and_then(|inbox| inbox["items"].as_array().cloned());
            for item in items.unwrap_or_default() {
                if let Some(id) = uuid_of(&item["id"]) {
                    let choice = match item["type"].as_str() {
                        Some("outcome_unknown") => self.truth(&item),
                        Some("tool") => json!({ "choice": "approve" }),
                        _ => choice.clone(),
                    };
                    self.decide(id, &item, choice).await;
                }
            }
            sleep(LOOK / 5).await;
        }
    }

    /// What the world shows, under the key that the call was made with.
    fn truth(&self, item: &Value) -> Value {
        let key = item["details"]["idempotency_key"].as_str();
        if self.book.applied(key.unwrap_or_default()) > 0 {
            json!({ "choice": "done", "result": "it was done" })
        } else {
            json!({ "choice": "not_done" })
        }
    }

    /// What to answer. Of an unknown outcome people say what they see in the world.
    fn choose(&self, rng: &mut fastrand::Rng, item: &Value) -> Value {
        match item["type"].as_str() {
            Some("outcome_unknown") => self.truth(item),
            Some("tool") => json!({ "choice": "approve" }),
            _ => {
                let offered: Vec<&str> = item["choices"]
                    .as_array()
                    .map(|choices| choices.iter().filter_map(Value::as_str).collect())
                    .unwrap_or_default();
                let wanted = ["retry", "skip", "accept_partial", "stop"][rng.usize(..4)];
                let choice = if offered.contains(&wanted) {
                    wanted
                } else {
                    "accept_partial"
                };
                json!({ "choice": choice })
            }
        }
    }

    async fn decide(&self, id: Uuid, item: &Value, choice: Value) {
        let path = format!("approvals/{id}/confirm/");
        let mut decision = Decision {
            approval: id,
            kind: item["type"].as_str().unwrap_or_default().to_owned(),
            step: uuid_of(&item["step_id"]),
            choice,
            statuses: Vec::new(),
            at: Utc::now(),
        };
        // Again after an answer that was not heard, and now and then for good measure.
        for _ in 0..3 {
            let reply = self.client.post(&path, &decision.choice).await;
            let status = match &reply {
                Reply::Taken(status, _) | Reply::Refused(status, _) => *status,
                Reply::Unknown(_) => 0,
            };
            decision.statuses.push(status);
            decision.at = Utc::now();
            if status != 0 && !id.as_u128().is_multiple_of(3) {
                break;
            }
        }
        self.history.write().decisions.push(decision);
    }
}

fn tool(base: &str, name: &str, effect: &str) -> Value {
    let number = json!({ "type": "integer" });
    let word = json!({ "type": "string" });
    json!({
        "name": name,
        "description": format!("{name} a number"),
        "input_schema": { "type": "object", "properties": { "n": number, "program": word, "agent": word, "place": number },
            "required": ["n"], "additionalProperties": false },
        "executor": { "kind": "http", "url": format!("{base}/{name}") },
        "effect": effect,
        "consent": "auto",
        "timeout_seconds": 3,
    })
}

fn uuid_of(value: &Value) -> Option<Uuid> {
    value.as_str()?.parse().ok()
}
