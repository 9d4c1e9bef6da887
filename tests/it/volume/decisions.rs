//! Two thousand questions, each decided at its deadline by everybody at once: two clients over two API processes, the timer, and
//! somebody who cancels. There is one decision each, every reply names it, and what was approved was done once.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use codelab_tests::{
    chaos::{
        receipts::{Book, Kind},
        tool_server::ToolServer,
    },
    harness::within,
};
use engine::{Store, step::StateName};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

/// Plans; one in five is cancelled in the midst of it.
const PLANS: usize = 20;
/// Questions of each, all open at once.
const STEPS: usize = 100;
/// Agents that they are of.
const PAYERS: usize = 5;
/// Over how long the deadlines of a plan's questions are spread.
const SPREAD: Duration = Duration::from_millis(1_500);
/// Between the first deadline and the moment at which it is set.
const AHEAD: Duration = Duration::from_millis(300);
/// When an answer is to arrive, in milliseconds from its deadline.
const ARRIVES: std::ops::RangeInclusive<i64> = -30..=30;
/// Questions that end in each way, at least: else there was no race.
const SHARE: usize = 20;

/// A reply of the API, as far as it says how the question ended.
struct Reply {
    wait: Uuid,
    status: u16,
    said: Value,
}

#[derive(sqlx::FromRow)]
struct Decided {
    id: Uuid,
    step_id: Uuid,
    decision: String,
    answer: Option<Value>,
    resolutions: i64,
    state: StateName,
    result: Option<Value>,
}

/// Plans whose steps all ask whether they may pay.
async fn plans(ada: &Person, tools: &ToolServer) -> Vec<String> {
    let url = format!("http://{}/charge", tools.address());
    let pay =
        json!({"name": "pay", "effect": "irreversible", "executor": {"kind": "http", "url": url}});
    ada.post("tools/", pay).await;
    let turns = json!([
        {"until_results": 1, "tool_calls": [{"name": "pay", "arguments": {"n": 1}}]},
        {"text": "heard {{last}}"}]);
    let config = json!({"tools": ["pay"], "max_concurrency": 10, "script": {"turns": turns}});
    for n in 0..PAYERS {
        ada.agent_with(&format!("payer-{n}"), config.clone()).await;
    }
    let steps: Vec<Value> = (0..STEPS)
        .map(|n| json!({"key": format!("s{n}"), "agent": format!("payer-{}", n % PAYERS)}))
        .collect();
    let mut plans = Vec::new();
    for _ in 0..PLANS {
        let body = json!({"goal": "pay", "on_failure": "continue", "steps": steps});
        plans.push(text(&ada.post("plans/", body).await, "id"));
    }
    plans
}

/// Sets the deadlines of a plan's questions, one after the other over the spread; the questions with them.
async fn set_deadlines(store: &Store, plan: &str) -> Vec<(Uuid, DateTime<Utc>)> {
    sqlx::query_as(
        "update waits w set deadline = clock_timestamp() + n.place * $2 + $3
         from (select id, row_number() over (order by id)::integer as place from waits where plan_id = $1 and decision is null) n
         where w.id = n.id and w.plan_id = $1 returning w.id, w.deadline",
    )
    .bind(Uuid::parse_str(plan).unwrap())
    .bind(SPREAD / u32::try_from(STEPS).unwrap())
    .bind(AHEAD)
    .fetch_all(store.pool())
    .await
    .unwrap()
}

async fn until(instant: DateTime<Utc>) {
    if let Ok(left) = (instant - Utc::now()).to_std() {
        sleep(left).await;
    }
}

/// Somebody who answers each question near its deadline.
async fn answers(
    person: &Person,
    questions: &[(Uuid, DateTime<Utc>)],
    answer: Value,
    mut chance: fastrand::Rng,
) -> Vec<Reply> {
    // An answer is on its way for a while, and for longer where the machine has other work: it is sent as much earlier as the
    // one before it took.
    let under_way = AtomicI64::new(20);
    let under_way = &under_way;
    let one = |(wait, deadline): &(Uuid, DateTime<Utc>)| {
        let (wait, answer, deadline) = (*wait, answer.clone(), *deadline);
        let arrives = chance.i64(ARRIVES);
        async move {
            until(deadline - TimeDelta::from_std(AHEAD).unwrap_or_default()).await;
            let early = std::cmp::min(under_way.load(Ordering::Relaxed), 250);
            until(deadline + TimeDelta::milliseconds(arrives - early)).await;
            let path = format!("approvals/{wait}/confirm/");
            let request = person.request(reqwest::Method::POST, &path).json(&answer);
            let sent = Utc::now();
            let (status, said) = person.send(request).await;
            under_way.store((Utc::now() - sent).num_milliseconds(), Ordering::Relaxed);
            Reply {
                wait,
                status: status.as_u16(),
                said,
            }
        }
    };
    join_all(questions.iter().map(one)).await
}

