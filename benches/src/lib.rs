//! What the benchmarks share: samples and their quantiles, a table of results against goals, and the state of the
//! process and the machine.
//!
//! Nothing here is a pass or a failure: a ratio is printed beside its goal, and whoever reads it knows the machine.

mod machine;
mod report;
mod samples;

pub use machine::{fresh, machine, measure, resident_bytes};
pub use report::{Goal, Report, Unit, number};
pub use samples::Samples;

/// Which benchmarks of a program were asked for; all, if none was named.
pub fn is_wanted(name: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|argument| argument == name)
}
