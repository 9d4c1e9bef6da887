//! The scenario of the crash points: small, and the same each time: needs, tools, a map, a timer, a busy provider, a card, a lease
//! that is lost, a consent, a cancel.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    client::Client,
    history::{History, Reply},
    model_server::ModelMood,
    person::Person,
    program::{Kind, OnFailure, Program, Steering, Step, When},
    receipts::Kind as Called,
    script::Script,
    stage::Stage,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// Somewhat longer than a third of a lease.
const RENEWED: Duration = Duration::from_millis(1_300);

/// One playing of it, by a person of its own.
pub struct Scenario<'a> {
    stage: &'a Stage,
    client: Client,
    person: Person,
    label: String,
}

/// What came of it: names with the label taken out, so that two playings can be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Result {
    /// State of each plan and step.
    states: BTreeMap<String, String>,
    /// How often each tool call was done.
    done: BTreeMap<String, usize>,
    /// How often it was asked whether a step may call a tool.
    asked: BTreeMap<String, i64>,
    /// What is wrong with the feed.
    wrong: Vec<String>,
}

impl Result {
    /// What is not as it should be.
    pub fn differs_from(&self, expected: &Self) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        if self.states != expected.states {
            wrong.push(format!(
                "the states are {:?} and should be {:?}",
                self.states, expected.states
            ));
        }
        if self.done != expected.done {
            wrong.push(format!(
                "done was {:?} and should be {:?}",
                self.done, expected.done
            ));
        }
        if self.asked != expected.asked {
            wrong.push(format!(
                "asked was {:?} and should be {:?}",
                self.asked, expected.asked
            ));
        }
        wrong
    }
}

impl<'a> Scenario<'a> {
    /// By a person of this name.
    pub fn new(stage: &'a Stage, name: &str) -> Self {
        let history = History::default();
        let client = Client::named(&stage.base, name, 0, &history);
        let tools = format!("http://{}", stage.edges.tools.address());
        let person = Person::new(client.clone(), &history, stage, &tools);
        Self {
            stage,
            client,
            person,
            label: name.to_owned(),
        }
    }

    /// Plays it to the end.
    pub async fn play(&self) -> Result {
        self.person.settle_in().await;
        self.stage.model.moods.next(ModelMood::Busy, 1);
        let mut plans = vec![
            self.submit(&self.program("work", work())).await,
            self.submit(&self.program("fails", fails())).await,
        ];
        let long = self.submit(&self.program("long", long())).await;
        let stop = CancellationToken::new();
        let inbox = self
            .person
            .decide_all(json!({ "choice": "accept_partial" }), &stop);
        let rest = async {
            self.cancel_when_it_runs(&long).await;
            plans.push(long);
            for plan in &plans {
                self.ended(plan).await;
            }
            stop.cancel();
        };
        tokio::join!(inbox, rest);
        self.result(&plans).await
    }

    fn program(&self, name: &str, steps: Vec<Step>) -> Program {
        let label = format!("{}.{name}", self.label);
        let steps = steps.into_iter().map(|mut step| {
            step.script.id = match step.kind {
                Kind::Map(_) => format!("{label}.{}.{{{{item}}}}", step.key),
                _ => format!("{label}.{}", step.key),
            };
            for (_, args) in &mut step.script.calls {
                args["program"] = step.script.id.clone().into();
            }
            step
        });
        Program {
            person: 0,
            at: Duration::ZERO,
            steps: steps.collect(),
            on_failure: OnFailure::Decide,
            steering: Steering::None,
            label,
        }
    }

    /// Sends a plan exactly once: after an answer that was not heard it looks whether it is there. Nothing is on its way any more then,
    /// since the process that might have taken it is dead.
    async fn submit(&self, program: &Program) -> String {
        loop {
            match self.client.post("plans/", &program.body(None)).await {
                Reply::Taken(_, plan) => return id_of(&plan),
                Reply::Refused(status, why) => panic!("{status} {why}"),
                Reply::Unknown(_) => {
                    if let Some(plan) = self.find(&program.label).await {
                        return plan;
                    }
                }
            }
        }
    }

    /// The plan of this label, once somebody answers.
    async fn find(&self, label: &str) -> Option<String> {
        loop {
            if let Some(plans) = self.client.get("plans/?limit=200").await {
                let plans = plans["items"].as_array()?;
                let of_label = |plan: &&Value| {
                    plan["goal"]
                        .as_str()
                        .is_some_and(|goal| goal.starts_with(label))
                };
                return plans.iter().find(of_label).map(id_of);
            }
            sleep(LOOK).await;
        }
    }

    /// Takes its step away from the worker that runs it, and cancels the second run after a renewal, and after some of its text
    /// was kept.
    async fn cancel_when_it_runs(&self, plan: &str) {
        loop {
            let steps = self.client.get(&format!("plans/{plan}/steps/")).await;
            let step = steps.map_or(Value::Null, |steps| steps["items"][0].clone());
            if step["state"] == "running" && step["attempt"].as_i64() >= Some(2) {
                break;
            }
            if step["attempt"] == 1 {
                self.expire(&step["id"]).await;
            }
            sleep(LOOK).await;
        }
        sleep(RENEWED).await;
        self.client
            .insist(&format!("plans/{plan}/cancel/"), &json!({}))
            .await;
    }

