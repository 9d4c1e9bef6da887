//! I1: what was taken is there exactly once, what was refused is not, and what nobody knows of is there at most once.
//! I9: a question is decided once, everybody who asks again hears the same, and that is what is kept. I10: no deadline rings early.

use crate::chaos::{
    evidence::Evidence,
    history::{Reply, Submission},
};

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut wrong: Vec<String> = evidence
        .written
        .submissions
        .iter()
        .filter_map(|sent| judge(evidence, sent))
        .collect();
    wrong.extend(decisions(evidence));
    wrong.extend(kept(evidence));
    wrong.extend(early(evidence));
    wrong
}

fn judge(evidence: &Evidence, sent: &Submission) -> Option<String> {
    let there = evidence
        .rows
        .plans
        .iter()
        .filter(|plan| plan.goal.split_whitespace().next() == Some(sent.label.as_str()))
        .count();
    let (least, most) = match &sent.reply {
        Reply::Taken(..) => (1, 1),
        Reply::Refused(..) => (0, 0),
        Reply::Unknown(_) => (0, 1),
    };
    let refused = matches!(sent.reply, Reply::Refused(..));
    (there < least || there > most || refused).then(|| {
        format!(
            "I1: plan {} is there {there} times after {:?}",
            sent.label, sent.reply
        )
    })
}

fn decisions(evidence: &Evidence) -> Vec<String> {
    let wrong = evidence.written.decisions.iter().filter(|decision| {
        // 404 and 409 come when the plan was cancelled meanwhile, or the deadline passed (410); but never after a yes.
        let heard: Vec<u16> = decision
            .statuses
            .iter()
            .copied()
            .filter(|status| *status != 0)
            .collect();
        let first_yes = heard.iter().position(|status| *status == 200);
        first_yes.is_some_and(|at| heard[at..].iter().any(|status| *status != 200))
            || heard.iter().any(|status| [400, 422].contains(status))
    });
    wrong
        .map(|decision| {
            format!(
                "I9: question {} ({}) got {} and said {:?}",
                decision.approval, decision.kind, decision.choice, decision.statuses
            )
        })
        .collect()
}

/// An answer that was taken is the one that is kept.
fn kept(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for decision in &evidence.written.decisions {
        if !decision.statuses.contains(&200) {
            continue;
        }
        let wait = evidence
            .rows
            .waits
            .iter()
            .find(|wait| wait.id == decision.approval);
        let choice = wait
            .and_then(|wait| wait.answer.as_ref())
            .map(|answer| &answer["choice"]);
        if choice != Some(&decision.choice["choice"]) {
            wrong.push(format!(
                "I9: question {} took {} and keeps {choice:?}",
                decision.approval, decision.choice
            ));
        }
    }
    wrong
}

fn early(evidence: &Evidence) -> Vec<String> {
    let by_deadline = |decision: &str| ["elapsed", "timed_out"].contains(&decision);
    let wrong = evidence.rows.waits.iter().filter(|wait| {
        let early = wait
            .decided_at
            .zip(wait.deadline)
            .is_some_and(|(at, deadline)| at < deadline);
        early && wait.decision.as_deref().is_some_and(by_deadline)
    });
    wrong
        .map(|wait| {
            format!(
                "I10: the wait {} ended before its deadline: {wait:?}",
                wait.id
            )
        })
        .collect()
}
