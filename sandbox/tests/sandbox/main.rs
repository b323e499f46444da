//! The sandbox against the real kernel.
//!
//! An own harness, because this binary is also its own sandbox helper, its own attacker (inside) and its own
//! "meshd" that gets killed, each of which must be decided before any thread exists.
//!
//! Run as root, it runs once as root and once as an ordinary user, in namespaces of its own (`world.rs`); what cannot
//! be shown prints `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod attack;
mod balloon;
mod bench;
mod contained;
mod escapes;
mod homes;
mod lifecycle;
mod limits;
mod programs;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// How a test that did not fail ended.
pub(crate) enum Verdict {
    /// It held.
    Passed,
    /// This machine cannot show it.
    Skipped(String),
}

/// A test and its name.
pub(crate) type Test = (&'static str, fn() -> Verdict);

fn main() -> ExitCode {
    if mesh_sandbox::is_helper_invocation() {
        mesh_sandbox::sandbox_main();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("__attack") => return attack::main(&args[1..]),
        Some("__launch") => return bench::launch_main(&args[1..]),
        _ => {}
    }
    if !args.iter().any(|arg| arg == "--list")
        && let Some(code) = world::both(&args)
    {
        return code;
    }
    let tests = [
        programs::TESTS,
        contained::TESTS,
        escapes::TESTS,
        homes::TESTS,
        limits::TESTS,
        balloon::TESTS,
        lifecycle::TESTS,
    ]
    .concat();
    let names = args
        .iter()
        .filter(|arg| !arg.starts_with('-'))
        .collect::<Vec<_>>();
    let wanted =
        |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in &tests {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Verdict::Passed) => {
                passed += 1;
                say(&format!("test {name} ... ok"));
            }
            Ok(Verdict::Skipped(why)) => {
                skipped += 1;
                say(&format!("test {name} ... SKIPPED: {why}"));
            }
            Err(_) => {
                failed.push(*name);
                say(&format!("test {name} ... FAILED"));
            }
        }
    }
    say(&format!(
        "\ntest result: {passed} passed; {} failed; {skipped} SKIPPED",
        failed.len()
    ));
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stdout, reason = "a test harness reports on stdout")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
