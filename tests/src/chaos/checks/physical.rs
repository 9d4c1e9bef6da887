//! I5b: what really ran at once, and I16: how soon the steps of a dead worker ran elsewhere.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::runs::{Deed, Runs};
use crate::chaos::{
    evidence::{Evidence, Run},
    faults::Fault,
    nemesis::Blow,
    program::AGENTS,
};

/// What may pass between an expired lease and the next claim, besides the lease itself.
const SWEEP: TimeDelta = TimeDelta::milliseconds(4_000);
/// Between a commit and its reply: clocks are one, processes are many.
const SKEW: TimeDelta = TimeDelta::milliseconds(50);

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let runs = Runs::of(evidence);
    let deeds = runs.deeds(evidence);
    let mut wrong = at_once(&deeds);
    wrong.extend(zombies(evidence, &deeds));
    wrong.extend(
        recoveries(evidence)
            .iter()
            .filter_map(|one| one.judge(evidence)),
    );
    wrong
}

/// How long steps of killed workers waited until they ran again, the slowest last.
pub fn recoveries(evidence: &Evidence) -> Vec<Recovery> {
    let runs = Runs::of(evidence);
    let agents: HashMap<Uuid, Option<Uuid>> = evidence
        .rows
        .steps
        .iter()
        .map(|step| (step.id, step.agent_id))
        .collect();
    let mut found: Vec<Recovery> = Vec::new();
    for kill in &evidence.kills {
        for (step, token) in &kill.leases {
            let lost = runs.get(*step, *token).and_then(Run::lost_at);
            let next = runs.get(*step, token + 1);
            let (Some(lost), Some(next)) = (lost, next) else {
                continue;
            };
            let overtook = |run: &Run| {
                run.started > lost
                    && run.started < next.started
                    && agents.get(&run.step) == agents.get(step)
            };
            found.push(Recovery {
                step: *step,
                killed: kill.at,
                lost,
                again: next.started,
                queued: runs.all().any(overtook),
            });
        }
    }
    found.sort_by_key(|one| one.again - one.killed);
    found
}

/// A step that ran again elsewhere.
#[derive(Debug, Clone)]
pub struct Recovery {
    step: Uuid,
    killed: DateTime<Utc>,
    lost: DateTime<Utc>,
    again: DateTime<Utc>,
    /// Its agent was full of steps that had waited for longer.
    queued: bool,
}

impl Recovery {
    /// From the kill to the next claim.
    pub fn took(&self) -> TimeDelta {
        self.again - self.killed
    }

    /// Whether only its own agent's line held it up.
    pub fn queued(&self) -> bool {
        self.queued
    }

    /// Time in which something else was broken too does not count, nor does the line of a full agent.
    fn judge(&self, evidence: &Evidence) -> Option<String> {
        let until = if self.queued { self.lost } else { self.again };
        let disturbed: TimeDelta = evidence
            .blows
            .iter()
            .filter(|blow| blow.fault != Fault::KillWorker)
            .map(|blow| overlap(blow, self.killed, until))
            .sum();
        let lease = TimeDelta::from_std(evidence.lease).unwrap_or_default();
        let late = until - self.killed - disturbed > lease + SWEEP;
        late.then(|| {
            format!(
                "I16: step {} was free again {} ms after its worker was killed ({} ms of them disturbed)",
                self.step,
                (until - self.killed).num_milliseconds(),
                disturbed.num_milliseconds()
            )
        })
    }
}

fn overlap(blow: &Blow, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
    let begin = std::cmp::max(blow.began, from);
    let end = std::cmp::min(blow.ended, to);
    std::cmp::max(end - begin, TimeDelta::zero())
}

/// No agent does more at once than it may, as far as its leases last.
fn at_once(deeds: &[Deed<'_>]) -> Vec<String> {
    let mut marks: HashMap<&str, Vec<(DateTime<Utc>, i32)>> = HashMap::new();
    for deed in deeds {
        let begin = deed.receipt.begun;
        let lease_end = deed.run.ended.as_ref().map(|(at, _)| *at);
        let end = [deed.receipt.ended, lease_end]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(begin);
        if end > begin {
            let of_agent = marks.entry(deed.receipt.agent.as_str()).or_default();
            of_agent.extend([(begin, 1), (end, -1)]);
        }
    }
    let mut wrong = Vec::new();
    for (agent, mut marks) in marks {
        let name = agent.rsplit('/').next().unwrap_or_default();
        let known = AGENTS.iter().find(|(known, _)| *known == name);
        let limit = known.map_or(1, |(_, limit)| *limit);
        // Ends before begins: a place that falls free is taken at once.
        marks.sort_unstable();
        let mut now = 0;
        for (at, step) in marks {
            now += step;
            if usize::try_from(now).is_ok_and(|now| now > limit) {
                wrong.push(format!(
                    "I5b: {agent} did {now} things at once at {at}, and may do {limit}"
                ));
                break;
            }
        }
    }
    wrong
}

/// Calls that began after their lease was gone: only of a worker that was stopped or cut off in the moment before.
fn zombies(evidence: &Evidence, deeds: &[Deed<'_>]) -> Vec<String> {
    let late = deeds.iter().filter(|deed| {
        let ended = deed.run.ended.as_ref();
        ended.is_some_and(|(at, _)| deed.receipt.begun > *at + SKEW)
    });
    let inexcusable = late.filter(|deed| {
        let excuse = |blow: &Blow| {
            let stops = matches!(
                blow.fault,
                Fault::FreezeWorker
                    | Fault::FreezeAllWorkers
                    | Fault::BlackHoleModel
                    | Fault::BlackHoleWorkerPostgres
                    | Fault::SlowPostgres
                    | Fault::ToolsRefuse
            );
            stops
                && blow.began <= deed.receipt.begun
                && blow.ended + TimeDelta::seconds(1) >= deed.receipt.begun
        };
        !evidence.blows.iter().any(excuse)
    });
    inexcusable
        .map(|deed| {
            format!(
                "I5b: {} was asked at {} under token {:?}, whose lease ended at {:?}",
                deed.receipt.program, deed.receipt.begun, deed.receipt.token, deed.run.ended
            )
        })
        .collect()
}
