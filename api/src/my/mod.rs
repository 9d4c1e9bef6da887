//! Everything that belongs to the person who asks: one module per resource, each handler beside the shapes it speaks.

pub(crate) mod agent_config;
pub(crate) mod agents;
pub(crate) mod agui;
pub(crate) mod approval_batch;
pub(crate) mod approvals;
pub(crate) mod events;
pub(crate) mod graph;
pub(crate) mod messages;
pub(crate) mod new_plan;
pub(crate) mod orchestrator;
pub(crate) mod plans;
pub(crate) mod policy;
pub(crate) mod sessions;
pub(crate) mod snapshot;
pub(crate) mod steps;
pub(crate) mod tickets;
pub(crate) mod tool_calls;
pub(crate) mod tools;
