//! What happens to meshd itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::HealthLevel;
use crate::ids::Position;
use crate::system::AtRest;

/// A backup that a log goes on from. What its node recorded after it is not in this log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restoration {
    /// How many records were in it.
    pub records: u64,
    /// The root over them that was signed, in base64.
    pub root: String,
}

/// An end of the log that is gone, and known from a checkpoint that somebody kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogCut {
    /// How many records the largest such checkpoint covers.
    pub seen: u64,
    /// The root in it, in base64.
    pub root: String,
    /// How many records were left.
    pub left: u64,
    /// SHA-256, in hex, of all such notes, which are in `<data>/cut-accepted`.
    pub notes: String,
    /// Where the largest was found.
    pub from: String,
}

/// meshd itself. Partition `node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NodeEvent {
    /// meshd started on this log.
    #[serde(rename = "node.started")]
    Started {
        /// Its version.
        version: String,
        /// Names this run, to tell its processes from those of another.
        run_id: String,
        /// The last position that was there.
        after: Option<Position>,
        /// Whether the run before ended in order.
        clean: bool,
        /// The backup that the log goes on from, at the first start after it was restored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restored: Option<Restoration>,
        /// What is gone, when the operator started meshd all the same, or restored a backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<LogCut>,
        /// Whether the data directory was readable without a key; not said by versions that did not know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encryption: Option<AtRest>,
    },
    /// meshd stops in order.
    #[serde(rename = "node.stopped")]
    Stopped {
        /// Which run.
        run_id: String,
        /// Why.
        reason: String,
    },
    /// The system's health changed.
    #[serde(rename = "health.changed")]
    HealthChanged {
        /// From.
        from: String,
        /// To.
        to: String,
        /// Why.
        issues: Vec<String>,
    },
    /// The checks that are not healthy are not those that they were. Once per change.
    #[serde(rename = "health.alert")]
    Alert {
        /// Checks that got worse, or better but not well, in words.
        raised: Vec<String>,
        /// Checks that are well again, by name.
        cleared: Vec<String>,
        /// All checks that are not healthy now, by name.
        open: BTreeMap<String, HealthLevel>,
    },
}

kinds!(NodeEvent {
    Started => "node.started",
    Stopped => "node.stopped",
    HealthChanged => "health.changed",
    Alert => "health.alert",
});
