//! Claims: who holds a named thing that only one may have at a time, such as a file, a branch or a port.
//!
//! A claim belongs to one attempt at a task. It is a lease: it ends when it is released, when its time is over, and with the
//! attempt. Each one that is granted bears a higher token than all before it, so that whoever guards the thing itself can
//! refuse what a former holder still does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, AttemptNo, Epoch, InstanceNo, TaskId};
use crate::time::Timestamp;

/// Longest name of a resource, in bytes: it is a name, such as a path, not content.
pub const RESOURCE_BYTES_MAX: usize = 256;
/// How long a claim holds when its agent does not say: long enough for a careful step, short enough to wait out.
pub const CLAIM_TTL_DEFAULT_MS: u64 = 60_000;
/// How long one may hold without being renewed: whoever works longer says so now and then, and a holder that stands still
/// blocks nobody for longer.
pub const CLAIM_TTL_MAX_MS: u64 = 600_000;
/// How long one may be waited for: as long as an attempt takes at most when its task does not say.
pub const CLAIM_WAIT_MAX_MS: u64 = 600_000;

/// Most resources that a task claims as a whole: whoever needs more at once names what they have in common.
pub const TASK_CLAIMS_MAX: usize = 16;

/// How a resource is claimed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ClaimMode {
    /// By one alone: to change it.
    #[default]
    Exclusive,
    /// Together with others who share it, and with nobody who has it alone: to read it.
    Shared,
}

impl ClaimMode {
    /// Whether it is claimed alone, as is meant where nothing is said.
    pub fn is_exclusive(&self) -> bool {
        *self == Self::Exclusive
    }

    /// Whether two who claim it like this can have it at the same time.
    pub const fn goes_with(self, other: Self) -> bool {
        matches!((self, other), (Self::Shared, Self::Shared))
    }
}

/// A named resource that each attempt of a task has from before it is delivered until it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskClaim {
    /// Its name, at most 256 bytes: what it means is between those who claim it.
    pub resource: String,
    /// Alone, or shared with others; alone when absent.
    #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
    pub mode: ClaimMode,
    /// What the agent is handed with the attempt: higher than that of every claim before it. A submitter leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// What is wrong with the name of a resource, if anything.
pub fn not_a_resource(name: &str) -> Option<String> {
    let plain = !name.chars().any(char::is_control) && name.trim() == name;
    let fits = (1..=RESOURCE_BYTES_MAX).contains(&name.len());
    (!plain || !fits).then(|| {
        format!(
            "expected 1 to {RESOURCE_BYTES_MAX} bytes without control characters or outer blanks"
        )
    })
}

/// A step in the life of a claim, on record of the task on whose behalf it was taken. That an attempt ends ends its claims,
/// too, and has its own record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimStep {
    /// Another one has it: the attempt stands in line.
    Waiting {
        /// The id of the line that asked; the answer names it.
        request: String,
        /// How long it is to hold once it is granted.
        ttl_ms: u64,
        /// Until when it is waited for.
        until: Timestamp,
        /// How it is claimed.
        #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
        mode: ClaimMode,
    },
    /// The attempt has it.
    Granted {
        /// Higher than that of every claim before it.
        token: u64,
        /// Until when, unless it is renewed.
        until: Timestamp,
        /// How it has it.
        #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
        mode: ClaimMode,
    },
    /// It is held for longer.
    Renewed {
        /// Of which claim.
        token: u64,
        /// Until when.
        until: Timestamp,
    },
    /// Its holder gave it back.
    Released {
        /// Which claim.
        token: u64,
    },
    /// Its time was over.
    Expired {
        /// Which claim.
        token: u64,
    },
    /// It was waited for in vain.
    GivenUp,
}

/// Who has a resource, and who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Its name.
    pub resource: String,
    /// Who has it. Nobody for a moment, between one holder and the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<ClaimHolder>,
    /// How it is held.
    #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
    pub mode: ClaimMode,
    /// Who shares it with the holder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ClaimHolder>,
    /// Who waits in the midst of an attempt, in the order in which they will get it.
    pub waiting: Vec<ClaimWaiter>,
    /// Tasks that wait, before they begin, until they can have all that they claim: in the order of the line, delegated ones
    /// last, 100 at most. They come after those in `waiting`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskId>,
}

/// Who has a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimHolder {
    /// The task on whose behalf.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: AttemptNo,
    /// The agent that has the attempt.
    pub agent: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// Higher than that of every claim before it.
    pub token: u64,
    /// Since when.
    pub since: Timestamp,
    /// Until when, unless it is renewed.
    pub until: Timestamp,
}

/// Who waits for a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimWaiter {
    /// The task on whose behalf.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: AttemptNo,
    /// The agent that has the attempt.
    pub agent: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// How it wants it.
    #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
    pub mode: ClaimMode,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}
