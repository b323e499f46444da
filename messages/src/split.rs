//! Splitting a task: what it is done as instead, when it turns out to be several.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::TaskSpec;

/// Most parts of one task: all begin in one group of records.
pub const PARTS_MAX: usize = 64;

/// Longest name of a part, in bytes.
pub const PART_NAME_MAX: usize = 64;

/// What a task is split into.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitOrder {
    /// The parts, in any order.
    #[schemars(length(min = 1, max = 64))]
    pub parts: Vec<SplitPart>,
}

/// A part: a task of its own, below the one that is split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitPart {
    /// What it is called among the parts, and in the output; a-z, A-Z, 0-9, `-` and `_`.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// The parts that have to succeed before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The task; its `parent` is the one that is split.
    pub task: TaskSpec,
}
