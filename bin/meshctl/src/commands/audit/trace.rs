//! What led to a record, and what it led to.

use std::collections::BTreeMap;

use clap::ArgGroup;
use mesh_messages::Position;
use mesh_messages::system::{AuditEntry, AuditTrace};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::Screen;
use crate::session::Session;

/// Deepest indentation that is drawn: what lies deeper stands at the same place.
const DEPTH_MAX: usize = 16;

/// Where to begin.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("from").required(true).args(["position", "task"]))]
pub(crate) struct Trace {
    /// The record's position
    position: Option<u64>,
    /// Instead: the first record of this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,
}

pub(super) fn run(arguments: &Trace, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "audit", "trace"])
        .query("position", arguments.position)
        .query("task", arguments.task.as_deref());
    let answer = session.send(&request)?;
    session.out.show(&answer, || Ok(screen(&answer.read()?)))
}

/// Each record under the one that led to it.
fn screen(trace: &AuditTrace) -> Screen {
    let mut depths: BTreeMap<Position, usize> = BTreeMap::new();
    let mut screen = Screen::new();
    let all = trace
        .causes
        .iter()
        .chain([&trace.record])
        .chain(&trace.effects);
    for entry in all.clone() {
        let above = entry.cause.and_then(|cause| depths.get(&cause));
        let depth = above.map_or(0, |depth| depth + 1);
        depths.insert(entry.position, depth);
        let mark = if entry.position == trace.record.position {
            "*"
        } else {
            " "
        };
        let indent = "  ".repeat(depth.min(DEPTH_MAX));
        screen = screen.line(format!("{mark} {indent}{}", line(entry)));
    }
    if trace.more {
        screen = screen.line("  … and more");
    }
    screen.named(all.map(|entry| entry.position.to_string()))
}

fn line(entry: &AuditEntry) -> String {
    let AuditEntry {
        position,
        kind,
        actor,
        ..
    } = entry;
    let agent = entry.agent.as_ref().map(|agent| format!(" agent {agent}"));
    let task = entry.task.as_ref().map(|task| format!(" task {task}"));
    let (agent, task) = (agent.unwrap_or_default(), task.unwrap_or_default());
    format!("{position} {kind} by {actor}{agent}{task}")
}
