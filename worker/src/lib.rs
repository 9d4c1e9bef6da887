//! placeholder

/// The model vendors.
pub mod llm;
