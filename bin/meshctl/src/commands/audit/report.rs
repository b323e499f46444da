//! A report on a period: who did what, what was refused, approved and changed, and what became of the work.
//!
//! It is made here, from the records as the daemon lists them; which checkpoint covers them stands in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesh_messages::Timestamp;
use mesh_messages::events::AuditCounts;
use mesh_messages::system::AuditEntry;
use serde::Serialize;

use super::pages::{Period, each};
use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// Rows of each list. What is beyond is counted: a report is for people, the records are in the export.
const ROWS_MAX: usize = 500;

/// Which period, and of whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Not before this time, such as 2025-06-20T00:00:00Z; from the beginning when absent
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Not after this time; until now when absent
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only records of this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
}

/// One thing that happened.
#[derive(Debug, Serialize)]
struct Row {
    position: u64,
    time: Timestamp,
    actor: String,
    kind: String,
    about: String,
}

/// Rows, and how many there were.
#[derive(Debug, Default, Serialize)]
struct Rows {
    total: u64,
    rows: Vec<Row>,
}

impl Rows {
    fn push(&mut self, entry: &AuditEntry, about: String) {
        self.total += 1;
        if self.rows.len() < ROWS_MAX {
            self.rows.push(Row {
                position: entry.position.0,
                time: entry.time,
                actor: entry.actor.clone(),
                kind: entry.kind.clone(),
                about,
            });
        }
    }
}

/// What the report says.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    agent: Option<String>,
    /// The checkpoint as of which it was made.
    checkpoint: String,
    records: u64,
    first: Option<u64>,
    last: Option<u64>,
    /// By actor, how often each kind.
    actors: BTreeMap<String, BTreeMap<String, u64>>,
    /// By actor, how often each action was allowed on each kind of resource.
    allowed: BTreeMap<String, BTreeMap<String, u64>>,
    /// How tasks ended.
    tasks: BTreeMap<String, u64>,
    denials: Rows,
    approvals: Rows,
    changes: Rows,
    incidents: Rows,
    erased: u64,
}

/// Kinds that change what may run, who may do what, or by which rules.
const CHANGES: [&str; 17] = [
    "agent.listed",
    "agent.unlisted",
    "registered",
    "upgraded",
    "terminated",
    "desired.changed",
    "budget.applied",
    "policy.applied",
    "token.issued",
    "token.revoked",
    "key.registered",
    "key.revoked",
    "key.rotated",
    "memory.sealed",
    "memory.purged",
    "task.retried",
    "node.restored",
];

/// Kinds that somebody should look at.
const INCIDENTS: [&str; 10] = [
    "quarantined",
    "recovered",
    "probation.passed",
    "error",
    "health.finding",
    "limit.breached",
    "state.lost",
    "health.alert",
    "chaos.struck",
    "message.dead_lettered",
];

pub(super) fn run(arguments: &Report, session: &mut Session) -> Result<(), Failure> {
    let period = Period::new(arguments.since, arguments.until)?;
    let checkpoint = session.send(&Request::get(&["v1", "audit", "checkpoint"]))?;
    let request = Request::get(&["v1", "audit"])
        .query("agent", arguments.agent.as_deref())
        .query("until", period.until);
    let mut document = Document {
        since: period.since,
        until: period.until,
        agent: arguments.agent.clone(),
        checkpoint: checkpoint.text().to_owned(),
        ..Document::default()
    };
    each(&request, period.since, session, |entry| {
        document.take(&entry);
    })?;
    let value = serde_json::to_value(&document).map_err(|error| {
        Failure::new(Exit::Bug, format!("the report cannot be written: {error}"))
    })?;
    let text = document.markdown();
    session
        .out
        .show(&Answer::from_value(&value), || Ok(Screen::new().line(text)))
}

