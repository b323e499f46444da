//! Every edge of every machine that a run over many seeds has to take at least once.
//!
//! The table is the list: an edge that is taken and not listed is a breach, an edge that is listed and never taken fails
//! the run over all seeds.

use std::fmt::{Arguments, Write as _};

/// The machines, and their edges.
pub const EDGES: &[(&str, &[&str])] = &[
    (
        "supervisor",
        &[
            "a start wins against its own stop",
            "a start is ignored",
            "a stale exit is dropped",
            "a failed restart is tried again",
            "an overdue child is killed",
            "a killed child that stays is abandoned",
            "end by order",
            "a first start fails: forgotten",
            "a start by order fails: down",
            "end by a failed boot",
            "a second failure within a group restart counts once",
            "auto shutdown: the first significant child",
            "auto shutdown: the last significant child",
            "a restart exactly a period old still counts",
            "end by intensity",
            "children are started with it",
            "one_for_one restarts one",
            "a pool restarts one",
            "one_for_all restarts all",
            "rest_for_one restarts the rest",
        ],
    ),
    (
        "supervisor request",
        &[
            "add a child",
            "start a child by request",
            "restart a child by request",
            "terminate a child",
            "delete a child",
            "change a running supervisor",
            "a request is refused",
        ],
    ),
    (
        "restart type",
        &[
            "permanent, abnormal end: restarted",
            "permanent, normal end: restarted",
            "transient, abnormal end: restarted",
            "transient, normal end: down",
            "temporary, abnormal end: forgotten",
            "temporary, normal end: forgotten",
        ],
    ),
    (
        "fault table",
        &[
            "quarantined, a worse failure: quarantined",
            "recovering, scored failure: quarantined",
            "live, score at the threshold: quarantined",
            "live, more than the hour bears: quarantined",
            "running or backoff, too many in the window: open",
            "running, scored failure: backoff",
            "running, scored failure, no auto_restart: stopped",
            "backoff, failure of another replica: backoff",
            "open, failure of another replica: open",
            "half_open, scored failure: open",
            "stopped, scored failure: counted",
            "quarantined by count, refunded: out again",
            "open, refunded: backoff",
            "refunded elsewhere: counted down",
            "a stale timer is dropped",
            "a timer that is early is armed again",
            "running, stable: score forgotten",
            "running for an hour: attempts forgotten",
            "backoff, timer: running",
            "open, timer: half_open",
            "half_open, idle: running",
            "recovering, long enough up: running",
            "quarantined, timer: recovering",
            "on trial, task ended unscored: permit returned",
            "half_open, task ok: running",
            "recovering, late task ok: running",
            "boot: running starts again",
            "boot: a trial begins again",
            "boot: a wait keeps its end",
            "boot: a quarantine goes on",
            "any, terminate: terminated",
            "quarantined, a worse order: quarantined",
            "any, quarantine order: quarantined",
            "quarantined, recover --force: recovering",
            "quarantined, recover: recovering",
            "stopped, start: running",
            "stopped in its trial, start: recovering",
            "live, stop: stopped",
            "running, restart: running",
            "live, resume: same",
            "a new configuration waits for the end of the episode",
            "a new configuration is in use at once",
            "an unscored end without auto_restart: stopped",
            "on trial, one task: permit taken",
            "on trial, no permit: parked",
            "open, task: parked",
            "running or backoff, task: granted",
            "quarantined or stopped, task: refused",
            "any, task for what is gone or going: refused",
            "quarantined and exhausted, recover: refused",
            "recover outside of quarantine: refused",
            "quarantined, stop, start, restart, resume: refused",
            "backoff or open, start, restart: refused",
            "running, start: refused",
            "on trial, start, restart: refused",
            "stopped, restart, resume: refused",
            "a terminated agent obeys nothing",
        ],
    ),
    (
        "agent stage",
        &[
            "the next replica is the furthest",
            "defined > registered",
            "audited > registered",
            "registered > activated",
            "registered > quarantined",
            "registered > terminated",
            "activated > handshaken",
            "activated > registered",
            "activated > quarantined",
            "activated > terminated",
            "handshaken > executing",
            "handshaken > registered",
            "handshaken > quarantined",
            "handshaken > terminated",
            "executing > upgrading",
            "executing > registered",
            "executing > quarantined",
            "executing > terminated",
            "upgrading > executing",
            "upgrading > registered",
            "quarantined > activated",
            "quarantined > terminated",
            "terminated > audited",
        ],
    ),
    ("agent effect", &["escalate"]),
    (
        "instance end",
        &[
            "crash",
            "start",
            "hang",
            "resource",
            "policy",
            "lost",
            "timeout",
            "it did not let go",
        ],
    ),
    (
        "claim",
        &[
            "taken with an attempt",
            "given back with the attempt",
            "waited for",
            "shared",
        ],
    ),
    (
        "task",
        &[
            "submitted > queued",
            "submitted > blocked",
            "blocked > queued",
            "blocked > cancelled",
            "blocked > dead_lettered",
            "blocked > succeeded",
            "blocked > failed",
            "queued > blocked",
            "parked > blocked",
            "retrying > blocked",
            "assigned > blocked",
            "running > blocked",
            "queued > assigned",
            "queued > parked",
            "queued > cancelled",
            "queued > dead_lettered",
            "parked > queued",
            "parked > assigned",
            "parked > cancelled",
            "parked > dead_lettered",
            "assigned > running",
            "assigned > succeeded",
            "assigned > retrying",
            "assigned > cancelled",
            "assigned > dead_lettered",
            "running > succeeded",
            "running > failed",
            "running > retrying",
            "running > parked",
            "running > cancelled",
            "running > dead_lettered",
            "retrying > queued",
            "retrying > cancelled",
            "retrying > dead_lettered",
            "failed > queued",
            "dead_lettered > queued",
        ],
    ),
    (
        "task failure",
        &[
            "poison: dead-lettered",
            "escalated",
            "crash",
            "start",
            "hang",
            "resource",
            "timeout",
            "unavailable",
            "contract",
            "quota",
            "refusal",
            "declined",
            "auth",
            "policy",
            "lost",
            "cancelled",
        ],
    ),
    (
        "escalation",
        &[
            "somebody is asked",
            "another round",
            "done by somebody else",
            "given up",
        ],
    ),
    (
        "team",
        &[
            "cross_functional formed",
            "hierarchical formed",
            "began",
            "disbanded",
            "done",
            "failed",
        ],
    ),
    (
        "report",
        &[
            "made again",
            "of the attempt under way: taken",
            "stale: refused",
            "of what was to be dropped: slot freed",
            "a stale start: told to drop it",
            "a delegation is refused",
            "a child's outcome reaches its parent",
        ],
    ),
    (
        "client",
        &[
            "submission replayed",
            "submission acknowledged",
            "dead-lettered: escalated",
            "refused: it makes no sense",
            "refused: the key stands for another task",
            "refused: it has ended",
            "refused: nobody knows it",
            "refused: it cannot be retried",
            "refused: nobody is asked",
            "refused: it is no answer",
        ],
    ),
    ("registry", &["an agent is listed"]),
    ("sentinel", &["issue", "void an agent's"]),
    (
        "life",
        &[
            "meshd ends by itself",
            "kill -9",
            "power cut",
            "what was not synced is lost",
            "the clock is set forward",
            "the clock is set back",
        ],
    ),
];

