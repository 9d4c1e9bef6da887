//! The promise of the feed under everything that can go wrong at once: clients that break off at any moment and come back
//! to any process, processes that are stopped and cut down, Redis flushed and killed, hints that never come, eight writers
//! at a time. What each client has put together over all its connections is what is in Postgres, and in none of them did
//! anything come twice.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use api::{ApiConfig, auth::AuthConfig};
use codelab_tests::harness::{Database, agent, redis, tell_redis};
use engine::{
    Store, UserScope,
    event::{
        hints::{Hints, Reach},
        relay::Relay,
    },
    id::{AgentId, SessionId, WorkerId},
    step::Outcome,
    store::{self, PoolLimits},
    testing::{Shape, explicit},
};
use fastrand::Rng;
use futures::future::join_all;
use serde_json::{Value, json};
use servers::Redis;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Api, Feed, secret};

/// Writers of each person.
const WRITERS: usize = 8;
/// Plans that each of them writes.
const PLANS: usize = 6;
/// Clients of each person.
const CLIENTS: usize = 6;
const PEOPLE: [&str; 2] = ["ada", "eve"];

/// How processes hear of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ways {
    /// NOTIFY and Redis.
    All,
    /// Nobody tells anybody anything: only the poll finds out.
    PollOnly,
}

struct Stage {
    database: Database,
    redis: String,
    ways: Ways,
    /// Where the two API processes are at the moment.
    bases: Mutex<Vec<String>>,
    /// The last seq of each person, of all and of the session, once all is written.
    last: [[AtomicI64; 2]; 2],
    written: AtomicBool,
}

