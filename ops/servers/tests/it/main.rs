//! Stories with real servers. As root they run with dropped users, else as ourselves.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod owner;
mod postgres;
mod postgres_crashes;
mod redis;
mod story;
