//! A whole deployment under chaos for half a minute: people work while workers are killed and frozen, Postgres crashes, the network
//! lies, and the vendor is out of order. More of it: `cargo run -p codelab-tests --bin chaos -- --help`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

use codelab_tests::chaos::{
    profile,
    run::{Breakage, run},
    stage::Cluster,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_breaks_and_nothing_is_lost_or_done_twice() {
    let cluster = Cluster::start().await;
    let smoke = profile::named("smoke").expect("the profile is there");
    let report = run(&cluster, &smoke, 1, &Breakage::default()).await;
    let figures = serde_json::to_string_pretty(&report).unwrap();
    assert!(report.violations.is_empty(), "{figures}");
}
