//! What is known of a running plan: read whole from the API now and then, kept up by its events in between.
//!
//! Events tell what happened, the API tells what is: whatever an event's telling leaves out or gets wrong is put right
//! by the next reading, so that reading is rare and never has to be exact to the moment.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use engine::{
    event::Event,
    plan::{
        PlanState,
        picture::{Picture, PictureNode},
    },
    step::StateName,
};
use serde::Deserialize;

use crate::{
    client::{Client, Piece},
    graph::Graph,
};

/// Lines of news that are kept.
const NEWS: usize = 5;

/// A plan as far as it is known.
#[derive(Debug)]
pub(crate) struct Board {
    /// Its id.
    pub(crate) plan: String,
    /// Its session, if it has one.
    pub(crate) session: Option<String>,
    /// Stored state.
    pub(crate) state: PlanState,
    /// Steps by key.
    runs: HashMap<String, Run>,
    picture: Picture,
    began: DateTime<Utc>,
    ended: Option<DateTime<Utc>>,
    /// The last things that happened, oldest first.
    pub(crate) news: VecDeque<String>,
    /// What is being said at the moment, as far as it was said.
    pub(crate) speech: Option<Piece>,
    /// The answer to the person's message.
    pub(crate) answer: Option<String>,
    /// The graph may have changed in a way that events do not tell.
    pub(crate) stale: bool,
}

/// The last run of a step.
#[derive(Debug, Clone, Copy)]
struct Run {
    attempt: u64,
    began: DateTime<Utc>,
    seen: Instant,
    took: Option<TimeDelta>,
}

/// What is read of `GET /my/plans/{id}/`.
#[derive(Debug, Deserialize)]
struct PlanDocument {
    session_id: Option<String>,
    state: PlanState,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// What is read of `GET /my/plans/{id}/steps/`.
#[derive(Debug, Deserialize)]
struct StepPage {
    items: Vec<StepDocument>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StepDocument {
    key: String,
    attempt: u64,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl Board {
    /// Reads a plan; none: there is no such plan.
    pub(crate) async fn read(client: &Client, plan: &str) -> anyhow::Result<Option<Self>> {
        let Some(document) = client.find(&format!("my/plans/{plan}/")).await? else {
            return Ok(None);
        };
        let document: PlanDocument = serde_json::from_value(document)
            .context("the service describes the plan in a way that is not known here")?;
        let mut board = Self {
            plan: plan.to_owned(),
            session: document.session_id,
            state: document.state,
            runs: HashMap::new(),
            picture: Picture::default(),
            began: document.created_at,
            ended: document.finished_at,
            news: VecDeque::new(),
            speech: None,
            answer: None,
            stale: true,
        };
        board.read_runs(client).await?;
        board.refresh(client).await?;
        Ok(Some(board))
    }

    /// What ran before anybody watched. Read once: steps come with their results, and those may be long.
    async fn read_runs(&mut self, client: &Client) -> anyhow::Result<()> {
        let mut cursor = String::new();
        loop {
            let page = client
                .get(&format!("my/plans/{}/steps/?limit=200{cursor}", self.plan))
                .await?;
            let page: StepPage = serde_json::from_value(page)
                .context("the service lists steps in a way that is not known here")?;
            self.runs.extend(
                page.items
                    .into_iter()
                    .filter_map(|step| Some((step.key.clone(), Run::of(&step)?))),
            );
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(()),
            }
        }
    }

    /// Reads again.
    pub(crate) async fn refresh(&mut self, client: &Client) -> anyhow::Result<()> {
        // The state first: if the plan ends in between, the next reading finds it, and the picture is not older than the state.
        let document = client.get(&format!("my/plans/{}/", self.plan)).await?;
        let document: PlanDocument = serde_json::from_value(document)?;
        let graph = client
            .get(&format!("my/plans/{}/graph/?format=json", self.plan))
            .await?;
        let graph: Graph = serde_json::from_value(graph)
            .context("the service draws the plan in a way that is not known here")?;
        self.picture = graph.into_picture();
        self.state = document.state;
        self.ended = document.finished_at;
        self.stale = false;
        Ok(())
    }

    /// Takes in an event of this plan; what it says to a person, if anything.
    pub(crate) fn take(&mut self, event: &Event) -> Option<String> {
        let key = event.payload["key"].as_str().unwrap_or("").to_owned();
        let said = match event.event_type.as_str() {
            "task_started" => self.started(&key, event),
            "task_completed" => self.finished(&key, StateName::Succeeded, event),
            "task_failed" => self.finished(&key, StateName::Failed, event),
            "task_cancelled" => self.finished(&key, StateName::Cancelled, event),
            "task_skipped" => self.moved(
                &key,
                StateName::Skipped,
                "skipped: what it needs did not come",
            ),
            "task_waiting" => self.moved(&key, StateName::Suspended, "waits"),
            "approval_required" => self.moved(&key, StateName::Suspended, "waits for an approval"),
            "approval_resolved" => {
                self.moved(&key, StateName::Ready, "goes on: the approval is decided")
            }
            "task_progress" if !key.is_empty() => self.progressed(&key, event)?,
            "task_plan_created" => self.planned(event),
            "plan_completed" => self.completed(event),
            "message_created" => {
                let answer = event.payload["content"]
                    .as_str()
                    .filter(|_| event.payload["role"] == "assistant");
                self.answer = answer.map(str::to_owned).or_else(|| self.answer.take());
                return None;
            }
            _ => return None,
        };
        let at = event.timestamp - self.began;
        let line = format!("{:>7}  {said}", seconds(at));
        self.news.push_back(line.clone());
        while self.news.len() > NEWS {
            self.news.pop_front();
        }
        Some(line)
    }

    /// Takes in a piece of text that a step's model said.
    pub(crate) fn hear(&mut self, piece: Piece) {
        // Text goes its own way and may come after the end of its step.
        if self
            .node(&piece.key)
            .is_some_and(|node| node.state.is_final())
        {
            return;
        }
        match &mut self.speech {
            Some(speech)
                if !piece.anew && (&speech.key, speech.turn) == (&piece.key, piece.turn) =>
            {
                speech.text.push_str(&piece.text);
            }
            _ => self.speech = Some(piece),
        }
    }

    /// The picture of the moment.
    pub(crate) fn picture(&self) -> Picture {
        let mut picture = self.picture.clone();
        for node in &mut picture.nodes {
            node.note = self.note(node);
        }
        picture
    }

    /// Steps that have ended, and all steps.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (
            self.picture
                .nodes
                .iter()
                .filter(|node| node.state.is_final())
                .count(),
            self.picture.nodes.len(),
        )
    }

