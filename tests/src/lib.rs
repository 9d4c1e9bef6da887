//! The harness of the stories in `it/`: private servers, stand-ins, checks.

/// A front end that speaks AG-UI.
pub mod agui;
/// The chaos harness.
pub mod chaos;
/// Private servers and databases.
pub mod harness;
/// A person at the HTTP API.
pub mod person;
/// The binary as a real process.
pub mod process;
/// The two tiers as processes of their own.
pub mod tiers;
/// Programs of other people.
pub mod tools;
/// A stand-in for a model vendor.
pub mod vendor;

/// Physical truth: what ran when, checked against what was promised.
pub mod checker;
