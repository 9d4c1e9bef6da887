//! Stories over the whole system.

mod api;
mod cli;
mod crashes;
mod model;
mod mutants;
mod transitions;
mod vendors;
