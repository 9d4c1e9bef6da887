//! What a person's running steps are saying, from its beginning: a piece is handed out as a line, and whoever lacks one gets
//! what they lack.
//!
//! Each turn of a step has a text of its own, and a later attempt at the same turn takes back what an earlier one said. A
//! piece says where in its text it belongs, so nothing is shown twice and a missing piece is noticed; the journal keeps
//! the text once a second, and brings what was missed on the way. Nothing here is stored: the step's end brings its result.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use engine::{
    event::{Event, hints::Delta},
    id::{PlanId, SessionId, StepId},
};

use crate::line::{DeltaLine, Said};

/// Speech that is held for one person; of what is beyond, the step's end brings the whole.
const BYTES: usize = 1024 * 1024;
/// What a step costs beside its text.
const ENTRY_BYTES: usize = 256;
/// Speech of one line: with what stands around it, an event has at most 10 KB.
const LINE_BYTES: usize = 8 * 1024;
/// Steps remembered of which nothing more is wanted.
const SILENCED: usize = 256;

/// Texts by step.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    steps: BTreeMap<StepId, Speech>,
    bytes: usize,
    /// Steps that have ended, or say too much; the newest last.
    silenced: VecDeque<StepId>,
}

/// How far somebody has read the text of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) attempt: u16,
    pub(crate) turn: u32,
    /// Bytes.
    pub(crate) to: usize,
}

#[derive(Debug)]
struct Speech {
    session: Option<SessionId>,
    plan: PlanId,
    key: String,
    attempt: u16,
    turn: u32,
    text: String,
    /// Bytes that went out as lines.
    sent: usize,
    /// Whether a client may hold something in its place: then the first line says that it replaces it.
    replaces: bool,
    /// The attempt that it takes the place of, until that was said.
    supersedes: Option<u16>,
    /// What came after a piece that is missing.
    ahead: Option<Delta>,
}

impl Texts {
    /// A piece came.
    pub(crate) fn hear(&mut self, piece: &Delta) {
        if self.silenced.contains(&piece.step) {
            return;
        }
        if self.bytes + piece.text.len() + ENTRY_BYTES > BYTES {
            self.silence(piece.step);
            return;
        }
        let before = self.steps.get(&piece.step).map_or(0, Speech::bytes);
        let text = self
            .steps
            .entry(piece.step)
            .or_insert_with(|| Speech::of(piece));
        match (piece.attempt, piece.turn).cmp(&(text.attempt, text.turn)) {
            Ordering::Less => return,
            Ordering::Equal => {}
            Ordering::Greater => text.next(piece),
        }
        text.take(piece);
        self.bytes = self.bytes - before + text.bytes();
    }

    /// What is kept of the running steps' texts, each from its beginning: the first look, or what was missed on the way.
    pub(crate) fn recall(&mut self, kept: &[Delta]) {
        for whole in kept {
            self.hear(whole);
            if let Some(text) = self.steps.get_mut(&whole.step) {
                // Somebody may have read a part of it from another process.
                text.replaces |= text.sent == 0;
            }
        }
    }

    /// Whether a piece is missing.
    pub(crate) fn has_gap(&self) -> bool {
        self.steps.values().any(|text| text.ahead.is_some())
    }

    /// Whether something has not gone out.
    pub(crate) fn waits(&self) -> bool {
        self.steps.values().any(Speech::waits)
    }

    /// Everything that has not gone out, as lines.
    pub(crate) fn take(&mut self, after: i64, now: DateTime<Utc>) -> Vec<Arc<DeltaLine>> {
        let mut lines = Vec::new();
        for (step, text) in self.steps.iter_mut().filter(|(_, text)| text.waits()) {
            text.lines(*step, text.sent, text.text.len(), after, now, &mut lines);
            text.sent = text.text.len();
            (text.replaces, text.supersedes) = (false, None);
        }
        lines
    }

