//! The chaos harness: a whole deployment in real processes, everything that can break broken on a seeded schedule, and checkers over
//! what was physically done, what clients were told, and what the rows say.
//!
//! A run: `stage` starts servers, proxies and processes; `person`s carry out random `program`s over the public API and watch
//! their `stream`s; the `nemesis` strikes; everything heals; `liveness` waits for all work to end; `checks` judge. Besides: every
//! crash `points` once, and `mutants` that the checkers have to notice.
//!
//! A seed fixes the programs and the schedule of faults, not the interleaving. So every finding is a violation of something
//! that must hold in every interleaving, never a difference from an expected run.

pub mod checks;
pub mod client;
pub mod evidence;
pub mod faults;
pub mod history;
pub mod liveness;
pub mod model_server;
pub mod mood;
pub mod mutants;
pub mod nemesis;
pub mod person;
pub mod points;
pub mod profile;
pub mod program;
pub mod proxy;
pub mod receipts;
pub mod report;
pub mod run;
pub mod scenario;
pub mod script;
pub mod slot;
mod socket;
pub mod stage;
pub mod statements;
pub mod stream;
pub mod tool_server;
pub mod victims;
pub mod zombies;
