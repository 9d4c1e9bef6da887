//! Stories over the whole system.

mod api;
mod cli;
mod cost;
mod crashes;
mod model;
mod mutants;
mod real_input;
mod transitions;
mod vendors;
mod volume;