    /// Keys of the steps in a state.
    pub(crate) fn in_state(&self, state: StateName) -> Vec<&str> {
        self.picture
            .nodes
            .iter()
            .filter(|node| node.state == state)
            .map(|node| node.key.as_str())
            .collect()
    }

    /// How long it has been going, or went.
    pub(crate) fn elapsed(&self) -> String {
        let until = self.ended.unwrap_or_else(Utc::now);
        seconds(until - self.began)
    }

    fn note(&self, node: &PictureNode) -> Option<String> {
        let run = self.runs.get(&node.key)?;
        let time = match (node.state, run.took) {
            (StateName::Running, _) => {
                seconds(TimeDelta::from_std(run.seen.elapsed()).unwrap_or_default())
            }
            (_, Some(took)) => seconds(took),
            _ => return None,
        };
        Some(if run.attempt > 1 {
            format!("{time} #{}", run.attempt)
        } else {
            time
        })
    }

    fn started(&mut self, key: &str, event: &Event) -> String {
        let attempt = event.payload["attempt"].as_u64().unwrap_or(1);
        self.runs.insert(
            key.to_owned(),
            Run {
                attempt,
                began: event.timestamp,
                seen: Instant::now(),
                took: None,
            },
        );
        let by = self
            .node(key)
            .map(|node| node.label.clone())
            .filter(|label| !label.is_empty() && label != key);
        let by = by.map(|label| format!(" by {label}")).unwrap_or_default();
        let again = if attempt > 1 {
            format!(" again, attempt {attempt}")
        } else {
            String::new()
        };
        self.moved(key, StateName::Running, &format!("started{by}{again}"))
    }

    fn finished(&mut self, key: &str, state: StateName, event: &Event) -> String {
        let run = self.runs.get_mut(key);
        let took = run.map(|run| {
            let took = event.timestamp - run.began;
            run.took = Some(took);
            format!(" in {}", seconds(took))
        });
        let why = event.payload["error"]["message"]
            .as_str()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        self.moved(
            key,
            state,
            &format!("{}{}{why}", state.as_str(), took.unwrap_or_default()),
        )
    }

    fn progressed(&mut self, key: &str, event: &Event) -> Option<String> {
        let why = event.payload["error"]["message"]
            .as_str()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let said = match event.payload["reason"].as_str() {
            Some("retry") => format!("will be tried again{why}"),
            Some("worker_lost") => "goes to another worker: its own was lost".to_owned(),
            Some(_) => "was given back".to_owned(),
            None if self.in_state(StateName::Suspended).contains(&key) => "goes on".to_owned(),
            None => return None,
        };
        Some(self.moved(key, StateName::Ready, &said))
    }

    fn planned(&mut self, event: &Event) -> String {
        self.stale = true;
        let steps = event.payload["steps"].as_u64().unwrap_or(0);
        format!("{:<12} {steps} steps", "planned")
    }

