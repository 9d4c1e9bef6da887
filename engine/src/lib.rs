//! Codelab Core, the product as a library: plans that live as graphs of steps in Postgres, the transitions that move
//! them, the leases under which they run, and the events that tell of it.
//!
//! ```text
//! message -> plan (rows) -> ready step -> claim (lease) -> run outside any transaction -> outcome
//!         -> finish: one short statement: fence, result, dependents, agent counter, plan counter, events -> feed
//! ```
//!
//! It knows Postgres. It does not know HTTP, apalis, or any model vendor.

pub mod agent;
pub mod clock;
pub mod error;
pub mod event;
pub mod fault;
pub mod id;
pub mod llm;
pub mod plan;
pub mod scope;
pub mod step;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;
pub mod wait;

pub use error::StoreError;
pub use scope::UserScope;
pub use store::Store;

/// Chooses one TLS provider for the whole process. First line of every `main` and of every test harness: two of our
/// dependencies bring one each, and rustls refuses to choose.
pub fn install_crypto() {
    // An error means that it was chosen before: just as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