    /// What went out in the sessions that somebody is shown and they have not read, as lines for them alone.
    pub(crate) fn missing(
        &self,
        shows: impl Fn(Option<SessionId>) -> bool,
        marks: &HashMap<StepId, Mark>,
        after: i64,
        now: DateTime<Utc>,
    ) -> Vec<Arc<DeltaLine>> {
        let mut lines = Vec::new();
        for (step, text) in self.steps.iter().filter(|(_, text)| shows(text.session)) {
            let from = match marks.get(step) {
                Some(mark) if (mark.attempt, mark.turn) == (text.attempt, text.turn) => mark.to,
                _ => 0,
            };
            if from < text.sent {
                text.lines(*step, from, text.sent, after, now, &mut lines);
            }
        }
        lines
    }

    /// The turn that an earlier attempt was at, if a step that begins has said something before.
    pub(crate) fn interrupted(&self, step: StepId, attempt: u16) -> Option<u32> {
        let text = self.steps.get(&step)?;
        (text.attempt < attempt && text.sent > 0).then_some(text.turn)
    }

    /// A run of a step begins. What an earlier one said of `turn` is void.
    pub(crate) fn begin(&mut self, step: StepId, attempt: u16, void: Option<u32>, event: &Event) {
        self.silenced.retain(|silenced| *silenced != step);
        let known = self.steps.get(&step);
        if known.is_some_and(|text| text.attempt >= attempt) {
            return;
        }
        let supersedes = void.and_then(|_| known.map(|text| text.attempt));
        self.forget(step);
        let key = event.payload.get("key").and_then(|key| key.as_str());
        let (Some(plan), Some(key)) = (event.plan_id, key) else {
            return;
        };
        self.bytes += ENTRY_BYTES;
        self.steps.insert(
            step,
            Speech {
                session: event.session_id,
                plan,
                key: key.to_owned(),
                attempt,
                turn: void.unwrap_or(0),
                text: String::new(),
                sent: 0,
                replaces: supersedes.is_some(),
                supersedes,
                ahead: None,
            },
        );
    }

    /// A step's end is about to go out: hints and events come by different ways, and what it said may still be on its own.
    pub(crate) fn end(&mut self, step: StepId) {
        self.silence(step);
    }

    fn silence(&mut self, step: StepId) {
        self.forget(step);
        if self.silenced.len() == SILENCED {
            self.silenced.pop_front();
        }
        self.silenced.push_back(step);
    }

    fn forget(&mut self, step: StepId) {
        if let Some(text) = self.steps.remove(&step) {
            self.bytes -= text.bytes();
        }
    }
}

impl Speech {
    fn of(piece: &Delta) -> Self {
        Self {
            session: piece.session,
            plan: piece.plan,
            key: piece.key.clone(),
            attempt: piece.attempt,
            turn: piece.turn,
            text: String::new(),
            sent: 0,
            replaces: piece.offset > 0,
            supersedes: None,
            ahead: None,
        }
    }

    /// Another turn begins, or another attempt at this one.
    fn next(&mut self, piece: &Delta) {
        let supersedes = match (self.turn == piece.turn, self.sent) {
            (false, _) => None,
            (true, 0) => self.supersedes,
            (true, _) => Some(self.attempt),
        };
        *self = Self {
            replaces: supersedes.is_some() || piece.offset > 0,
            supersedes,
            ..Self::of(piece)
        };
    }

