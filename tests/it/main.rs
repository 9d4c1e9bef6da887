//! Stories over the whole system.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod api;
mod cli;
mod cost;
mod crashes;
mod model;
mod mutants;
mod protocol;
mod real_input;
mod steering;
mod transitions;
mod vendors;
mod volume;
