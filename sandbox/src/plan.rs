//! Decides how each thing that was asked for will be enforced here, or refuses. Pure.
//!
//! [`plan`] is the only maker of a [`Plan`], and a launcher takes nothing else: so what a sandbox reports
//! is what it was built from, and nothing is weakened on the way.

mod controls;
mod report;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::probe::Probe;
use crate::spec::{SandboxSpec, SpecError};
use crate::wire::UserNamespace;

use controls::verdicts;
pub use report::{Control, Degradable, Enforcement, Level, NotDegradable, SandboxReport};

/// What the operator demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanPolicy {
    /// Whether what is asked for must be enforced. Without it every degradable control may degrade, and
    /// the others still may not.
    pub required: bool,
    /// Controls that may degrade all the same.
    pub degradable: Vec<Degradable>,
}

/// A sandbox that can be launched on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) spec: SandboxSpec,
    pub(crate) report: SandboxReport,
    pub(crate) user_namespace: UserNamespace,
    pub(crate) landlock_abi: i32,
    /// Whether processes are counted by the group and need no limit of the user's.
    pub(crate) pids_by_group: bool,
    pub(crate) memory_by_group: bool,
}

impl Plan {
    /// What will be enforced.
    #[must_use]
    pub const fn report(&self) -> &SandboxReport {
        &self.report
    }

    /// What was asked for.
    #[must_use]
    pub const fn spec(&self) -> &SandboxSpec {
        &self.spec
    }
}

/// A control that would fall short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Which.
    pub control: Control,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (remedy: {})",
            self.control, self.reason, self.remedy
        )
    }
}

/// Why no sandbox is built. Retrying is useless until the specification or the machine has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The specification is wrong by itself.
    #[error("the sandbox's specification is not acceptable")]
    Spec(#[from] SpecError),
    /// The machine does not give what is demanded.
    #[error("the sandbox cannot be enforced: {}", list(.0))]
    Shortfalls(Vec<Shortfall>),
}

fn list(shortfalls: &[Shortfall]) -> String {
    shortfalls
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Works out how `spec` is enforced on the machine that `probe` describes.
///
/// # Errors
/// [`Refused::Spec`] when the specification contradicts itself; [`Refused::Shortfalls`] with every control
/// that falls short and may not.
pub fn plan(spec: &SandboxSpec, probe: &Probe, policy: &PlanPolicy) -> Result<Plan, Refused> {
    spec.check()?;
    let verdicts = verdicts(spec, probe);
    let may_degrade = |control: Control| {
        let allowed = if policy.required {
            policy.degradable.as_slice()
        } else {
            &Degradable::ALL
        };
        // Root without an own user for the agent is no weaker sandbox but none at all.
        let lost = control == Control::User && probe.root;
        !lost
            && allowed
                .iter()
                .any(|degradable| degradable.control() == control)
    };
    let shortfalls: Vec<Shortfall> = verdicts
        .iter()
        .filter(|verdict| !may_degrade(verdict.enforcement.control))
        .filter_map(|verdict| {
            let Enforcement {
                control, detail, ..
            } = &verdict.enforcement;
            let remedy = verdict.short.clone()?;
            Some(Shortfall {
                control: *control,
                reason: detail.clone(),
                remedy,
            })
        })
        .collect();
    if !shortfalls.is_empty() {
        return Err(Refused::Shortfalls(shortfalls));
    }
    let degraded = verdicts
        .iter()
        .filter(|verdict| verdict.short.is_some())
        .map(|verdict| verdict.enforcement.control)
        .collect();
    let controls = verdicts
        .into_iter()
        .map(|verdict| verdict.enforcement)
        .collect();
    Ok(Plan {
        spec: spec.clone(),
        report: SandboxReport { degraded, controls },
        user_namespace: user_namespace(probe),
        landlock_abi: probe.landlock_abi,
        pids_by_group: probe.pids.finding.works,
        memory_by_group: probe.memory.finding.works,
    })
}

const fn user_namespace(probe: &Probe) -> UserNamespace {
    match (probe.root, probe.user_namespace.works) {
        (false, _) => UserNamespace::First,
        (true, true) => UserNamespace::Last,
        (true, false) => UserNamespace::None,
    }
}

#[cfg(test)]
mod tests;
