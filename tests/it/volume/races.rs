//! Everything at once on few rows: four claim loops, accepts, cancels of plans and steps, holds, decision cards, retries in place,
//! children, changes of limits, timers, lost sessions. At the end everything has ended, every invariant holds, and no two transitions ever waited for each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use codelab_tests::{
    checker::check_feed,
    harness::{Database, agent, assert_invariants, eventually, postgres},
};
use engine::{
    Store, StoreError, UserScope,
    agent::AgentConfig,
    event::hints::{Hints, Reach},
    id::{AgentId, MessageId, PlanId, SessionId, WaitId},
    plan::{NewNeed, NewStep, OnFailure, PlanState, graph::When},
    step::{
        ClaimedStep, Outcome, Reply, StateName, StepError, StepKind, StepSpec,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
    },
    store::{
        self, Accepted, NewMessage, NewPlan, PoolLimits, Retry,
        claims::{ClaimOptions, claims},
    },
    testing::{Shape, explicit},
    wait::Decision,
};
use futures::{StreamExt, future::join_all};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PLANS: usize = 400;
/// Where there is something to find it is found sooner, and each find takes Postgres a second.
const FEW_PLANS: usize = 60;
const LOOPS: usize = 4;
const CLIENTS: usize = 8;
/// No limit is ever set higher.
const LIMIT: u8 = 4;

/// What everybody fights for.
struct Person {
    scope: UserScope,
    agents: Vec<AgentId>,
    sessions: Vec<SessionId>,
}

/// A store as a process of its own has it, with these transitions.
fn process(database: &Database, transitions: &'static str, stop: &CancellationToken) -> Store {
    let pool = || {
        store::pool_with(
            &database.url,
            PoolLimits {
                max: 6,
                ..PoolLimits::default()
            },
            transitions,
        )
        .unwrap()
    };
    let hints = Hints::start(
        Reach {
            postgres: pool(),
            redis: None,
        },
        stop,
    );
    Store::new(pool(), hints, Duration::from_secs(30))
}

async fn people(database: &Database, store: &Store) -> Vec<Person> {
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let scope = database.user(store, name).await;
        let (mut agents, mut sessions) = (Vec::new(), Vec::new());
        for n in 1..=3 {
            agents.push(agent(store, scope, &format!("agent {n}"), n).await);
            sessions.push(store.create_session(scope, None).await.unwrap().id);
        }
        people.push(Person {
            scope,
            agents,
            sessions,
        });
    }
    people
}

/// A worker: claims, does something, and does the duties.
fn worker(store: &Store, seed: u64, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
    let options = ClaimOptions {
        places: 16,
        drain: stop.clone(),
        abandon: CancellationToken::new(),
    };
    let mut steps = Box::pin(claims(store.clone(), options));
    let (mut chance, store) = (fastrand::Rng::with_seed(seed), store.clone());
    let duties = tokio::spawn(worker::duty::run(store.clone(), stop.clone()));
    let working = tokio::spawn(async move {
        while let Some(step) = steps.next().await {
            tokio::spawn(work(store.clone(), step, chance.fork()));
        }
    });
    vec![duties, working]
}

async fn work(store: Store, step: ClaimedStep, mut chance: fastrand::Rng) {
    let claim = Arc::clone(&step.claim);
    tokio::time::sleep(Duration::from_micros(chance.u64(0..3000))).await;
    let waited = claim.attempt > 3 || claim.woken.is_some();
    let again = |after| Outcome::Retry {
        after,
        error: StepError::bug("again", "again"),
        last_words: None,
    };
    if let Some(outcome) = decided(&claim) {
        return step.finish(outcome);
    }
    let outcome = match chance.u8(0..100) {
        0..5 => Outcome::Fail {
            error: StepError::bug("broken", "it broke"),
            reply: None,
        },
        5..10 => again(Duration::ZERO),
        10..15 => again(Duration::from_millis(chance.u64(1..50))),
        15..20 => Outcome::Yield,
        20..30 if !waited => Outcome::Suspend {
            wait: timer(chance.u64(0..100)),
        },
        30..35 if !waited && claim.agent.is_some() && !claim.key.contains('.') => {
            spawned(&claim, &mut chance)
        }
        _ if claim.kind == Some(StepKind::Planning) => expanded(&store, &claim, &mut chance).await,
        _ => done(&claim),
    };
    step.finish(outcome);
}

