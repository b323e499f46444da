//! `meshctl audit`: reading, exporting and verifying the log.

mod erase;
mod export;
mod pages;
pub(crate) mod past;
mod report;
mod tail;
mod trace;
mod verify;

use clap::Subcommand;
use mesh_messages::system::AuditEntry;
use serde_json::json;

use crate::client::{Answer, Request};
use crate::exit::Failure;
use crate::output::{Screen, Table};
use crate::session::Session;

/// Commands about the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the last records
    #[command(
        after_help = "Examples:\n  meshctl audit tail\n  meshctl audit tail --agent echo -n 50\n  meshctl audit tail -f"
    )]
    Tail(tail::Tail),
    /// Report on a period: who did what, denials, approvals, changes, incidents; Markdown, or JSON with -o json
    #[command(
        after_help = "Examples:\n  meshctl audit report --since 2025-06-01T00:00:00Z --until 2025-07-01T00:00:00Z > june.md\n  meshctl audit report --agent echo -o json"
    )]
    Report(report::Report),
    /// Export the log as JSON Lines, with proofs and a signed checkpoint, for checking it elsewhere
    #[command(
        after_help = "Examples:\n  meshctl audit export --out audit.jsonl\n  meshctl audit export --agent echo > echo.jsonl\n  meshctl audit export --agent echo --witness mesh.checkpoints --out echo.jsonl"
    )]
    Export(export::Export),
    /// Verify an export; needs no daemon
    #[command(after_help = VERIFY_HELP)]
    Verify(Box<verify::Verify>),
    /// Show what led to a record, up to the request for it, and all that it led to
    #[command(
        visible_alias = "why",
        after_help = "Examples:\n  meshctl audit trace 1042\n  meshctl audit trace --task 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d"
    )]
    Trace(trace::Trace),
    /// Show how a task or an agent stood when the log had got to a record; from an export it needs no daemon
    #[command(
        after_help = "Examples:\n  meshctl audit state --at 1042 --agent echo\n  meshctl audit state audit.jsonl --at 1042 --task 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d"
    )]
    State(Box<past::State>),
    /// Erase content of a task, or of somebody's tasks and messages, for ever; all proofs stay valid
    #[command(
        after_help = "Examples:\n  meshctl audit erase --task 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --reason 'request 17'\n  meshctl audit erase --subject user:ada --reason 'request 18'"
    )]
    Erase(erase::Erase),
    /// Print a fresh signed checkpoint, for a witness to keep
    #[command(after_help = "Example:\n  meshctl audit checkpoint > witness.note")]
    Checkpoint,
    /// Print the notes that say which keys took over from the log's first one, for a witness to keep
    #[command(after_help = "Example:\n  meshctl audit successions >> witness.note")]
    Successions,
}

const VERIFY_HELP: &str = "\
Prints `verified N records, root …`, or names the first bad record and exits with 1. Give it the node's key
(`meshctl key show`, noted down before), or it can only show that the file agrees with itself. Where other keys took
over, that is the node's first one, whose name the log bears, or the one in force. A witness is a checkpoint that
somebody else kept, or several of them one after the other, as `audit.witness.file` collects them: it shows that the
log's end was not cut off, that it was not written anew, and which keys took over.

Examples:
  meshctl audit verify audit.jsonl
  meshctl audit verify audit.jsonl --key did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK --witness witness.note";

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Tail(arguments) => tail::run(arguments, session),
        Command::Report(arguments) => report::run(arguments, session),
        Command::Export(arguments) => export::run(arguments, session),
        Command::Verify(arguments) => verify::run(arguments, session),
        Command::Trace(arguments) => trace::run(arguments, session),
        Command::State(arguments) => past::run(arguments, session),
        Command::Erase(arguments) => erase::run(arguments, session),
        Command::Checkpoint => checkpoint(session),
        Command::Successions => successions(session),
    }
}

/// The note is text; as a document it is wrapped.
fn checkpoint(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "audit", "checkpoint"]))?;
    let note = answer.text().to_owned();
    let document = Answer::from_value(&json!({ "checkpoint": note }));
    session.out.show(&document, || {
        Ok(Screen::new().line(note.trim_end_matches('\n')))
    })
}

fn successions(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "audit", "successions"]))?;
    let notes = answer.text().to_owned();
    let document = Answer::from_value(&json!({ "successions": notes }));
    session.out.show(&document, || {
        let screen = Screen::new();
        Ok(match notes.trim_end_matches('\n') {
            "" => screen,
            notes => screen.line(notes),
        })
    })
}

/// A listing of records, such as an agent's history.
pub(super) fn records(path: &[&str], limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(path), limit)?;
    session
        .out
        .show(&answer, || Ok(record_screen(&answer.rows()?)))
}

fn record_screen(entries: &[AuditEntry]) -> Screen {
    if entries.is_empty() {
        return Screen::new().line("no records").named(Vec::<String>::new());
    }
    let mut table = Table::new(&["POSITION", "TIME", "KIND", "AGENT", "TASK", "ACTOR"]);
    for entry in entries {
        table.row([
            entry.position.to_string().into(),
            entry.time.to_string().into(),
            entry.kind.as_str().into(),
            entry.agent.as_ref().into(),
            entry.task.as_ref().into(),
            entry.actor.as_str().into(),
        ]);
    }
    Screen::new()
        .table(table)
        .named(entries.iter().map(|entry| entry.position.to_string()))
}
