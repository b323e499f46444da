//! Control groups: limits, accounts, freezing. Version 2, version 1, and both at once, decided for each
//! controller on its own.
//!
//! Never the only thing that ends a sandbox: its process namespace does that, also where no group can be had.

mod group;
mod host;
mod io;

pub(crate) use group::{Group, wait_readable};
pub(crate) use host::Hierarchies;
pub(crate) use io::{devices, trial};

use serde::{Deserialize, Serialize};

/// What a group can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Ability {
    Cpu,
    CpuAccount,
    Memory,
    Pids,
    Freeze,
    Io,
}

impl Ability {
    pub(crate) const ALL: [Self; 6] = [
        Self::Cpu,
        Self::CpuAccount,
        Self::Memory,
        Self::Pids,
        Self::Freeze,
        Self::Io,
    ];

    /// The name of the version 1 controller.
    const fn v1(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAccount => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Freeze => "freezer",
            Self::Io => "blkio",
        }
    }

    /// The name of the version 2 controller; `None` for what every version 2 group can do.
    const fn v2(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::CpuAccount | Self::Freeze => None,
        }
    }
}
