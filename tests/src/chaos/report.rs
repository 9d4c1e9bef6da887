//! What a run comes to, as figures.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    checks::physical::recoveries,
    evidence::Evidence,
    nemesis::Deeds,
    profile::Least,
    receipts::{Ending, Kind},
};

/// The figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names are what is printed")]
pub struct Report {
    pub profile: String,
    pub seed: u64,
    pub deaf: bool,
    pub seconds: u64,
    pub faults: BTreeMap<String, u64>,
    pub plans: usize,
    pub plans_by_state: BTreeMap<String, usize>,
    pub steps: usize,
    pub steps_by_state: BTreeMap<String, usize>,
    pub runs: usize,
    pub model_calls: usize,
    pub tool_calls: usize,
    pub calls_broken: usize,
    pub events: usize,
    pub events_read: usize,
    pub streams_resumed: usize,
    pub takeovers: usize,
    pub fenced: usize,
    pub given_back: usize,
    pub provider_retries: usize,
    pub replies_stolen: u64,
    pub poisoned: usize,
    pub cancels: usize,
    pub decisions: usize,
    pub unknown_submissions: usize,
    pub recoveries: usize,
    /// From the kill to the next claim, where the agent had room.
    pub slowest_recovery_ms: i64,
    /// The same where older steps of a full agent went first.
    pub slowest_recovery_in_line_ms: i64,
    pub drained_ms: u128,
    pub violations: Vec<String>,
}

impl Report {
    /// Counts what the evidence shows.
    pub fn of(evidence: &Evidence, deeds: &Deeds) -> Self {
        let rows = &evidence.rows;
        let with_reason = |reasons: &[&str]| {
            rows.all_events()
                .filter(|event| {
                    event.event_type == "task_progress"
                        && event.payload["reason"]
                            .as_str()
                            .is_some_and(|reason| reasons.contains(&reason))
                })
                .count()
        };
        let recoveries = recoveries(evidence);
        let slowest = |queued: bool| {
            let last = recoveries.iter().rfind(|one| one.queued() == queued);
            last.map_or(0, |one| one.took().num_milliseconds())
        };
        let of_kind = |kind: Kind| evidence.receipts.iter().filter(move |one| one.kind == kind);
        Self {
            faults: deeds.counted(),
            plans: rows.plans.len(),
            plans_by_state: counted(rows.plans.iter().map(|plan| plan.state.as_str())),
            steps: rows.steps.len(),
            steps_by_state: counted(rows.steps.iter().map(|step| step.state.as_str())),
            runs: rows.runs().len(),
            model_calls: of_kind(Kind::Model).count(),
            tool_calls: of_kind(Kind::Tool).count(),
            calls_broken: evidence
                .receipts
                .iter()
                .filter(|one| one.ending != Ending::Whole)
                .count(),
            events: rows.all_events().count(),
            events_read: evidence
                .transcripts
                .iter()
                .map(|transcript| {
                    transcript
                        .frames
                        .iter()
                        .filter(|one| one.seq.is_some())
                        .count()
                })
                .sum(),
            streams_resumed: evidence
                .transcripts
                .iter()
                .map(|transcript| transcript.connections.saturating_sub(1))
                .sum(),
            takeovers: with_reason(&["worker_lost"]),
            fenced: evidence.logged("the lease was gone; the outcome was dropped"),
            given_back: evidence.logged("gave back steps whose claim this process never heard of"),
            provider_retries: with_reason(&["retry", "defer"]),
            replies_stolen: evidence.stolen,
            poisoned: rows
                .steps
                .iter()
                .filter(|step| {
                    step.error
                        .as_ref()
                        .is_some_and(|error| error["code"] == "poison")
                })
                .count(),
            cancels: evidence
                .written
                .cancels
                .iter()
                .filter(|cancel| cancel.taken_at.is_some())
                .count(),
            decisions: evidence.written.decisions.len(),
            unknown_submissions: evidence
                .written
                .submissions
                .iter()
                .filter(|sent| matches!(sent.reply, super::history::Reply::Unknown(_)))
                .count(),
            recoveries: recoveries.len(),
            slowest_recovery_ms: slowest(false),
            slowest_recovery_in_line_ms: slowest(true),
            ..Self::default()
        }
    }

    /// What did not happen often enough for the run to mean anything.
    pub fn too_little(&self, least: &Least) -> Vec<String> {
        let counts = [
            ("takeovers", self.takeovers, least.takeovers),
            ("refused outcomes", self.fenced, least.fenced),
            ("retries by provider", self.provider_retries, least.retries),
            ("resumed streams", self.streams_resumed, least.resumed),
            (
                "stolen replies",
                usize::try_from(self.replies_stolen).unwrap_or(0),
                usize::try_from(least.stolen).unwrap_or(0),
            ),
            ("poisoned steps", self.poisoned, least.poison),
            ("cancels", self.cancels, least.cancels),
            ("decisions", self.decisions, least.decisions),
        ];
        counts
            .iter()
            .filter(|(_, is, least)| is < least)
            .map(|(what, is, least)| format!("vacuous: {is} {what}, at least {least} are needed"))
            .collect()
    }
}

fn counted<'a>(states: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for state in states {
        *counted.entry(state.to_owned()).or_default() += 1;
    }
    counted
}
