//! Builders and checks for the tests and benchmarks of other members. Not part of the product.

mod build;
mod check;

pub use build::{Shape, explicit};
pub use check::{Violation, check_invariants, picture};