/// How often each edge was taken.
#[derive(Debug, Clone)]
pub struct Edges {
    counts: Vec<Vec<u64>>,
    unknown: std::collections::BTreeSet<String>,
    name: String,
}

impl Default for Edges {
    fn default() -> Self {
        Self {
            counts: EDGES
                .iter()
                .map(|(_, edges)| vec![0; edges.len()])
                .collect(),
            unknown: std::collections::BTreeSet::new(),
            name: String::new(),
        }
    }
}

impl Edges {
    /// An edge was taken.
    pub(crate) fn hit(&mut self, machine: &str, edge: &str) {
        let place = EDGES.iter().position(|(name, _)| *name == machine);
        let place = place.and_then(|at| {
            let found = EDGES[at].1.iter().position(|name| *name == edge)?;
            Some((at, found))
        });
        match place {
            Some((at, found)) => self.counts[at][found] += 1,
            None => {
                self.unknown.insert(format!("{machine}: {edge}"));
            }
        }
    }

    /// The same for an edge whose name is put together.
    pub(crate) fn hit_named(&mut self, machine: &str, edge: Arguments<'_>) {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        // Writing to a string cannot fail.
        let _never_fails = write!(name, "{edge}");
        self.hit(machine, &name);
        self.name = name;
    }

    /// Edges that were taken and are not in the table.
    pub(crate) fn unknown(&self) -> Option<String> {
        let all: Vec<&str> = self.unknown.iter().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// All edges with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        EDGES
            .iter()
            .zip(&self.counts)
            .flat_map(|((machine, edges), counts)| {
                edges
                    .iter()
                    .zip(counts)
                    .map(|(edge, count)| (*machine, *edge, *count))
            })
    }
}
