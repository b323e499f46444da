//! The agents that are part of the binary: `entry: builtin:<name>`.
//!
//! meshd re-executes its own image for them, inside the same sandbox as any other agent and speaking the same KLP lines;
//! they get no privilege and no short cut. They make the demo run with nothing but this one binary installed, and they
//! are the shortest examples of agents there are.

use std::process::ExitCode;

mod analyst;
mod echo;
mod planner;
mod reporter;
mod sdk;
mod walk;

/// Names that `entry: builtin:<name>` accepts.
pub(crate) const NAMES: [&str; 5] = ["analyst", "echo", "fragile-analyst", "planner", "reporter"];

/// The agent that this process was started to be, if it was.
pub(crate) fn asked_for() -> Option<String> {
    let mut args = std::env::args().skip(1);
    let verb = args.next()?;
    (verb == mesh_actors::BUILTIN_VERB).then(|| args.next().unwrap_or_default())
}

/// Runs a built-in agent until its input ends or it is told to shut down.
pub(crate) fn run(name: &str) -> ExitCode {
    let served = match name {
        "analyst" => sdk::serve(&mut analyst::Analyst::steady()),
        "echo" => sdk::serve(&mut echo::Echo),
        "fragile-analyst" => sdk::serve(&mut analyst::Analyst::fragile()),
        "planner" => sdk::serve(&mut planner::Planner::default()),
        "reporter" => sdk::serve(&mut reporter::Reporter),
        _ => {
            sdk::log(&format!(
                "no built-in agent `{name}`; there are {}",
                NAMES.join(", ")
            ));
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sdk::log(&format!("standard input or output failed: {error}"));
            ExitCode::FAILURE
        }
    }
}
