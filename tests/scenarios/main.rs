//! What people who run fleets of agents suffer elsewhere, each as a story with a name, against the real daemon.
//!
//! `cargo test -p mesh-tests --test scenarios -- d1 --nocapture` runs one and prints what it saw. Each has a control: the same
//! stimulus with the protection switched off, or outside meshd, in which the bad thing happens. A scenario whose stimulus
//! does not bite proves nothing.

mod d1_respawn_storm;
mod d2_orphans;
mod d3_lying_liveness;
mod d4_lost_or_doubled;
mod d5_tricked_agent;
mod d6_sandbox_that_does_not_start;
mod d7_collisions;
mod d8_done_that_is_not_done;
mod d9_fleet;
mod d9_quota_wall;

use std::io::Write as _;
use std::time::Duration;

use mesh_tests::{Daemon, eventually};
use serde_json::Value;

/// Long enough for whatever a busy machine does.
const PATIENCE: Duration = Duration::from_mins(2);

/// Tells what was seen, also when the test passes.
fn saw(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// How often an agent was started.
fn starts(daemon: &Daemon, agent: &str) -> usize {
    daemon.audit(&format!("kind=activated&agent={agent}")).len()
}

/// Waits until a task has begun on an agent; its first instance's process.
#[track_caller]
fn at_work(daemon: &Daemon, agent: &str, task: &str) -> u64 {
    eventually("the task runs", PATIENCE, || {
        let (task, status) = (daemon.task(task), daemon.status(agent));
        let pid = status["instances"][0]["pid"].as_u64();
        match (task["state"].as_str(), pid) {
            (Some("running"), Some(pid)) => Ok(pid),
            _ => Err(task.to_string()),
        }
    })
}

/// Sends a signal from outside, as an operator or the kernel would.
fn signal(name: &str, pid: u64) {
    let ran = std::process::Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(ran.success(), "kill {name} {pid}");
}

/// Numbers of a task's attempts, their classes, and its end, in words.
fn story(task: &Value) -> String {
    let attempts = task["attempts"].as_array().expect("attempts").iter();
    let told: Vec<String> = attempts
        .map(|attempt| {
            let class = attempt["error"]["class"].as_str().unwrap_or("ok");
            format!("{}: {class}", attempt["number"])
        })
        .collect();
    format!(
        "{} ({})",
        task["state"].as_str().unwrap_or_default(),
        told.join(", ")
    )
}