/// One API process.
struct Process {
    base: String,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Stage {
    fn hints(&self, stop: &CancellationToken) -> Hints {
        if self.ways == Ways::PollOnly {
            return Hints::local();
        }
        let limits = PoolLimits {
            max: 3,
            ..PoolLimits::default()
        };
        let postgres = store::pool(&self.database.url, limits).expect("a pool");
        let redis = Some(self.client());
        Hints::start(Reach { postgres, redis }, stop)
    }

    fn client(&self) -> redis::Client {
        redis::Client::open(self.redis.as_str()).expect("an address")
    }

    fn store(&self, stop: &CancellationToken) -> Store {
        let pool = store::pool(&self.database.url, PoolLimits::default()).expect("a pool");
        Store::new(pool, self.hints(stop), Duration::from_secs(30))
    }

    async fn process(&self) -> Process {
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let config = ApiConfig {
            poll: Duration::from_millis(100),
            relay: Some(Relay::new(self.client()).expect("a relay")),
            ..ApiConfig::new(AuthConfig::hs256(secret()))
        };
        let serving = api::serve(listener, self.store(&stop), config, stop.clone());
        Process {
            base,
            stop,
            server: tokio::spawn(serving),
        }
    }

    fn bases(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops and replaces the processes, flushes and kills Redis, until all is written; what is there then.
    async fn trouble(
        self: Arc<Self>,
        mut processes: Vec<Process>,
        mut redis: Redis,
    ) -> (Vec<Process>, Redis) {
        let mut rng = Rng::with_seed(7);
        while !self.written.load(Ordering::Acquire) {
            sleep(Duration::from_millis(rng.u64(50..250))).await;
            match rng.u8(..4) {
                0 => {
                    let place = rng.usize(..processes.len());
                    let next = self.process().await;
                    self.bases()[place].clone_from(&next.base);
                    let old = std::mem::replace(&mut processes[place], next);
                    // A stop with a word to everybody, or none at all.
                    if rng.bool() {
                        old.server.abort();
                    }
                    old.stop.cancel();
                    let _ = old.server.await;
                }
                1 => {
                    let again = move || {
                        redis.kill().expect("killed");
                        redis.start_again().expect("there again");
                        redis
                    };
                    redis = tokio::task::spawn_blocking(again).await.expect("no panic");
                }
                _ => drop(tell_redis(&redis, "FLUSHALL").await),
            }
        }
        (processes, redis)
    }

    /// One client, until it has everything: what it has put together.
    async fn client_of(
        &self,
        person: usize,
        number: usize,
        session: Option<SessionId>,
    ) -> Vec<Value> {
        let mut rng = Rng::with_seed(100 * number as u64 + person as u64);
        let http = reqwest::Client::new();
        let mut seen: Vec<Value> = Vec::new();
        let mut position = 0;
        let last = &self.last[person][usize::from(session.is_some())];
        loop {
            let base = rng.choice(self.bases().iter()).cloned().expect("a process");
            let path = session.map_or_else(
                || "/my/events/?after=0".to_owned(),
                |session| format!("/my/chat/{session}/events/?after=0"),
            );
            let request = http
                .get(format!("{base}{path}"))
                .bearer_auth(Api::token(PEOPLE[person]))
                .header("last-event-id", position.to_string());
            // The process may have gone in this moment.
            let Ok(response) = request.send().await else {
                continue;
            };
            if !response.status().is_success() {
                continue;
            }
            let mut feed = Feed::of(response);
            let slow = rng.u8(..4) == 0;
            for _ in 0..rng.usize(1..80) {
                if self.written.load(Ordering::Acquire) && position >= last.load(Ordering::Acquire)
                {
                    return seen;
                }
                if slow {
                    sleep(Duration::from_millis(rng.u64(..5))).await;
                }
                // Now and then it is looked whether there will be more.
                let Ok(read) = timeout(Duration::from_millis(200), feed.try_read()).await else {
                    continue;
                };
                let Ok(Some(frame)) = read else { break };
                let Some(id) = frame.id else { continue };
                assert!(id > position, "{id} came after {position}");
                assert!(
                    session.is_some() || id == position + 1,
                    "{id} came after {position}"
                );
                position = id;
                seen.push(frame.data);
            }
        }
    }
}

/// Writes plans and works on what is ready, as workers of their own.
async fn write(store: &Store, scope: UserScope, agent: AgentId, session: SessionId) {
    for n in 0..PLANS {
        let session = (n % 2 == 0).then_some(session);
        let plan = explicit(Shape::Diamond(3), &[agent], session);
        store.accept_plan(scope, &plan).await.expect("accepted");
        work(store).await;
    }
}

async fn work(store: &Store) -> usize {
    let claims = store.claim(WorkerId::new(), 5).await.expect("claims");
    for claim in &claims {
        let done = Outcome::Succeed {
            result: json!({}),
            reply: None,
        };
        store.finish(claim, &done).await.expect("a finish");
    }
    claims.len()
}

async fn events(store: &Store, scope: UserScope, session: Option<SessionId>) -> Vec<Value> {
    let events = store
        .events_after(scope, session, 0.into(), 1_000_000)
        .await;
    let events = events.expect("events");
    events
        .iter()
        .map(|event| serde_json::to_value(event).expect("JSON"))
        .collect()
}

async fn everybody_gets_everything(ways: Ways) {
    timeout(Duration::from_mins(2), play(ways))
        .await
        .expect("somebody waits for an event that never comes");
}

async fn play(ways: Ways) {
    let redis = redis().await;
    let stage = Arc::new(Stage {
        database: Database::fresh().await,
        redis: redis.url(),
        ways,
        bases: Mutex::default(),
        last: Default::default(),
        written: AtomicBool::new(false),
    });
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let store = stage.store(&stop);
    let mut people = Vec::new();
    for name in PEOPLE {
        let scope = stage.database.user(&store, name).await;
        let agent = agent(&store, scope, "coder", 10).await;
        let session = store
            .create_session(scope, None)
            .await
            .expect("a session")
            .id;
        people.push((scope, agent, session));
    }
    let processes = vec![stage.process().await, stage.process().await];
    *stage.bases() = processes
        .iter()
        .map(|process| process.base.clone())
        .collect();
    let trouble = tokio::spawn(Arc::clone(&stage).trouble(processes, redis));
    let writing = async {
        let writers = people.iter().flat_map(|(scope, agent, session)| {
            (0..WRITERS).map(|_| write(&store, *scope, *agent, *session))
        });
        join_all(writers).await;
        while work(&store).await > 0 {}
        for (last, (scope, _, session)) in stage.last.iter().zip(&people) {
            for (last, of) in last.iter().zip([None, Some(*session)]) {
                let events = events(&store, *scope, of).await;
                let seq = events.last().and_then(|event| event["seq"].as_i64());
                last.store(seq.expect("events"), Ordering::Release);
            }
        }
        stage.written.store(true, Ordering::Release);
    };
    let reading = join_all((0..PEOPLE.len()).flat_map(|person| {
        let (stage, people) = (&stage, &people);
        (0..CLIENTS).map(move |number| async move {
            let (scope, _, session) = people[person];
            let of = (number % 3 == 0).then_some(session);
            (scope, of, stage.client_of(person, number, of).await)
        })
    }));
    let ((), transcripts) = tokio::join!(writing, reading);
    let (processes, _redis) = trouble.await.expect("no panic");
    for process in processes {
        process.stop.cancel();
        let _ = process.server.await;
    }
    for (scope, session, transcript) in transcripts {
        let stored = events(&store, scope, session).await;
        assert!(stored.len() > 200, "{}", stored.len());
        assert_eq!(transcript, stored, "{session:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_all_ways() {
    everybody_gets_everything(Ways::All).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_hints_switched_off() {
    everybody_gets_everything(Ways::PollOnly).await;
}
