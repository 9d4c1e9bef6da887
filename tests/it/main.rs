//! Stories over the whole system.

mod api;
mod cli;
mod model;
mod transitions;
mod vendors;
