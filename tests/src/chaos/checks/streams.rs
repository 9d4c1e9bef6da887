//! I12: whoever reads on from where they were has seen, over all connections, exactly the rows of their feed, in order.

use std::collections::HashMap;

use engine::event::Event;

use crate::chaos::{
    evidence::Evidence,
    program::PEOPLE,
    stream::{Frame, Transcript},
};

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    evidence
        .transcripts
        .iter()
        .flat_map(|transcript| judge(evidence, transcript))
        .collect()
}

fn judge(evidence: &Evidence, transcript: &Transcript) -> Vec<String> {
    let name = PEOPLE[transcript.person].0;
    let Some(events) = evidence
        .rows
        .people
        .get(name)
        .and_then(|user| evidence.rows.events.get(user))
    else {
        return vec![format!("I12: {name} has no feed")];
    };
    let by_seq: HashMap<i64, &Event> = events.iter().map(|event| (event.seq, event)).collect();
    let mut wrong = Vec::new();
    let mut expected = 1;
    for frame in transcript.frames.iter().filter(|frame| frame.seq.is_some()) {
        let seq = frame.seq.unwrap_or_default();
        if seq != expected {
            wrong.push(format!(
                "I12: {name} saw {seq} where {expected} was next, on connection {}",
                frame.connection
            ));
        }
        expected = seq + 1;
        if !by_seq.get(&seq).is_some_and(|event| same(event, frame)) {
            wrong.push(format!(
                "I12: {name} saw another event {seq} than is stored: {}",
                frame.value
            ));
        }
    }
    let last = events.last().map_or(0, |event| event.seq);
    if expected != last + 1 {
        wrong.push(format!(
            "I12: {name} saw everything up to {}, and there is {last}",
            expected - 1
        ));
    }
    wrong.truncate(5);
    wrong
}

fn same(event: &Event, frame: &Frame) -> bool {
    frame.value["event_type"] == event.event_type.as_str()
        && frame.value["payload"] == event.payload
}