/// What a card's answer means to the step.
fn decided(claim: &Claim) -> Option<Outcome> {
    let woken = claim
        .woken
        .as_ref()
        .filter(|woken| woken.approval() == Some("decision"))?;
    match woken.choice() {
        Some("retry") => None,
        Some("skip") => Some(Outcome::Skip),
        _ => Some(Outcome::GiveUp {
            error: StepError::bug("broken", "it broke"),
            reply: None,
        }),
    }
}

/// Some children, one after another or side by side.
fn spawned(claim: &Claim, chance: &mut fastrand::Rng) -> Outcome {
    let mut children: Vec<NewStep> = Vec::new();
    let in_line = chance.bool();
    for n in 0..chance.usize(1..4) {
        let before = children.last().filter(|_| in_line).map(|before| NewNeed {
            id: before.id,
            when: When::Done,
        });
        children.push(NewStep {
            agent_id: claim.agent,
            needs: before.into_iter().collect(),
            ..NewStep::new(format!("{}.{n}", claim.key), StepKind::Agent)
        });
    }
    let wait = NewWait {
        id: WaitId::new(),
        kind: WaitKind::Child,
        payload: json!({}),
        deadline: None,
    };
    Outcome::Spawn {
        wait,
        children,
        depth: claim.depth,
    }
}

