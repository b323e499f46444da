//! The same random history on a real Erlang supervisor and on ours: after each step the outcome, the order of what
//! happened, and the children that there are, must be the same.
//!
//! `ERLANG_HISTORIES` sets how many histories of each kind are compared. Where the two are meant to differ, see the
//! crate's documentation, the histories do not go: two crashes at once in `one_for_one`, and a crash of a child that
//! stands before the group being restarted.

mod oracle;
mod ours;
mod story;

use std::{cell::RefCell, fmt::Write as _};

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::{
    oracle::Oracle,
    ours::Ours,
    story::{Story, group_story, pool_story, significant_story},
};

/// Enough for each kind of step in each state, and done in seconds.
const HISTORIES: u32 = 250;

/// Says so directly, because the test runner swallows what a passing test prints.
fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {reason}"));
}

/// Compares as many histories as asked for, and shrinks one that differs.
fn compare(test: &str, stories: impl proptest::strategy::Strategy<Value = Story>) {
    let oracle = match Oracle::start() {
        Ok(oracle) => RefCell::new(oracle),
        Err(reason) => {
            return skip(test, &reason);
        }
    };
    let cases = std::env::var("ERLANG_HISTORIES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(HISTORIES);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let compared = TestRunner::new(config).run(&stories, |story| {
        let theirs = oracle.borrow_mut().tell(&story);
        let ours = Ours::tell(&story);
        if theirs == ours {
            return Ok(());
        }
        let mut text = String::from("the two differ (theirs, ours where different):\n");
        for (n, step) in story.steps.iter().enumerate() {
            _ = writeln!(text, "  {step}\n    {}", theirs[n]);
            if theirs[n] != ours[n] {
                _ = writeln!(text, "    {} <- ours", ours[n]);
                break;
            }
        }
        Err(TestCaseError::fail(text))
    });
    if let Err(difference) = compared {
        panic!("{difference}");
    }
}

#[test]
fn groups_behave_as_erlangs() {
    compare("groups_behave_as_erlangs", group_story());
}

#[test]
fn significant_children_behave_as_erlangs() {
    compare(
        "significant_children_behave_as_erlangs",
        significant_story(),
    );
}

#[test]
fn pools_behave_as_erlangs() {
    compare("pools_behave_as_erlangs", pool_story());
}
