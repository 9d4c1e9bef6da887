//! The harness of the stories in `it/`: private servers, stand-ins, checks.

/// Private servers and databases.
pub mod harness;
/// A stand-in for a model vendor.
pub mod vendor;
