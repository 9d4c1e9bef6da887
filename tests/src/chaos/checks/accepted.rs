//! I1: what was taken is there exactly once, what was refused is not, and what nobody knows of is there at most once.
//! I9: a question is decided once, and everybody who asks again hears the same.

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
