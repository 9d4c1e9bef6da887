//! Every crash point once. Pass 1 carries out a fixed scenario and writes down which points each process passes, and how often; pass 2
//! carries it out once for each of them, with the process dying there and a fresh one after it. What comes of it must be the same.
//!
//! A lane has a database, an API and a worker; each scenario is that of a new person in it. Leases of the dead worker are made to
//! expire at once: they would expire by themselves, some seconds later.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use engine::testing::check_invariants;
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use super::{
    scenario::{Result as Came, Scenario},
    slot::Slot,
    stage::{Cluster, Setting, Stage},
};

/// Lanes that work at the same time; a scenario mostly waits.
const LANES: usize = 3;
/// Longest scenario; with a death in it.
const LIMIT: Duration = Duration::from_secs(40);

/// How many passes of each point are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The first.
    First,
    /// The first, one in the middle, the last.
    Three,
    /// Up to so many.
    All(u64),
}

/// A place to die at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Point {
    /// `api` or `worker0`.
    pub process: String,
    /// The point's name.
    pub name: String,
    /// At which pass.
    pub pass: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names are what is printed")]
pub struct PointsReport {
    /// Passes of each point in the undisturbed scenario.
    pub passed: BTreeMap<String, u64>,
    pub tried: usize,
    pub died: usize,
    pub not_reached: Vec<Point>,
    pub slowest_ms: u128,
    pub seconds: u64,
    pub violations: Vec<String>,
}

/// Tries them all.
pub async fn enumerate(cluster: &Cluster, depth: Depth) -> PointsReport {
    let begun = Instant::now();
    let (expected, passed) = undisturbed(cluster).await;
    let points = choose(&passed, depth);
    let report = PointsReport {
        passed: passed
            .iter()
            .map(|((process, name), times)| (format!("{process} {name}"), *times))
            .collect(),
        tried: points.len(),
        ..PointsReport::default()
    };
    if points.is_empty() {
        return PointsReport {
            violations: vec!["vacuous: no process passed any crash point".to_owned()],
            ..report
        };
    }
    let shared = Arc::new(Shared {
        expected,
        points: Mutex::new(points.into()),
        report: Mutex::new(report),
    });
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        lanes.spawn(lane(cluster.clone(), Arc::clone(&shared)));
    }
    let mut broken = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        broken.extend(
            ended
                .err()
                .map(|error| format!("a lane broke off: {error}")),
        );
    }
    let mut report = lock(&shared.report).clone();
    report.violations.extend(broken);
    report.seconds = begun.elapsed().as_secs();
    // A point that comes by the clock may come less often; its first pass always comes.
    let never = report.not_reached.iter().filter(|point| point.pass == 1);
    let never: Vec<String> = never
        .map(|point| format!("vacuous: nothing died at {point:?}"))
        .collect();
    report.violations.extend(never);
    report
}

struct Shared {
    expected: Came,
    points: Mutex<VecDeque<Point>>,
    report: Mutex<PointsReport>,
}

fn setting() -> Setting {
    Setting {
        workers: 1,
        lease: 3,
        ..Setting::default()
    }
}

/// The scenario as it goes when nobody dies, and what each process passed.
async fn undisturbed(cluster: &Cluster) -> (Came, BTreeMap<(String, String), u64>) {
    let stage = Stage::build(cluster, &setting()).await;
    let trace = |slot: &Slot| slot.log().with_extension("trace");
    for slot in stage.all() {
        slot.once("CODELAB_CRASH_TRACE", &trace(slot).to_string_lossy());
        slot.start();
    }
    stage.api_answers().await;
    let came = Scenario::new(&stage, "undisturbed").play().await;
    for slot in stage.all() {
        slot.drain().await;
    }
    let mut passed = BTreeMap::new();
    for slot in stage.all() {
        let names = fs::read_to_string(trace(slot)).unwrap_or_default();
        for name in names.lines() {
            *passed
                .entry((slot.name.clone(), name.to_owned()))
                .or_default() += 1;
        }
    }
    (came, passed)
}

fn choose(passed: &BTreeMap<(String, String), u64>, depth: Depth) -> Vec<Point> {
    let tried = |times: u64| match depth {
        Depth::First => vec![1],
        Depth::Three => vec![1, times.div_ceil(2), times],
        Depth::All(most) => (1..=std::cmp::min(times, most)).collect(),
    };
    let mut points: Vec<Point> = passed
        .iter()
        .flat_map(|((process, name), times)| {
            tried(*times).into_iter().map(|pass| Point {
                process: process.clone(),
                name: name.clone(),
                pass,
            })
        })
        .collect();
    points.sort();
    points.dedup();
    points
}

async fn lane(cluster: Cluster, shared: Arc<Shared>) {
    let stage = Stage::set(&cluster, &setting()).await;
    loop {
        let Some(point) = lock(&shared.points).pop_front() else {
            break;
        };
        let begun = Instant::now();
        let (died, wrong) = try_point(&stage, &point, &shared.expected).await;
        let mut report = lock(&shared.report);
        report.slowest_ms = std::cmp::max(report.slowest_ms, begun.elapsed().as_millis());
        report.died += usize::from(died);
        if !died {
            report.not_reached.push(point.clone());
        }
        report
            .violations
            .extend(wrong.into_iter().map(|one| format!("{point:?}: {one}")));
    }
    for slot in stage.all() {
        slot.drain().await;
    }
    let surprises = stage.all().flat_map(Slot::surprises);
    lock(&shared.report).violations.extend(surprises);
}

/// Lets the process die there; whether it did, and what is wrong afterwards.
async fn try_point(stage: &Stage, point: &Point, expected: &Came) -> (bool, Vec<String>) {
    let Some(victim) = stage.all().find(|slot| slot.name == point.process) else {
        return (false, vec!["there is no such process".to_owned()]);
    };
    victim.kill().await;
    victim.once("CODELAB_CRASH", &format!("{}:{}", point.name, point.pass));
    victim.start();
    victim.may_end();
    let name = format!("{}-{}-{}", point.process, point.name, point.pass).replace('.', "-");
    let scenario = Scenario::new(stage, &name);
    let played = async {
        stage.api_answers().await;
        timeout(LIMIT, scenario.play()).await
    };
    let mut died = false;
    let medic = async {
        died = victim.ended(LIMIT * 2).await.is_some();
        // Of the one worker that there is.
        let _ = sqlx::query("update leases set expires_at = clock_timestamp()")
            .execute(&stage.direct)
            .await;
        victim.start();
        // There is no more to do than to wait for the scenario.
        std::future::pending::<()>().await;
    };
    let came = tokio::select! {
        came = played => came,
        () = medic => unreachable!("it never ends"),
    };
    if !died {
        // It would still die there, in the middle of another's turn.
        victim.kill().await;
        victim.start();
    }
    let Ok(came) = came else {
        let dump = super::liveness::dump(&stage.direct).await;
        return (
            died,
            vec![format!("it did not end within {LIMIT:?}\n{dump}")],
        );
    };
    let mut wrong = came.differs_from(expected);
    wrong.extend(rows(stage).await);
    (died, wrong)
}

async fn rows(stage: &Stage) -> Vec<String> {
    match check_invariants(&stage.direct).await {
        Ok(broken) => broken
            .into_iter()
            .map(|violation| format!("rows: {}: {}", violation.rule, violation.example))
            .collect(),
        Err(error) => vec![format!("the rows cannot be read: {error}")],
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