    fn take(&mut self, piece: &Delta) {
        if piece.offset > self.text.len() {
            match &mut self.ahead {
                Some(ahead) if ahead.end() == piece.offset => ahead.text.push_str(&piece.text),
                ahead => *ahead = Some(piece.clone()),
            }
            return;
        }
        // A piece may come twice, by the journal and by its hint.
        if let Some(new) = piece.text.get(self.text.len() - piece.offset..) {
            self.text.push_str(new);
        }
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.offset <= self.text.len()) {
            self.take(&ahead);
        }
    }

    fn bytes(&self) -> usize {
        let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.text.len());
        ENTRY_BYTES + self.text.len() + ahead
    }

    fn waits(&self) -> bool {
        self.sent < self.text.len() || self.supersedes.is_some()
    }

    /// The bytes from..to as lines.
    fn lines(
        &self,
        step: StepId,
        from: usize,
        to: usize,
        after: i64,
        now: DateTime<Utc>,
        lines: &mut Vec<Arc<DeltaLine>>,
    ) {
        let mut begin = from;
        loop {
            let end = self
                .text
                .floor_char_boundary(std::cmp::min(to, begin + LINE_BYTES));
            let said = Said {
                session: self.session,
                plan: self.plan,
                step,
                key: &self.key,
                mark: Mark {
                    attempt: self.attempt,
                    turn: self.turn,
                    to: end,
                },
                text: &self.text[begin..end],
                // What somebody gets who has read nothing takes the place of whatever they hold from another stream.
                replaces: begin == 0 && (self.replaces || self.sent > 0),
                supersedes: self.supersedes.filter(|_| begin == 0),
            };
            lines.push(Arc::new(DeltaLine::new(&said, begin, after, now)));
            begin = end;
            if begin >= to {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::id::UserId;
    use serde_json::{Value, json};

    use super::*;
    use crate::line::Format;

    struct Talk {
        texts: Texts,
        step: StepId,
        plan: PlanId,
    }

    impl Talk {
        fn new() -> Self {
            Self {
                texts: Texts::default(),
                step: StepId::new(),
                plan: PlanId::new(),
            }
        }

        fn piece(&self, attempt: u16, turn: u32, offset: usize, text: &str) -> Delta {
            Delta {
                user: UserId::new(),
                session: None,
                plan: self.plan,
                step: self.step,
                key: "a".to_owned(),
                attempt,
                turn,
                offset,
                text: text.to_owned(),
            }
        }

        fn hear(&mut self, attempt: u16, turn: u32, offset: usize, text: &str) {
            self.texts.hear(&self.piece(attempt, turn, offset, text));
        }

        fn begin(&mut self, attempt: u16, void: Option<u32>) {
            let event = Event {
                event_type: "task_started".to_owned(),
                payload: json!({ "key": "a", "attempt": attempt }),
                timestamp: Utc::now(),
                seq: 1,
                session_id: None,
                plan_id: Some(self.plan),
                step_id: Some(self.step),
            };
            self.texts.begin(self.step, attempt, void, &event);
        }

        /// The payloads that go out, without the key.
        fn out(&mut self) -> Vec<Value> {
            payloads(&self.texts.take(0, Utc::now()))
        }

        fn to_one_who_has(&self, attempt: u16, turn: u32, to: usize) -> Vec<Value> {
            let mark = Mark { attempt, turn, to };
            let marks = HashMap::from([(self.step, mark)]);
            payloads(&self.texts.missing(|_| true, &marks, 0, Utc::now()))
        }
    }

    fn payloads(lines: &[Arc<DeltaLine>]) -> Vec<Value> {
        lines
            .iter()
            .map(|line| {
                let json = line.frame.bytes(Format::NdJson);
                let mut line: Value = serde_json::from_slice(&json).unwrap_or_default();
                let mut payload = line["payload"].take();
                payload.as_object_mut().map(|payload| payload.remove("key"));
                payload
            })
            .collect()
    }

    #[test]
    fn pieces_are_joined_and_said_once() {
        let mut talk = Talk::new();
        talk.hear(1, 0, 0, "one ");
        talk.hear(1, 0, 4, "two ");
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 1, "turn": 0, "delta": "one two " })]
        );
        talk.hear(1, 0, 4, "two three");
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 1, "turn": 0, "delta": "three" })],
            "what came twice is said once"
        );
        talk.hear(1, 0, 0, "one");
        assert_eq!(talk.out(), [] as [Value; 0]);
        talk.hear(1, 2, 0, "next");
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 1, "turn": 2, "delta": "next" })]
        );
    }

    #[test]
    fn who_comes_later_gets_what_they_lack() {
        let mut talk = Talk::new();
        talk.hear(1, 0, 0, "one two");
        talk.out();
        talk.hear(1, 0, 7, " three");
        let whole = json!({ "attempt": 1, "turn": 0, "text": "one two" });
        assert_eq!(talk.to_one_who_has(0, 0, 0), std::slice::from_ref(&whole));
        assert_eq!(
            talk.to_one_who_has(1, 9, 3),
            [whole],
            "of another turn they have nothing"
        );
        assert_eq!(
            talk.to_one_who_has(1, 0, 4),
            [json!({ "attempt": 1, "turn": 0, "delta": "two" })]
        );
        assert_eq!(
            talk.to_one_who_has(1, 0, 7),
            [] as [Value; 0],
            "what has not gone out comes as a line"
        );
    }

    #[test]
    fn a_missing_piece_holds_back_what_follows_until_the_journal_brings_it() {
        let mut talk = Talk::new();
        talk.hear(1, 0, 0, "a");
        talk.out();
        talk.hear(1, 0, 2, "c");
        talk.hear(1, 0, 3, "d");
        assert_eq!(talk.out(), [] as [Value; 0]);
        assert!(talk.texts.has_gap());
        talk.texts.recall(&[talk.piece(1, 0, 0, "a")]);
        assert!(talk.texts.has_gap(), "it is not kept yet");
        talk.texts.recall(&[talk.piece(1, 0, 0, "abc")]);
        assert!(!talk.texts.has_gap());
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 1, "turn": 0, "delta": "bcd" })]
        );

        let mut late = Talk::new();
        late.hear(1, 0, 2, "c");
        late.texts.recall(&[late.piece(1, 0, 0, "ab")]);
        assert_eq!(
            late.out(),
            [json!({ "attempt": 1, "turn": 0, "text": "abc" })],
            "somebody may have read a part elsewhere"
        );
    }

    #[test]
    fn a_later_attempt_takes_back_what_the_earlier_said_of_its_turn() {
        let mut talk = Talk::new();
        talk.hear(1, 0, 0, "wrong");
        talk.out();
        assert_eq!(talk.texts.interrupted(talk.step, 2), Some(0));
        talk.begin(2, Some(0));
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 2, "turn": 0, "text": "", "supersedes": 1 })]
        );
        talk.hear(1, 0, 5, " still talking");
        assert_eq!(talk.out(), [] as [Value; 0], "whom nobody listens to");
        talk.hear(2, 0, 0, "right");
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 2, "turn": 0, "delta": "right" })]
        );
        talk.hear(3, 0, 0, "better");
        assert_eq!(
            talk.out(),
            [json!({ "attempt": 3, "turn": 0, "text": "better", "supersedes": 2 })],
            "also before its beginning is heard of"
        );

        let mut woken = Talk::new();
        woken.hear(1, 0, 0, "May I?");
        woken.out();
        woken.begin(2, None);
        assert_eq!(woken.out(), [] as [Value; 0], "a finished turn stands");
    }

    #[test]
    fn nothing_grows() {
        let mut talk = Talk::new();
        let long = "ä".repeat(LINE_BYTES);
        talk.hear(1, 0, 0, &long);
        let lines = talk.out();
        assert!(lines.len() >= 2, "a line has so much and no more");
        let said: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["delta"].as_str())
            .collect();
        assert_eq!(said.concat(), long);
        assert!(said.iter().all(|said| said.len() <= LINE_BYTES));
        let mut offset = long.len();
        for _ in 0..200 {
            talk.hear(1, 0, offset, &long);
            offset += long.len();
        }
        assert_eq!(talk.texts.bytes, 0, "too much: the step's end brings it");
        talk.begin(2, None);
        talk.hear(2, 0, 0, "again");
        assert_eq!(talk.texts.bytes, ENTRY_BYTES + 5);
        talk.texts.end(talk.step);
        assert_eq!((talk.texts.bytes, talk.texts.steps.len()), (0, 0));
        talk.hear(2, 0, 5, "late");
        assert_eq!(talk.texts.steps.len(), 0, "after its end");
    }
}