    fn completed(&mut self, event: &Event) -> String {
        self.state = serde_json::from_value(event.payload["state"].clone()).unwrap_or(self.state);
        self.ended = Some(event.timestamp);
        self.stale = true;
        format!("{:<12} {}", "plan", self.state.as_str())
    }

    /// Moves a step, and says so.
    fn moved(&mut self, key: &str, state: StateName, said: &str) -> String {
        if let Some(node) = self.picture.nodes.iter_mut().find(|node| node.key == key) {
            node.state = state;
        }
        if self.speech.as_ref().is_some_and(|piece| piece.key == key) && state != StateName::Running
        {
            self.speech = None;
        }
        self.promote();
        format!("{key:<12} {said}")
    }

    /// No event says that a step became ready: it did when the last of its needs succeeded.
    fn promote(&mut self) {
        let succeeded: Vec<String> = self
            .in_state(StateName::Succeeded)
            .into_iter()
            .map(str::to_owned)
            .collect();
        for node in &mut self.picture.nodes {
            if node.state == StateName::Blocked
                && node.needs.iter().all(|need| succeeded.contains(need))
            {
                node.state = StateName::Ready;
            }
        }
    }

    fn node(&self, key: &str) -> Option<&PictureNode> {
        self.picture.nodes.iter().find(|node| node.key == key)
    }
}

impl Run {
    fn of(step: &StepDocument) -> Option<Self> {
        let began = step.started_at?;
        let going = (Utc::now() - began).to_std().unwrap_or_default();
        let seen = Instant::now()
            .checked_sub(going)
            .unwrap_or_else(Instant::now);
        Some(Self {
            attempt: step.attempt,
            began,
            seen,
            took: step.finished_at.map(|ended| ended - began),
        })
    }
}

/// A time as a person says it.
fn seconds(time: TimeDelta) -> String {
    // The clocks of two machines may differ by a little.
    let ms = std::cmp::max(time.num_milliseconds(), 0);
    match ms / 1000 {
        whole @ 0..60 => format!("{whole}.{} s", ms % 1000 / 100),
        whole @ 60..3600 => format!("{} m {} s", whole / 60, whole % 60),
        whole => format!("{} h {} m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn board(steps: &[(&str, &[&str])]) -> Board {
        let nodes = steps.iter().map(|(key, needs)| PictureNode {
            key: (*key).to_owned(),
            label: "agent".to_owned(),
            kind: "agent".to_owned(),
            state: StateName::Blocked,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            note: None,
        });
        Board {
            plan: String::new(),
            session: None,
            state: PlanState::Active,
            runs: HashMap::new(),
            picture: Picture {
                title: String::new(),
                nodes: nodes.collect(),
            },
            began: DateTime::UNIX_EPOCH,
            ended: None,
            news: VecDeque::new(),
            speech: None,
            answer: None,
            stale: false,
        }
    }

    fn event(at_ms: i64, event_type: &str, payload: serde_json::Value) -> Event {
        Event {
            event_type: event_type.to_owned(),
            payload,
            timestamp: DateTime::UNIX_EPOCH + TimeDelta::milliseconds(at_ms),
            seq: 1,
            session_id: None,
            plan_id: None,
            step_id: None,
        }
    }

    #[test]
    fn events_move_steps_and_what_waited_for_them() {
        let mut board = board(&[("a", &[]), ("b", &["a"])]);
        let told = [
            event(0, "task_started", json!({"key": "a", "attempt": 1})),
            event(1500, "task_completed", json!({"key": "a"})),
            event(1600, "plan_completed", json!({"state": "partial"})),
        ]
        .iter()
        .filter_map(|event| board.take(event))
        .collect::<Vec<_>>();
        assert_eq!(
            told,
            [
                "  0.0 s  a            started by agent",
                "  1.5 s  a            succeeded in 1.5 s",
                "  1.6 s  plan         partial"
            ]
        );
        assert_eq!(board.in_state(StateName::Ready), ["b"]);
        assert_eq!(
            (board.progress(), board.state),
            ((1, 2), PlanState::Partial)
        );
    }

    #[test]
    fn an_unknown_event_says_nothing_and_changes_nothing() {
        let mut board = board(&[("a", &[])]);
        assert_eq!(
            board.take(&event(0, "context_retrieved", json!({"key": "a"}))),
            None
        );
        assert!(board.take(&event(0, "task_started", json!({}))).is_some());
        assert_eq!(
            board.in_state(StateName::Blocked).len(),
            0,
            "promoted: it needs nothing"
        );
    }

    #[test]
    fn times_are_said_as_a_person_would() {
        let said = |ms| seconds(TimeDelta::milliseconds(ms));
        assert_eq!(
            [said(-20), said(950), said(61_000), said(3_725_000)],
            ["0.0 s", "0.9 s", "1 m 1 s", "1 h 2 m"]
        );
    }
}
