//! The whole way, from a message over HTTP to its answer, on input as the world sends it: a vendor that streams over a real
//! socket, well or badly; a second process; a database and a Redis that break off.

mod agui;
mod agui_tools;
mod binding;
mod breakdowns;
mod consent;
mod processes;
mod tools;
mod vendor;

use std::time::Duration;

use api::{
    ApiConfig,
    auth::{AuthConfig, SecretString},
};
use codelab_tests::{
    harness::{Database, assert_invariants},
    person::{Person, SECRET},
    vendor::{KEY, Vendor},
};
use engine::{
    Store,
    event::{
        Event,
        hints::{Hints, Reach},
    },
    store::{self, PoolLimits, RunLimits},
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use worker::{WorkerConfig, llm::RouterConfig, tool::Egress};

/// API and worker in this process, before a stand-in vendor.
struct System {
    store: Store,
    vendor: Vendor,
    ada: Person,
    database: Database,
    stop: CancellationToken,
    tiers: Vec<JoinHandle<()>>,
}

impl System {
    async fn start() -> Self {
        Self::start_planning_within(Duration::from_secs(5)).await
    }

    async fn start_planning_within(planning_timeout: Duration) -> Self {
        Self::start_with(planning_timeout, RunLimits::default()).await
    }

    /// With little patience for passing trouble.
    async fn start_impatient() -> Self {
        let limits = RunLimits {
            patience: Duration::from_secs(2),
            ..RunLimits::default()
        };
        Self::start_with(Duration::from_secs(5), limits).await
    }

    async fn start_with(planning_timeout: Duration, limits: RunLimits) -> Self {
        let (database, vendor, stop) = (
            Database::fresh().await,
            Vendor::start().await,
            CancellationToken::new(),
        );
        let postgres = store::pool(
            &database.url,
            PoolLimits {
                max: 20,
                ..PoolLimits::default()
            },
        )
        .unwrap();
        let hints = Hints::start(
            Reach {
                postgres: postgres.clone(),
                redis: None,
            },
            &stop,
        );
        let store = Store::new(postgres, hints, Duration::from_secs(30)).with_limits(limits);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let config = ApiConfig::new(AuthConfig::hs256(SecretString::from(SECRET)));
        let serving = api::serve(listener, store.clone(), config, stop.clone());
        let vendors = RouterConfig {
            openai_api_key: Some(KEY.into()),
            openai_base_url: Some(vendor.base_url()),
            ..RouterConfig::default()
        };
        let working = WorkerConfig {
            vendors,
            planning_timeout,
            egress: Egress::allowing(vec!["127.0.0.1".parse().unwrap()]),
            ..WorkerConfig::default()
        };
        let working = worker::run(store.clone(), working, stop.clone());
        let tiers = vec![
            tokio::spawn(async { serving.await.expect("the API ends well") }),
            tokio::spawn(async { working.await.expect("the worker ends well") }),
        ];
        Self {
            store,
            vendor,
            ada: Person::new(&base, "ada"),
            database,
            stop,
            tiers,
        }
    }

    /// All events of ada, in order.
    async fn events(&self) -> Vec<Event> {
        let scope = self.database.user(&self.store, "ada").await;
        self.store
            .events_after(scope, None, 0.into(), 100_000)
            .await
            .unwrap()
    }

    /// Everything is as it should be, and both tiers end when told to.
    async fn end(self) {
        assert_invariants(&self.store).await;
        assert!(
            self.vendor
                .requests()
                .iter()
                .all(|request| request.authorized),
            "the key goes with every call"
        );
        self.stop.cancel();
        for tier in self.tiers {
            timeout(Duration::from_secs(15), tier)
                .await
                .expect("it ends in time")
                .expect("no panic");
        }
    }
}

/// Index of the first event of a type about a step, by its attempt where that is told.
fn place(events: &[Event], kind: &str, key: &str, attempt: u64) -> usize {
    let found = events.iter().position(|event| {
        event.event_type == kind
            && event.payload["key"] == key
            && event.payload["attempt"] == attempt
    });
    found.unwrap_or_else(|| panic!("no {kind} of {key}, attempt {attempt}"))
}