impl Document {
    fn take(&mut self, entry: &AuditEntry) {
        self.records += 1;
        self.first.get_or_insert(entry.position.0);
        self.last = Some(entry.position.0);
        self.erased += u64::from(entry.payload.is_none());
        let kinds = self.actors.entry(entry.actor.clone()).or_default();
        *kinds.entry(entry.kind.clone()).or_default() += 1;
        let text = |key: &str| {
            let payload = entry.payload.as_ref();
            let value = payload.and_then(|payload| payload.get(key));
            value
                .and_then(|v| v.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        match entry.kind.as_str() {
            "access.denied" => {
                let about = format!(
                    "{} {}: {}",
                    text("action"),
                    text("resource"),
                    text("reason")
                );
                self.denials.push(entry, about);
            }
            "request.refused" => {
                let about = format!("{} {}: {}", text("action"), text("resource"), text("code"));
                self.denials.push(entry, about);
            }
            "audit.counted" => {
                for line in counted(entry) {
                    self.denials.push(entry, line);
                }
            }
            "access.allowed" => {
                let actions = self.allowed.entry(entry.actor.clone()).or_default();
                *actions.entry(text("action")).or_default() += 1;
            }
            kind if CHANGES.contains(&kind) => self.changes.push(entry, about(entry)),
            kind if INCIDENTS.contains(&kind) => self.incidents.push(entry, about(entry)),
            "message_sent" if text("kind") == "SECURITY_ALERT" => {
                self.incidents
                    .push(entry, format!("security alert from {}", text("from")));
            }
            "task.approved" => {
                let payload = entry.payload.as_ref();
                let yes = payload
                    .and_then(|p| p.get("approve"))
                    .and_then(serde_json::Value::as_bool);
                let answer = if yes == Some(true) {
                    "approved"
                } else {
                    "denied"
                };
                let task = entry.task.as_ref().map_or("a task", |task| task.as_str());
                self.approvals
                    .push(entry, format!("{answer} {task} {}", text("comment")));
            }
            "task.submitted" | "task.succeeded" | "task.cancelled" | "task.dead_lettered" => {
                *self.tasks.entry(entry.kind.clone()).or_default() += 1;
            }
            "task.attempt_failed" => {
                *self.tasks.entry(entry.kind.clone()).or_default() += 1;
                let then = entry.payload.as_ref().and_then(|p| p.get("then"));
                if then.is_some_and(|then| *then == "fail") {
                    *self.tasks.entry("task.failed".to_owned()).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    fn markdown(&self) -> String {
        let mut out = String::from("# Audit report\n\n");
        let time =
            |t: Option<Timestamp>, none: &str| t.map_or_else(|| none.into(), |t| t.to_string());
        let (since, until) = (time(self.since, "the beginning"), time(self.until, "now"));
        // Writing to a string cannot fail; so do all below.
        let _infallible = writeln!(out, "Period: {since} to {until}  ");
        if let Some(agent) = &self.agent {
            let _infallible = writeln!(out, "Agent: {agent}  ");
        }
        if let (Some(first), Some(last)) = (self.first, self.last) {
            let _infallible = writeln!(
                out,
                "Records: {} (positions {first} to {last}), {} of them with erased content  ",
                self.records, self.erased
            );
        } else {
            out.push_str("Records: none  \n");
        }
        let _infallible = write!(out, "\n```\n{}```\n", self.checkpoint);
        out.push_str("\n## Who did what\n\n| actor | what | how often |\n|---|---|---|\n");
        for (actor, kinds) in &self.actors {
            for (kind, count) in kinds.iter().filter(|(kind, _)| *kind != "access.allowed") {
                let _infallible = writeln!(out, "| {} | {} | {count} |", cell(actor), cell(kind));
            }
        }
        for (actor, actions) in &self.allowed {
            for (action, count) in actions {
                let _infallible = writeln!(
                    out,
                    "| {} | allowed: {} | {count} |",
                    cell(actor),
                    cell(action)
                );
            }
        }
        out.push_str("\n## Tasks\n\n| outcome | how many |\n|---|---|\n");
        for (kind, count) in &self.tasks {
            let _infallible = writeln!(out, "| {} | {count} |", cell(kind));
        }
        for (title, rows) in [
            ("Denials", &self.denials),
            ("Approvals", &self.approvals),
            ("Changes", &self.changes),
            ("Incidents", &self.incidents),
        ] {
            table(&mut out, title, rows);
        }
        out.truncate(out.trim_end().len());
        out
    }
}

fn table(out: &mut String, title: &str, rows: &Rows) {
    let _infallible = write!(out, "\n## {title} ({})\n\n", rows.total);
    if rows.rows.is_empty() {
        out.push_str("None.\n");
        return;
    }
    out.push_str("| position | time | actor | kind | about |\n|---|---|---|---|---|\n");
    for row in &rows.rows {
        let _infallible = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            row.position,
            row.time,
            cell(&row.actor),
            cell(&row.kind),
            cell(&row.about)
        );
    }
    let beyond = rows.total.saturating_sub(rows.rows.len() as u64);
    if beyond > 0 {
        let _infallible = writeln!(out, "\n{beyond} more are in the export.");
    }
}

/// What a change or an incident was about, in a few words out of its record.
fn about(entry: &AuditEntry) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(entry.agent.as_ref().map(ToString::to_string));
    words.extend(entry.task.as_ref().map(ToString::to_string));
    let payload = entry.payload.as_ref();
    for key in [
        "id", "role", "subject", "key", "owner", "from", "to", "success", "reason", "running",
        "replicas", "digest",
    ] {
        let value = payload.and_then(|payload| payload.get(key));
        match value {
            Some(serde_json::Value::String(text)) => words.push(format!("{key} {text}")),
            Some(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => {
                words.push(format!("{key} {value}"));
            }
            _ => {}
        }
    }
    for pointer in [
        "/failure/class",
        "/failure/message",
        "/record/description",
        "/manifest/version",
    ] {
        let value = payload.and_then(|payload| payload.pointer(pointer));
        words.extend(value.and_then(|v| v.as_str()).map(str::to_owned));
    }
    words.join(", ")
}

/// A text that others chose, so that it stays within its cell.
fn cell(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    plain
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('`', "\\`")
}

/// Refusals that were only counted, a line for each kind.
fn counted(entry: &AuditEntry) -> Vec<String> {
    let counts = entry
        .payload
        .clone()
        .and_then(|payload| serde_json::from_value::<AuditCounts>(payload).ok());
    let Some(counts) = counts else {
        return Vec::new();
    };
    // Calls beyond what is recorded one by one are counted, too, and nobody refused them.
    let refused = counts.counts.iter().filter(|row| row.code != "noted");
    let rows = refused.map(|row| {
        let (user, action, code, times) = (&row.user, &row.action, &row.code, row.times);
        format!("{user} {action}: {code}, {times} more times")
    });
    let others = (counts.others > 0).then(|| format!("{} more of other kinds", counts.others));
    rows.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(position: u64, kind: &str, actor: &str, payload: serde_json::Value) -> AuditEntry {
        let value = json!({
            "position": position, "time": "2025-06-20T22:04:00Z", "kind": kind, "actor": actor,
            "cause": null, "commitment": "sha256:00", "payload": payload,
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_happened_stands_where_it_belongs() {
        let mut report = Document::default();
        for entry in [
            entry(
                0,
                "access.denied",
                "user:eve",
                json!({"action": "tokens", "resource": "/v1/tokens", "user": "user:eve", "reason": "a|b\nc"}),
            ),
            entry(
                1,
                "access.allowed",
                "user:ada",
                json!({"action": "task.control", "resource": "/v1/tasks/T1/approve", "user": "user:ada"}),
            ),
            entry(
                7,
                "task.approved",
                "user:ada",
                json!({"by": "user:ada", "approve": true, "comment": "fine"}),
            ),
            entry(2, "policy.applied", "user:ada", json!({"policy": {}})),
            entry(
                3,
                "quarantined",
                "meshd",
                json!({"record": {"description": "forged"}}),
            ),
            entry(4, "task.succeeded", "agent:echo", json!({})),
            entry(
                5,
                "task.attempt_failed",
                "agent:echo",
                json!({"then": "fail"}),
            ),
            entry(6, "memory.set", "agent:echo", serde_json::Value::Null),
        ] {
            report.take(&entry);
        }
        assert_eq!((report.records, report.erased), (8, 1));
        let totals = [
            &report.denials,
            &report.approvals,
            &report.changes,
            &report.incidents,
        ];
        assert_eq!(totals.map(|rows| rows.total), [1, 1, 1, 1]);
        assert_eq!(report.tasks["task.failed"], 1);
        let text = report.markdown();
        assert!(text.contains("a\\|b c"), "{text}");
        assert!(
            text.contains("| user:ada | allowed: task.control | 1 |"),
            "{text}"
        );
        assert!(text.contains("## Incidents (1)"), "{text}");
        assert!(text.contains("forged"), "{text}");
    }
}
