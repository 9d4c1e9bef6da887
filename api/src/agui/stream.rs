//! A run as it goes out: the feed's lines, translated. What an event only hints at is looked up here, so that the translator
//! needs nobody.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, time::Duration};

use axum::body::Bytes;
use engine::{
    Store, StoreError, UserScope,
    id::{PlanId, SessionId, WaitId},
};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    steps::Outline,
    translate::{Translator, Want},
    words::text,
};

/// Events read at once.
const PAGE: i64 = 200;

/// Pause after a failed look.
const RETRY: Duration = Duration::from_millis(500);

/// Lines of the feed, one JSON document each.
pub(crate) type Lines = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send>>;

/// One run of one plan, told event by event.
#[derive(Debug)]
pub(crate) struct Teller {
    store: Store,
    scope: UserScope,
    session: SessionId,
    plan: PlanId,
    translator: Translator,
    /// Seq of the plan's newest event that was told.
    told: i64,
    /// Whether it is known that something of the plan moves, or has moved since.
    moving: bool,
}

impl Teller {
    pub(crate) fn new(
        store: Store,
        scope: UserScope,
        session: SessionId,
        plan: PlanId,
        translator: Translator,
    ) -> Self {
        Self {
            store,
            scope,
            session,
            plan,
            translator,
            told: 0,
            moving: true,
        }
    }

    /// Takes in what happened before the run begins, from this position on; the position at which it begins, or to which the
    /// feed has come.
    pub(crate) async fn catch_up(&mut self, mut position: i64) -> Result<i64, StoreError> {
        loop {
            let page = self
                .store
                .events_after(self.scope, Some(self.session), position.into(), PAGE)
                .await?;
            for event in &page {
                let seq = event.seq;
                let event = serde_json::to_value(event).unwrap_or_default();
                if self.translator.begins(&event) {
                    return Ok(position);
                }
                self.take(event).await;
                position = seq;
            }
            if i64::try_from(page.len()).is_ok_and(|read| read < PAGE) {
                return Ok(position);
            }
        }
    }

    /// What the client was told to answer and nobody has answered.
    pub(crate) fn unanswered(&self) -> Vec<&str> {
        self.translator.unanswered()
    }

    /// The run's events as they go over the wire.
    pub(crate) fn frames(self, lines: Lines) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let state = (self, lines, VecDeque::new());
        futures::stream::unfold(state, |(mut teller, mut lines, mut ready)| async {
            loop {
                if let Some(frame) = ready.pop_front() {
                    return Some((Ok(frame), (teller, lines, ready)));
                }
                if teller.translator.is_over() {
                    return None;
                }
                ready = teller.next(&mut lines).await?;
            }
        })
    }

    /// The frames of what comes next; none: the feed has ended.
    async fn next(&mut self, lines: &mut Lines) -> Option<VecDeque<Bytes>> {
        if !self.moving && self.rests().await {
            return Some(frames(&self.translator.rest(), None));
        }
        self.moving = true;
        let Ok(line) = lines.next().await?;
        let Ok(event) = serde_json::from_slice::<Value>(&line) else {
            return Some(VecDeque::from([Bytes::from_static(b": still here\n\n")]));
        };
        if matches!(text(&event, "event_type"), "reconnect" | "reset") {
            let reason = text(&event["payload"], "reason");
            let message = format!(
                "the stream ends ({reason}), the run does not: send the same run again to follow it"
            );
            return Some(frames(
                &self.translator.break_off("reconnect", &message),
                None,
            ));
        }
        let seq = event["seq"].as_i64();
        let told = self.take(event).await;
        Some(frames(&told, seq))
    }

    async fn take(&mut self, mut event: Value) -> Vec<Value> {
        for want in self.translator.wants(&event) {
            if let Err(error) = self.look_up(want, &mut event).await {
                warn!(%error, "a detail of a run could not be read; it is left out");
            }
        }
        let told = self.translator.take(&event);
        if text(&event, "plan_id") == self.plan.to_string()
            && let Some(seq) = event["seq"].as_i64()
        {
            self.told = seq;
            self.moving = !self.translator.may_rest();
        }
        told
    }

    /// Whether nothing of the plan moves by itself and all of it has been told.
    async fn rests(&self) -> bool {
        loop {
            match self
                .store
                .plan_rests(self.scope, self.plan, self.told)
                .await
            {
                Ok(rests) => return rests,
                Err(error) => {
                    warn!(%error, "a plan could not be looked at; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn look_up(&mut self, want: Want, event: &mut Value) -> Result<(), StoreError> {
        match want {
            Want::Outline => {
                let steps = self.store.outline(self.scope, self.plan).await?;
                self.translator
                    .learn(steps.into_iter().map(outline).collect(), event);
            }
            Want::Asked(id) => {
                let asked = self.wait(&id).await?;
                if let (Some(Value::Object(asked)), Value::Object(payload)) =
                    (asked.map(|asked| asked.payload), &mut event["payload"])
                {
                    payload.extend(asked);
                }
            }
            Want::Executed(call) => {
                if let Ok(id) = call.parse()
                    && let Some(made) = self.store.executed(self.scope, id).await?
                    && made["state"] == "done"
                {
                    self.translator.result(&call, as_text(&made["result"]));
                }
            }
            Want::Answered(call) => {
                if let Some(answer) = self.wait(&call).await?.and_then(|wait| wait.answer) {
                    self.translator.result(&call, as_text(&answer));
                }
            }
            Want::Result(step) => {
                if let Ok(step) = step.parse()
                    && let Some(result) = self.store.step_result(self.scope, step).await?
                {
                    event["payload"]["result"] = result;
                }
            }
            Want::Reply => {
                let reply = self
                    .store
                    .answer_of(self.scope, self.session, self.plan)
                    .await?;
                if let Some(reply) = reply {
                    event["payload"]["content"] = json!(reply.content);
                }
            }
        }
        Ok(())
    }

    async fn wait(&self, id: &str) -> Result<Option<engine::store::Approval>, StoreError> {
        let Ok(id) = id.parse::<WaitId>() else {
            return Ok(None);
        };
        match self.store.approval(self.scope, id).await? {
            Some(found) => Ok(Some(found)),
            None => self.store.tool_call(self.scope, id).await,
        }
    }
}

fn outline(step: engine::plan::Step) -> Outline {
    Outline {
        id: step.id.to_string(),
        key: step.key,
        kind: step.kind,
        agent: step.agent_name,
        parent: step.parent_id.map(|parent| parent.to_string()),
        needs: step.needs.into_iter().map(|need| need.key).collect(),
        made_at: step.created_at.timestamp_millis(),
    }
}

fn as_text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Events as frames; the last one of a stored event carries its seq, which consumers pass over.
pub(crate) fn frames(events: &[Value], seq: Option<i64>) -> VecDeque<Bytes> {
    let last = events.len().saturating_sub(1);
    let frame = |(place, event): (usize, &Value)| {
        let id = seq
            .filter(|_| place == last)
            .map_or_else(String::new, |seq| format!("id: {seq}\n"));
        Bytes::from(format!("{id}data: {event}\n\n"))
    };
    events.iter().enumerate().map(frame).collect()
}