    /// Makes a lease expire, as if its worker had been asleep for that long.
    async fn expire(&self, step: &Value) {
        let Some(step) = step.as_str().and_then(|id| id.parse::<Uuid>().ok()) else {
            return;
        };
        // Once more if this fails, or if a renewal comes first.
        let _ = sqlx::query(
            "update leases set expires_at = clock_timestamp() where step_id = $1 and token = 1",
        )
        .bind(step)
        .execute(&self.stage.direct)
        .await;
    }

    async fn ended(&self, plan: &str) {
        loop {
            let read = self.client.get(&format!("plans/{plan}/")).await;
            if read.is_some_and(|plan| plan["state"] != "active") {
                return;
            }
            sleep(LOOK).await;
        }
    }

    async fn result(&self, plans: &[String]) -> Result {
        let mut result = Result::default();
        for (number, plan) in plans.iter().enumerate() {
            let head = self.read(&format!("plans/{plan}/")).await;
            let state = head["state"].as_str().unwrap_or_default().to_owned();
            result.states.insert(format!("plan {number}"), state);
            let steps = self.read(&format!("plans/{plan}/steps/?limit=200")).await;
            for step in steps["items"].as_array().into_iter().flatten() {
                let name = format!("{number} {}", step["key"].as_str().unwrap_or_default());
                let state = step["state"].as_str().unwrap_or_default().to_owned();
                result.states.insert(name, state);
            }
        }
        for receipt in self.stage.book.all() {
            let of_ours = receipt
                .program
                .strip_prefix(&self.label)
                .filter(|_| receipt.kind == Called::Tool && receipt.applied);
            if let Some(program) = of_ours {
                let call = format!("{program} {} {}", receipt.name, receipt.args["place"]);
                let times = result.done.entry(call).or_default();
                // To look twice does nothing twice.
                *times = if receipt.name == "look" {
                    1
                } else {
                    *times + 1
                };
            }
        }
        result.asked = self.asked().await;
        result.wrong = self.feed().await;
        result
    }

    /// Questions about tools by step.
    async fn asked(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select s.key, count(*) from waits w join steps s on s.user_id = w.user_id and s.id = w.step_id
             where w.user_id = (select id from users where subject = $1) and w.payload ->> 'type' = 'tool' group by 1",
        )
        .bind(&self.label)
        .fetch_all(&self.stage.direct)
        .await
        .unwrap_or_default();
        rows.into_iter().collect()
    }

    async fn feed(&self) -> Vec<String> {
        let events = sqlx::query_as(
            "select type, payload, created_at, seq, session_id, plan_id, step_id from events
             where user_id = (select id from users where subject = $1) order by seq",
        )
        .bind(&self.label)
        .fetch_all(&self.stage.direct)
        .await;
        match events {
            Ok(events) => crate::checker::check_feed(&events, |_| 5),
            Err(error) => vec![format!("the feed cannot be read: {error}")],
        }
    }

    async fn read(&self, path: &str) -> Value {
        loop {
            if let Some(read) = self.client.get(path).await {
                return read;
            }
            sleep(LOOK).await;
        }
    }
}

fn id_of(plan: &Value) -> String {
    plan["id"].as_str().unwrap_or_default().to_owned()
}

fn step(key: &str, kind: Kind, needs: &[usize], calls: &[&str]) -> Step {
    let calls = calls.iter().enumerate().map(|(place, name)| {
        let args = json!({ "n": 1, "program": "", "agent": "", "place": place });
        ((*name).to_owned(), args)
    });
    Step {
        key: key.to_owned(),
        kind,
        needs: needs.iter().map(|need| (*need, When::Success)).collect(),
        any: false,
        agent: 2,
        script: Script {
            text: format!("{key} is done"),
            calls: calls.collect(),
            pieces: 3,
            gap_ms: 5,
            ..Script::default()
        },
    }
}

/// A diamond with tools, a map where there are maps, and a timer.
fn work() -> Vec<Step> {
    vec![
        step("top", Kind::Agent, &[], &["add"]),
        step("left", Kind::Agent, &[0], &["add", "look"]),
        step("right", Kind::Agent, &[0], &["charge"]),
        step("bottom", Kind::Agent, &[1, 2], &[]),
        step("asks", Kind::Agent, &[0], &["pay", "pay"]),
        step("timer", Kind::Timer(1), &[], &[]),
        step("map", Kind::Map(2), &[0], &["add"]),
    ]
}

/// A step that cannot succeed, and what needs it.
fn fails() -> Vec<Step> {
    let mut refused = step("refused", Kind::Agent, &[], &[]);
    refused.script.refuse = true;
    vec![
        refused,
        step("after", Kind::Agent, &[0], &[]),
        step("beside", Kind::Agent, &[], &[]),
    ]
}

/// A step that lasts until it is cancelled.
fn long() -> Vec<Step> {
    let mut step = step("long", Kind::Agent, &[], &[]);
    step.script.pieces = 2_000;
    step.script.text = "word ".repeat(2_000);
    step.script.gap_ms = 20;
    vec![step]
}