/// The person at the inbox: decides whatever is asked, and lets go on whatever is held, until all is over.
async fn decide(
    store: Store,
    people: Arc<Vec<Person>>,
    mut chance: fastrand::Rng,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        for person in people.iter() {
            let asked = taken(store.open_approvals(person.scope, 50).await);
            for card in asked.into_iter().flatten() {
                let choice = chance.choice(["retry", "skip", "accept_partial"]);
                let answer = json!({ "choice": choice });
                taken(
                    store
                        .resolve_wait(person.scope, card.id, Decision::Answered, answer)
                        .await,
                );
            }
            let held = "select id from plans where user_id = $1 and paused_at is not null and state = 'active'";
            let held: Vec<PlanId> = sqlx::query_scalar(held)
                .bind(person.scope.user())
                .fetch_all(store.pool())
                .await
                .unwrap();
            for plan in held {
                taken(store.resume_plan(person.scope, plan).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Something that a person does to a plan that is under way, or was.
async fn steer(store: &Store, scope: UserScope, plan: PlanId, chance: &mut fastrand::Rng) {
    if chance.u8(0..4) == 0 {
        taken(store.pause_plan(scope, plan).await);
        return;
    }
    let Some(steps) = taken(store.steps(scope, plan, -1, 20).await) else {
        return;
    };
    if steps.is_empty() {
        return;
    }
    let step = &steps[chance.usize(0..steps.len())];
    match step.state {
        StateName::Failed => {
            let how = Retry::default();
            taken(store.retry_step(scope, plan, step.id, &how).await);
        }
        _ if chance.bool() => {
            taken(store.cancel_step(scope, plan, step.id).await);
        }
        _ => {}
    }
}

fn timer(millis: u64) -> NewWait {
    NewWait {
        id: WaitId::new(),
        kind: WaitKind::Timer,
        payload: json!({}),
        deadline: Some(Duration::from_millis(millis)),
    }
}

fn done(claim: &Claim) -> Outcome {
    let answers = claim.spec.as_ref().is_some_and(|spec| spec.answers);
    let reply = answers.then(|| Reply {
        id: MessageId::new(),
        content: "It is this.".to_owned(),
    });
    Outcome::Succeed {
        result: json!({"text": "ok"}),
        reply,
    }
}

/// What a planner does: a diamond over the person's agents, or one step of nobody.
async fn expanded(store: &Store, claim: &Claim, chance: &mut fastrand::Rng) -> Outcome {
    let agents: Vec<AgentId> = store
        .agents(claim.scope, None, 10)
        .await
        .unwrap()
        .iter()
        .map(|agent| agent.id)
        .collect();
    let alone = NewStep {
        spec: StepSpec {
            answers: true,
            ..StepSpec::default()
        },
        ..NewStep::new("alone", StepKind::Summary)
    };
    let steps = if chance.bool() {
        vec![alone]
    } else {
        explicit(Shape::Diamond(2), &agents, None).steps
    };
    Outcome::Expand {
        result: json!({"source": "model"}),
        steps,
    }
}

/// A client: accepts its share of the plans, and between them disturbs what runs.
async fn client(
    store: Store,
    people: Arc<Vec<Person>>,
    mut chance: fastrand::Rng,
    left: Arc<AtomicUsize>,
) {
    let mut mine: Vec<(UserScope, PlanId)> = Vec::new();
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    {
        let person = &people[chance.usize(0..people.len())];
        mine.extend(
            accept(&store, person, &mut chance)
                .await
                .map(|plan| (person.scope, plan)),
        );
        if chance.u8(0..10) < 3 && !mine.is_empty() {
            let (scope, plan) = mine.swap_remove(chance.usize(0..mine.len()));
            taken(store.cancel_plan(scope, plan).await);
        }
        if chance.u8(0..10) < 5 && !mine.is_empty() {
            let (scope, plan) = mine[chance.usize(0..mine.len())];
            steer(&store, scope, plan, &mut chance).await;
        }
        if chance.u8(0..10) < 3 {
            let config = AgentConfig {
                max_concurrency: chance.u8(1..=LIMIT),
                ..AgentConfig::default()
            };
            let n = chance.usize(0..person.agents.len());
            taken(
                store
                    .update_agent(
                        person.scope,
                        person.agents[n],
                        &format!("agent {}", n + 1),
                        &config,
                    )
                    .await,
            );
        }
        if chance.u8(0..50) == 0 {
            // With all that runs and waits in it.
            let session = store.create_session(person.scope, None).await.unwrap().id;
            let message = NewMessage {
                session,
                content: "What is it?".to_owned(),
                target: None,
            };
            taken(store.accept_message(person.scope, &message).await);
            taken(store.delete_session(person.scope, session).await);
        }
    }
}

/// What was done; none for the victim of a deadlock, which is counted elsewhere.
fn taken<T>(result: Result<T, StoreError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(StoreError::Again(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// One plan of any kind; none where its line is full.
async fn accept(store: &Store, person: &Person, chance: &mut fastrand::Rng) -> Option<PlanId> {
    let session = person.sessions[chance.usize(0..person.sessions.len())];
    let target = person.agents[chance.usize(0..person.agents.len())];
    let message = |target| NewMessage {
        session,
        content: "What is it?".to_owned(),
        target,
    };
    let mut agents = person.agents.clone();
    chance.shuffle(&mut agents);
    let on_failure = [OnFailure::Decide, OnFailure::Continue, OnFailure::Abort];
    let on_failure = on_failure[chance.usize(0..3)];
    let plan = |shape| NewPlan {
        on_failure,
        ..explicit(shape, &agents, Some(session))
    };
    let accepted = match chance.u8(0..10) {
        0..2 => {
            store
                .accept_message(person.scope, &message(Some(target)))
                .await
        }
        2..4 => store.accept_message(person.scope, &message(None)).await,
        4..6 => {
            store
                .accept_plan(person.scope, &plan(Shape::Chain(4)))
                .await
        }
        6..8 => store.accept_plan(person.scope, &plan(Shape::Flat(6))).await,
        _ => {
            store
                .accept_plan(person.scope, &plan(Shape::Diamond(4)))
                .await
        }
    };
    match taken(accepted)? {
        Accepted::Plan { plan, .. } => Some(plan),
        Accepted::SessionFull | Accepted::AgentFull => None,
        Accepted::NoSession => panic!("the session is there"),
    }
}

/// Deadlocks that Postgres had to break in this database, and what its log says of them. Asked when no other connection
/// is left: what a backend counted is known at the latest when it ends.
async fn deadlocks(url: &str) -> (i64, String) {
    let mut eye = PgConnection::connect(url).await.unwrap();
    let others = "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'";
    eventually("all connections are closed", async || {
        sqlx::query_scalar::<_, i64>(others)
            .fetch_one(&mut eye)
            .await
            .unwrap()
            == 1
    })
    .await;
    let counted = sqlx::query_scalar(
        "select deadlocks from pg_stat_database where datname = current_database()",
    );
    let counted = counted.fetch_one(&mut eye).await.unwrap();
    let log = std::fs::read_to_string(postgres().log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let places = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("deadlock detected"));
    let reports =
        places.map(|(place, _)| lines[place..std::cmp::min(place + 20, lines.len())].join("\n"));
    (counted, reports.collect::<Vec<String>>().join("\n\n"))
}

async fn assert_feeds(store: &Store, people: &[Person]) {
    for person in people {
        let events = store
            .events_after(person.scope, None, 0.into(), 1_000_000)
            .await
            .unwrap();
        let wrong = check_feed(&events, |_| LIMIT.into());
        assert!(wrong.is_empty(), "{wrong:#?}");
        let open = store
            .plans(person.scope, None, 1000)
            .await
            .unwrap()
            .iter()
            .filter(|plan| plan.state == PlanState::Active)
            .count();
        assert_eq!(open, 0);
    }
}

/// The deadlocks of a race, and what Postgres says of them; everything else is asserted here.
async fn race(seed: u64, plans: usize, transitions: &'static str) -> (i64, String) {
    let (database, stop) = (Database::fresh().await, CancellationToken::new());
    let mut chance = fastrand::Rng::with_seed(seed);
    let processes: Vec<Store> = (0..LOOPS)
        .map(|_| process(&database, transitions, &stop))
        .collect();
    let people = Arc::new(people(&database, &processes[0]).await);
    let workers: Vec<JoinHandle<()>> = processes
        .iter()
        .flat_map(|store| worker(store, chance.u64(..), &stop))
        .collect();
    let decided = tokio::spawn(decide(
        processes[1].clone(),
        Arc::clone(&people),
        chance.fork(),
        stop.clone(),
    ));
    let left = Arc::new(AtomicUsize::new(plans));
    let clients = (0..CLIENTS).map(|n| {
        tokio::spawn(client(
            processes[n % LOOPS].clone(),
            Arc::clone(&people),
            chance.fork(),
            Arc::clone(&left),
        ))
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let store = database.store();
    let open = "select count(*) from plans where state = 'active'";
    eventually("everything ends", async || {
        sqlx::query_scalar::<_, i64>(open)
            .fetch_one(store.pool())
            .await
            .unwrap()
            == 0
    })
    .await;

    stop.cancel();
    for worker in join_all(workers).await {
        worker.unwrap();
    }
    decided.await.unwrap();
    assert_invariants(&store).await;
    assert_feeds(&store, &people).await;
    for closing in processes.iter().chain([&store]) {
        closing.pool().close().await;
    }
    deadlocks(&database.url).await
}

/// The transitions as they are, but with a pause between any two locks: on a few cores two transactions would hardly ever
/// be between the same two.
fn slowed(seconds: f64) -> String {
    let locks = [
        ("perform 1 from plans p", "perform {} from plans p"),
        (
            "select s.user_id, s.id from chat_sessions s",
            "select s.user_id, s.id, {} from chat_sessions s",
        ),
        (
            "select a.user_id, a.id from user_agents a",
            "select a.user_id, a.id, {} from user_agents a",
        ),
        (
            "sum(a.delta)::integer as delta",
            "sum(a.delta)::integer as delta, {}",
        ),
    ];
    let pause = format!("pg_sleep({seconds})");
    locks
        .iter()
        .fold(store::transitions().to_owned(), |source, (from, to)| {
            replaced(&source, from, &to.replace("{}", &pause))
        })
}

fn replaced(source: &str, from: &str, to: &str) -> String {
    assert!(
        source.contains(from),
        "the change no longer fits the SQL: {from}"
    );
    source.replace(from, to)
}

async fn assert_no_deadlocks(seed: u64) {
    let (count, reports) = race(seed, PLANS, slowed(0.0005).leak()).await;
    assert_eq!(count, 0, "{reports}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_loops_and_eight_clients_seed_1() {
    assert_no_deadlocks(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_loops_and_eight_clients_seed_2() {
    assert_no_deadlocks(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_locked_in_any_order_are_caught() {
    let mutant = replaced(
        &slowed(0.003),
        "order by a.user_id, a.id for no key update of a",
        "order by random() for no key update of a",
    );
    let mutant = mutant.leak();
    // Whether two transactions meet between the same two locks is chance; that ten runs go by without it is not.
    for seed in 1..=10 {
        let (count, reports) = race(seed, FEW_PLANS, mutant).await;
        if count > 0 && reports.contains("user_agents") {
            return;
        }
    }
    panic!("nobody noticed");
}
