//! The words of a report: controls, levels, enforcement.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Something that a sandbox controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Control {
    Filesystem,
    Processes,
    Network,
    Ipc,
    User,
    Privileges,
    Syscalls,
    Cpu,
    Memory,
    Pids,
    Disk,
    Io,
    Descriptors,
    Environment,
    Execution,
}

/// A control that an operator may allow to be weaker than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Degradable {
    Cpu,
    Memory,
    Pids,
    Disk,
    User,
    Io,
}

/// A name in `sandbox.degradable` that is no degradable control.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot degrade; only cpu, memory, pids, disk, user and io can")]
pub struct NotDegradable(pub String);

impl FromStr for Degradable {
    type Err = NotDegradable;

    fn from_str(text: &str) -> Result<Self, NotDegradable> {
        let found = Self::ALL
            .into_iter()
            .find(|one| one.control().name() == text);
        found.ok_or_else(|| NotDegradable(text.to_owned()))
    }
}

impl Degradable {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Memory,
        Self::Pids,
        Self::Disk,
        Self::User,
        Self::Io,
    ];

    /// The control of that name.
    #[must_use]
    pub const fn control(self) -> Control {
        match self {
            Self::Cpu => Control::Cpu,
            Self::Memory => Control::Memory,
            Self::Pids => Control::Pids,
            Self::Disk => Control::Disk,
            Self::User => Control::User,
            Self::Io => Control::Io,
        }
    }
}

impl Control {
    /// The name in configuration and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filesystem => "filesystem",
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Privileges => "privileges",
            Self::Syscalls => "syscalls",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Io => "io",
            Self::Descriptors => "descriptors",
            Self::Environment => "environment",
            Self::Execution => "execution",
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who enforces something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nobody.
    None,
    /// A bound that a determined agent gets round.
    Advisory,
    /// The kernel, whatever the agent does.
    Kernel,
}

/// How one control is enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// What is controlled.
    pub control: Control,
    /// What was asked for.
    pub requested: String,
    /// By what means it is enforced.
    pub mechanism: String,
    /// By whom.
    pub level: Level,
    /// What else to know: the limits of the means, or how to get a better one.
    pub detail: String,
}

/// What is enforced in one sandbox, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxReport {
    /// The controls that fall short of what was asked for, as they were allowed to; in the order of `controls`.
    pub degraded: Vec<Control>,
    /// Every control, in a fixed order.
    pub controls: Vec<Enforcement>,
}
