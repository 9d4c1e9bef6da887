//! I4 by physical truth: whoever ends a run is the one who ran it, and nobody loses a lease for nothing.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::runs::{Deed, Runs};
use crate::chaos::{
    evidence::{Evidence, Run},
    faults::Fault,
    nemesis::Blow,
    program::Kind as StepKind,
    receipts::{Ending, Kind},
};

/// Between the end of a call and its notice at the server; and between a commit and its reply.
const NOTICE: TimeDelta = TimeDelta::milliseconds(700);
/// Leases that a slow machine may lose without any fault of ours.
const SLOW_MACHINE: usize = 3;

/// Finds what breaks it.
pub fn check(evidence: &Evidence) -> Vec<String> {
    let runs = Runs::of(evidence);
    let deeds = runs.deeds(evidence);
    let mut wrong = ended_by_another(evidence, &deeds);
    wrong.extend(succeeded_unanswered(evidence, &runs, &deeds));
    wrong.extend(lost_for_nothing(evidence, &runs, &deeds));
    wrong
}

/// Whoever ends a run by itself has stopped calling by then. A run that ends while its worker goes on was ended by another.
///
/// The reaper ends runs too, of workers out of reach: as lost, or as cancelled if that was under way.
fn ended_by_another(evidence: &Evidence, deeds: &[Deed<'_>]) -> Vec<String> {
    let unseen = |from: DateTime<Utc>, to: DateTime<Utc>| {
        let hides = |blow: &&Blow| blow.fault == Fault::BlackHoleModel;
        evidence
            .blows
            .iter()
            .filter(hides)
            .any(|blow| blow.began <= to && blow.ended + NOTICE >= from)
    };
    let mut wrong = Vec::new();
    for deed in deeds {
        let Some((ended, how)) = &deed.run.ended else {
            continue;
        };
        let until = deed.receipt.ended.unwrap_or(*ended);
        let goes_on = deed.receipt.begun < *ended && until > *ended + NOTICE;
        let out_of_reach = |worker| explained(evidence, worker, *ended - window(evidence), *ended);
        let reaped = match how.as_str() {
            "worker_lost" => true,
            "task_cancelled" => deed.receipt.worker.is_some_and(out_of_reach),
            _ => false,
        };
        if goes_on && !reaped && !unseen(*ended, until) {
            wrong.push(format!(
                "I4: run {} of {} ended ({how}) at {ended} while its worker went on until {until}",
                deed.run.token, deed.receipt.program
            ));
        }
    }
    wrong
}

/// A run that succeeds has the model's whole answer, under its own token.
fn succeeded_unanswered(evidence: &Evidence, runs: &Runs, deeds: &[Deed<'_>]) -> Vec<String> {
    let answered: HashSet<(Uuid, i64)> = deeds
        .iter()
        .filter(|deed| deed.receipt.kind == Kind::Model && deed.receipt.ending == Ending::Whole)
        .filter(|deed| {
            let ended = deed.run_ended();
            deed.receipt
                .ended
                .is_some_and(|at| ended.is_none_or(|ended| at <= ended + NOTICE))
        })
        .map(|deed| (deed.run.step, deed.run.token))
        .collect();
    let asks: HashSet<Uuid> = evidence
        .rows
        .steps
        .iter()
        .filter(|step| {
            evidence
                .written_as(step)
                .is_some_and(|written| written.kind == StepKind::Agent && !written.script.poison)
        })
        .map(|step| step.id)
        .collect();
    runs.all()
        .filter(|run| asks.contains(&run.step) && ended_as(run, "task_completed"))
        .filter(|run| !answered.contains(&(run.step, run.token)))
        .map(|run| {
            format!(
                "I4: run {} of step {} succeeded, and the model never answered it",
                run.token, run.step
            )
        })
        .collect()
}

fn ended_as(run: &Run, how: &str) -> bool {
    run.ended.as_ref().is_some_and(|(_, as_how)| as_how == how)
}

/// Every lease that was lost has a fault that explains it.
fn lost_for_nothing(evidence: &Evidence, runs: &Runs, deeds: &[Deed<'_>]) -> Vec<String> {
    let workers: HashMap<(Uuid, i64), usize> = deeds
        .iter()
        .filter_map(|deed| Some(((deed.run.step, deed.run.token), deed.receipt.worker?)))
        .collect();
    let window = window(evidence);
    let unexplained: Vec<String> = runs
        .all()
        .filter(|run| ended_as(run, "worker_lost"))
        .filter_map(|run| {
            let worker = workers.get(&(run.step, run.token))?;
            let (lost, _) = run.ended.as_ref()?;
            (!explained(evidence, *worker, *lost - window, *lost)).then(|| {
                format!(
                    "run {} of step {} on worker {worker} at {lost}",
                    run.token, run.step
                )
            })
        })
        .collect();
    if unexplained.len() <= SLOW_MACHINE {
        return Vec::new();
    }
    let first = unexplained.first().map_or("", String::as_str);
    vec![format!(
        "I4: {} leases were lost for nothing, one of them that of {first}",
        unexplained.len()
    )]
}

/// How long before the end of a lease its cause may have struck.
fn window(evidence: &Evidence) -> TimeDelta {
    TimeDelta::from_std(evidence.lease).unwrap_or_default() + TimeDelta::seconds(3)
}

fn explained(evidence: &Evidence, worker: usize, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
    let killed = |at: DateTime<Utc>| at >= from && at <= to;
    let struck = |blow: &Blow| {
        let within = blow.began <= to && blow.ended >= from;
        let harms_all = matches!(
            blow.fault,
            Fault::CrashPostgres
                | Fault::LockSteps
                | Fault::IdleInTransaction
                | Fault::FreezeAllWorkers
                | Fault::SlowPostgres
                | Fault::RefusePostgres
                | Fault::StealRenewal
        );
        let harms_one = matches!(
            blow.fault,
            Fault::FreezeWorker | Fault::BlackHoleWorkerPostgres
        );
        within && (harms_all || (harms_one && blow.victim == Some(worker)))
    };
    evidence
        .kills
        .iter()
        .any(|kill| kill.worker == worker && killed(kill.at))
        || evidence.blows.iter().any(struck)
}
