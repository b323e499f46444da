//! The last records, and those that follow.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::Duration;

use mesh_messages::Timestamp;
use mesh_messages::system::{AuditEntry, SystemStatus};
use serde_json::json;

use super::pages::{Period, each};
use crate::client::{Answer, Request};
use crate::exit::Failure;
use crate::output::{Format, Screen};
use crate::session::Session;
use crate::watch::Wakeups;

/// Longest time between two looks when following.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How far back to look, further each time, until there are enough records. The log is listed oldest first, so
/// starting at its beginning would cost as much as its history is long.
const WINDOWS: [Duration; 4] = [
    Duration::from_mins(1),
    Duration::from_hours(1),
    Duration::from_hours(24),
    Duration::from_hours(30 * 24),
];

/// Which records.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// How many records
    #[arg(short = 'n', long, default_value = "20", value_name = "N")]
    lines: NonZeroU16,
    /// Go on with new records as they appear
    #[arg(short, long)]
    follow: bool,
    /// Only records of this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only records of this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// Only records of this kind, such as quarantined; all that begin so with a full stop at the end, such as task.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only what this caller did, such as user:admin
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only what the record at this position led to
    #[arg(long, value_name = "POSITION")]
    cause: Option<u64>,
    /// Only what one request led to
    #[arg(long, value_name = "REQUEST-ID")]
    correlation: Option<String>,
    /// Not before this time, such as 2025-06-20T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Not after this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<Timestamp>,
}

pub(super) fn run(arguments: &Tail, session: &mut Session) -> Result<(), Failure> {
    let period = Period::new(arguments.since, arguments.until)?;
    let request = Request::get(&["v1", "audit"])
        .query("agent", arguments.agent.as_deref())
        .query("task", arguments.task.as_deref())
        .query("kind", arguments.kind.as_deref())
        .query("actor", arguments.actor.as_deref())
        .query("cause", arguments.cause)
        .query("until", period.until)
        .query("correlation", arguments.correlation.as_deref());
    let wakeups = arguments
        .follow
        .then(|| Wakeups::new(session))
        .transpose()?;
    let count = usize::from(arguments.lines.get());
    let entries = last(&request, (period, count), session)?;
    let Some(wakeups) = wakeups else {
        let answer = Answer::from_value(&json!({ "items": entries, "nextCursor": null }));
        return session
            .out
            .show(&answer, || Ok(super::record_screen(&entries)));
    };
    let mut seen = entries.last().map(|entry| (entry.position, entry.time));
    print(&entries, session)?;
    loop {
        wakeups.wait(LOOK_MAX);
        let since = seen.map(|(_, time)| time).or(period.since);
        let mut new = Vec::new();
        // Times may be equal, positions are not.
        each(&request, since, session, |entry| {
            if seen.is_none_or(|(position, _)| entry.position > position) {
                new.push(entry);
            }
        })?;
        seen = new
            .last()
            .map(|entry| (entry.position, entry.time))
            .or(seen);
        print(&new, session)?;
    }
}

/// The last `count` records of a period that match.
fn last(
    request: &Request,
    (period, count): (Period, usize),
    session: &Session,
) -> Result<Vec<AuditEntry>, Failure> {
    let end = if let Some(until) = period.until {
        until
    } else {
        let status: SystemStatus = session.send(&Request::get(&["status"]))?.read()?;
        // The daemon's clock, not ours: it is what the records bear.
        status.started_at.plus(Duration::from_millis(status.uptime))
    };
    let starts = WINDOWS.map(|window| Some(end.minus(window)));
    // None before the period: where that is shorter than a window, it is looked at once.
    let within = starts
        .into_iter()
        .take_while(|start| period.since.is_none_or(|since| *start > Some(since)));
    let mut found = VecDeque::new();
    for since in within.chain([period.since]) {
        found.clear();
        each(request, since, session, |entry| {
            found.push_back(entry);
            if found.len() > count {
                found.pop_front();
            }
        })?;
        if found.len() == count {
            break;
        }
    }
    Ok(found.into())
}

/// A line per record: a table cannot grow.
fn print(entries: &[AuditEntry], session: &mut Session) -> Result<(), Failure> {
    for entry in entries {
        let document = Answer::from_value(&json!(entry));
        match session.out.format() {
            Format::Json => session.out.line(document.text())?,
            Format::Yaml | Format::Name | Format::Table => session.out.show(&document, || {
                let about = [
                    entry.agent.as_ref().map(ToString::to_string),
                    entry.task.as_ref().map(ToString::to_string),
                ];
                let about = about.into_iter().flatten().collect::<Vec<_>>().join(" ");
                let line = format!(
                    "{} {} {} {about} by {}",
                    entry.position, entry.time, entry.kind, entry.actor
                );
                Ok(Screen::new()
                    .line(line.replace("  ", " "))
                    .named([entry.position.to_string()]))
            })?,
        }
    }
    session.out.flush()
}
