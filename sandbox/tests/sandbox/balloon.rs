//! Memory eaten at a sandbox's cost, from outside.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mesh_sandbox::{Balloon, Child, Limits, SandboxSpec};

use crate::bench::{Bench, await_text, eventually, wait};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    (
        "memory_eaten_to_the_limit_ends_the_agent_as_its_own_would",
        eaten,
    ),
    ("memory_eaten_below_the_limit_is_given_back", given_back),
];

const LIMIT: u64 = 64 << 20;

fn sleeper(bench: &Bench) -> SandboxSpec {
    let limits = Limits {
        memory_bytes: Some(LIMIT),
        ..Limits::default()
    };
    SandboxSpec {
        limits,
        ..bench.shell("echo up; sleep 1000")
    }
}

/// Nothing where the machine has no group for it, which is refused and not pretended.
fn eat(bench: &Bench, child: &Child, bytes: u64) -> Option<Balloon> {
    let works = bench.launcher.probe().memory.finding.works;
    let eaten = child.eat_memory(bytes);
    if let Err(error) = &eaten {
        assert!(!works && error.kind() == ErrorKind::Unsupported, "{error}");
    }
    eaten.ok()
}

fn eaten() -> Verdict {
    let bench = Bench::new();
    let mut child = bench.start(&sleeper(&bench));
    await_text(&child.stdout.take().unwrap(), "up");
    let Some(balloon) = eat(&bench, &child, 2 * LIMIT) else {
        return Verdict::Skipped("no control group holds memory here".to_owned());
    };
    let began = Instant::now();
    balloon.hold(Duration::from_mins(1));
    // The sandbox is gone, with what ate its memory.
    assert!(began.elapsed() < Duration::from_secs(30));
    let status = wait(&child);
    assert!(status.oom && !status.success(), "{status:?}");
    Verdict::Passed
}

fn given_back() -> Verdict {
    let bench = Bench::new();
    let mut child = bench.start(&sleeper(&bench));
    await_text(&child.stdout.take().unwrap(), "up");
    let before = child.usage().memory_bytes;
    let Some(balloon) = eat(&bench, &child, LIMIT / 2) else {
        return Verdict::Skipped("no control group holds memory here".to_owned());
    };
    assert_eq!(balloon.held(), Some(LIMIT / 2));
    let held = child.usage().memory_bytes;
    assert!(held >= before + LIMIT / 2, "{before} and then {held}");
    balloon.hold(Duration::from_millis(1));
    eventually("it is given back", || {
        child.usage().memory_bytes < before + LIMIT / 4
    });
    assert_eq!(child.try_wait(), None, "the agent noticed nothing");
    Verdict::Passed
}
