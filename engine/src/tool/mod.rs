//! Tools: what an agent may do besides talking, and what is known of each call.

pub mod digest;
pub mod effect;
pub mod policy;
pub mod schema;
mod spec;

pub use effect::{Effect, Entry, EntryKind, EntryState};
pub use spec::{Consent, Executor, Risk, Tool};

/// The builtin tool by which an agent asks another one.
pub const DELEGATE: &str = "delegate";
/// The builtin tool by which an agent asks the person.
pub const ASK_USER: &str = "ask_user";