/// Any worker's clockmaker, but in a hurry.
async fn ring(store: Store, stop: CancellationToken) {
    while !stop.is_cancelled() {
        store.expire_waits(100).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
}

async fn decided(store: &Store) -> HashMap<Uuid, Decided> {
    let rows: Vec<Decided> = sqlx::query_as(
        "select w.id, w.step_id, w.decision::text, w.answer, s.state, s.result,
           (select count(*) from events e where e.user_id = w.user_id and e.type = 'approval_resolved'
              and e.payload ->> 'wait_id' = w.id::text and e.payload ->> 'decision' = w.decision::text) as resolutions
         from waits w join steps s on s.user_id = w.user_id and s.id = w.step_id",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    rows.into_iter().map(|row| (row.id, row)).collect()
}

/// What a reply claims is what was decided.
fn assert_true(reply: &Reply, decided: &Decided) {
    let claimed = match reply.status {
        200 => text(&reply.said, "status"),
        410 => "timed_out".to_owned(),
        409 => {
            let detail = text(&reply.said, "detail");
            let (_, word) = detail.split_once('(').expect("it names the decision");
            word.trim_end_matches(')').to_owned()
        }
        status => panic!("{status} {}", reply.said),
    };
    assert_eq!(claimed, decided.decision, "{} {}", reply.status, reply.said);
}

/// What became of a step is what was decided about its call.
fn assert_followed(decided: &Decided, charges: usize) {
    let heard = decided.result.as_ref().map(ToString::to_string);
    let heard = heard.unwrap_or_default();
    match (decided.decision.as_str(), decided.state) {
        ("approved", StateName::Succeeded) => {
            assert_eq!(charges, 1);
            assert!(heard.contains("charged"), "{heard}");
            assert_eq!(decided.answer.as_ref().unwrap()["note"], "yes");
        }
        // Cancelled after the decision: the call may have been under way.
        ("approved", StateName::Cancelled) => assert!(charges <= 1),
        ("rejected" | "timed_out" | "cancelled", StateName::Cancelled) => assert_eq!(charges, 0),
        ("rejected", StateName::Succeeded) => {
            assert_eq!(charges, 0);
            assert!(
                heard.contains("rejected") && heard.contains("no, no"),
                "{heard}"
            );
        }
        ("timed_out", StateName::Succeeded) => {
            assert_eq!(charges, 0);
            assert!(heard.contains("timed_out"), "{heard}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_questions_are_decided_once_each() {
    let database = Database::fresh().await;
    let book = Book::default();
    let tools = ToolServer::start(book.clone()).await;
    let allowed = [("CODELAB_EGRESS_ALLOW", "127.0.0.0/8")];
    let one = Tiers::start(&database.url, &allowed).await;
    let two = Tiers::start(&database.url, &allowed).await;
    let store = database.store();
    let plans = plans(&one.ada, &tools).await;
    let open = "select count(*) from waits where decision is null";
    let patience = Duration::from_mins(2);
    within(patience, "everybody asks", async || {
        let count: i64 = sqlx::query_scalar(open)
            .fetch_one(store.pool())
            .await
            .unwrap();
        usize::try_from(count).unwrap() == PLANS * STEPS
    })
    .await;

    let stop = CancellationToken::new();
    let timer = tokio::spawn(ring(store.clone(), stop.clone()));
    let mut chance = fastrand::Rng::with_seed(1);
    let mut replies = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        let questions = set_deadlines(&store, plan).await;
        assert_eq!(questions.len(), STEPS);
        let yes = answers(
            &one.ada,
            &questions,
            json!({"decision": "approve", "note": "yes"}),
            chance.fork(),
        );
        let no = answers(
            &two.ada,
            &questions,
            json!({"decision": "reject", "note": "no, no"}),
            chance.fork(),
        );
        let middle = questions[chance.usize(STEPS / 4..STEPS * 3 / 4)].1;
        let cancel = async {
            if place % 5 == 4 {
                until(middle).await;
                // On a slow machine all may be decided by then.
                let path = format!("plans/{plan}/cancel/");
                let request = two.ada.request(reqwest::Method::POST, &path);
                let (status, said) = two.ada.send(request).await;
                assert!(status.is_success() || status.as_u16() == 409, "{said}");
            }
        };
        let (yes, no, ()) = tokio::join!(yes, no, cancel);
        replies.extend(yes);
        replies.extend(no);
    }
    for plan in &plans {
        within(patience, "the plan ends", async || {
            one.ada.state(plan).await != "active"
        })
        .await;
    }
    stop.cancel();
    timer.await.unwrap();

    let decided = decided(&store).await;
    assert_eq!(decided.len(), PLANS * STEPS, "nobody was asked twice");
    let mut charges: HashMap<Uuid, usize> = HashMap::new();
    for receipt in book.all() {
        assert_eq!(receipt.kind, Kind::Tool);
        *charges.entry(receipt.step.unwrap()).or_default() += 1;
    }
    for reply in &replies {
        assert_true(reply, &decided[&reply.wait]);
    }
    let mut tally: HashMap<&str, usize> = HashMap::new();
    for row in decided.values() {
        assert_eq!(row.resolutions, 1, "told once: {}", row.id);
        assert_followed(row, charges.get(&row.step_id).copied().unwrap_or_default());
        *tally.entry(&row.decision).or_default() += 1;
    }
    for way in ["approved", "rejected", "timed_out", "cancelled"] {
        assert!(
            tally.get(way) >= Some(&SHARE),
            "every way has its share: {tally:?}"
        );
    }
    one.stop_content().await;
    two.stop_content().await;
    assert_invariants(&store).await;
}
