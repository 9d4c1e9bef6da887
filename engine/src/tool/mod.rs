//! Tools: what an agent may do besides talking, and what is known of each call.

pub mod effect;
mod spec;

pub use effect::{Effect, Entry, EntryKind, EntryState};
pub use spec::{Consent, Executor, Tool};

/// The builtin tool by which an agent asks another one.
pub const DELEGATE: &str = "delegate";
