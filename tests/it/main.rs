//! Stories over the whole system.

mod model;
mod transitions;
mod vendors;
