//! The lines of a feed as they go over the wire. Each is built once, however many streams show it.

use std::{ops::Range, sync::Arc};

use axum::body::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use engine::{
    event::Event,
    id::{PlanId, SessionId, StepId},
    plan::PlanState,
};
use serde_json::json;

use crate::texts::Mark;

/// What deltas are called on the wire, like the stored events about a step's progress.
pub(crate) const DELTA_TYPE: &str = "task_progress";

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `text/event-stream`.
    Sse,
    /// `application/x-ndjson`: the `data` of each event on a line.
    NdJson,
}

/// One line of a feed; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    /// Stored, with a seq.
    Event(Arc<EventLine>),
    /// Text on its way.
    Delta(Arc<DeltaLine>),
}

/// A stored event.
#[derive(Debug)]
pub(crate) struct EventLine {
    pub(crate) seq: i64,
    pub(crate) session: Option<SessionId>,
    pub(crate) plan: Option<PlanId>,
    pub(crate) kind: String,
    /// The step that has ended, if that is what happened.
    pub(crate) ended: Option<StepId>,
    /// How the plan ended, if that is what happened.
    pub(crate) closed: Option<PlanState>,
    pub(crate) frame: Frame,
}

/// Text on its way.
#[derive(Debug)]
pub(crate) struct DeltaLine {
    /// Position of the feed when it went out.
    pub(crate) after: i64,
    pub(crate) session: Option<SessionId>,
    pub(crate) step: StepId,
    /// Where it ends.
    pub(crate) mark: Mark,
    /// Where it begins.
    pub(crate) from: usize,
    pub(crate) frame: Frame,
}

/// What a line of text says.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    pub(crate) session: Option<SessionId>,
    pub(crate) plan: PlanId,
    pub(crate) step: StepId,
    pub(crate) key: &'a str,
    pub(crate) mark: Mark,
    pub(crate) text: &'a str,
    /// Whether it takes the place of all that a client holds of this turn; else it goes on from there.
    pub(crate) replaces: bool,
    /// The attempt whose text is void.
    pub(crate) supersedes: Option<u16>,
}

/// A line as it goes out; the JSON for the other format is a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    sse: Bytes,
    json: Range<usize>,
}

impl Frame {
    /// `data` has no line breaks: JSON escapes them.
    pub(crate) fn new(seq: Option<i64>, kind: &str, data: &str) -> Self {
        let id = seq.map_or_else(String::new, |seq| format!("id: {seq}\n"));
        let head = format!("{id}event: {kind}\ndata: ");
        // With the first of the two line breaks that end the frame.
        let json = head.len()..head.len() + data.len() + 1;
        Self {
            sse: Bytes::from(format!("{head}{data}\n\n")),
            json,
        }
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.sse.len()
    }

    pub(crate) fn bytes(&self, format: Format) -> Bytes {
        match format {
            Format::Sse => self.sse.clone(),
            Format::NdJson => self.sse.slice(self.json.clone()),
        }
    }
}

/// Whether an event of this type is the end of a step.
pub(crate) fn ends_a_step(event_type: &str) -> bool {
    matches!(
        event_type,
        "task_completed" | "task_failed" | "task_cancelled"
    )
}

impl EventLine {
    pub(crate) fn new(event: &Event) -> Self {
        let closed = if event.event_type == "plan_completed" {
            event.payload.get("state").cloned()
        } else {
            None
        };
        // An event is made of texts, numbers and JSON: this cannot fail.
        let data = serde_json::to_string(event).unwrap_or_default();
        Self {
            seq: event.seq,
            session: event.session_id,
            plan: event.plan_id,
            kind: event.event_type.clone(),
            ended: event.step_id.filter(|_| ends_a_step(&event.event_type)),
            closed: closed.and_then(|state| serde_json::from_value(state).ok()),
            frame: Frame::new(Some(event.seq), &event.event_type, &data),
        }
    }
}

impl DeltaLine {
    pub(crate) fn new(said: &Said<'_>, from: usize, after: i64, now: DateTime<Utc>) -> Self {
        let Mark { attempt, turn, .. } = said.mark;
        let mut payload = json!({ "key": said.key, "attempt": attempt, "turn": turn });
        let form = if said.replaces { "text" } else { "delta" };
        payload[form] = said.text.into();
        if let Some(attempt) = said.supersedes {
            payload["supersedes"] = attempt.into();
        }
        let data = json!({
            "event_type": DELTA_TYPE,
            "payload": payload,
            "timestamp": now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "session_id": said.session,
            "plan_id": said.plan,
            "step_id": said.step,
        });
        Self {
            after,
            session: said.session,
            step: said.step,
            mark: said.mark,
            from,
            frame: Frame::new(None, DELTA_TYPE, &data.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_same_event_in_both_formats() {
        let frame = Frame::new(Some(7), "task_started", r#"{"a":1}"#);
        assert_eq!(
            frame.bytes(Format::Sse),
            "id: 7\nevent: task_started\ndata: {\"a\":1}\n\n"
        );
        assert_eq!(frame.bytes(Format::NdJson), "{\"a\":1}\n");
        assert_eq!(
            Frame::new(None, "x", "{}").bytes(Format::Sse),
            "event: x\ndata: {}\n\n"
        );
    }
}
