//! The durable life of one agent: a fold over its [`AgentEvent`]s, and the checks a step has to pass.
//!
//! ```text
//!  Defined → Registered → Activated → Handshaken → Executing ⇄ Upgrading
//!                ▲────────────┴────────────┴───────────┘ (stop, crash)
//!  any of them → Quarantined → Activated | Terminated → Audited
//! ```
//!
//! What an agent *does* after a failure is decided by its fault policy (`mesh_supervision_core::fault`); its record is
//! kept here because it must survive the agent's actor and meshd itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::agent::{
    ErrorSummary, FaultState, FaultView, Lifecycle, QuarantineKind, QuarantineRecord, SandboxView,
};
use mesh_messages::events::AgentEvent;
use mesh_messages::limits::BreachAction;
use mesh_messages::liveness::FindingAction;
use mesh_messages::manifest::AgentManifest;
use mesh_messages::trust::Misdeed;
use mesh_messages::{Epoch, FailureClass, InstanceNo, RecordHeader, Severity, Timestamp};

mod command;
mod errors;
pub mod fault;
mod machine;
mod terms;
mod versions;

pub use command::{AgentCommand, AgentEffect, AgentRefusal, Decision, StopKind};
pub use machine::{AgentMachine, Around};
pub use terms::Terms;
pub use versions::{VersionRefusal, pick_rollback, pick_upgrade};

/// A registered version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// As it was parsed.
    pub manifest: Arc<AgentManifest>,
    /// Of the bundle.
    pub digest: String,
    /// When.
    pub registered_at: Timestamp,
    /// By whom.
    pub registered_by: String,
}

/// One replica that exists or is being started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its own stage: activated, handshaken or executing.
    pub stage: Lifecycle,
    /// The version it runs.
    pub version: String,
    /// When it was activated.
    pub activated_at: Timestamp,
    /// When it began to serve.
    pub ready_at: Option<Timestamp>,
    /// The hooks it named.
    pub hooks: Vec<String>,
    /// It is being ended because its agent was isolated or an upgrade was given up: it no longer says how far the
    /// agent is.
    #[serde(default)]
    pub doomed: bool,
}

/// Everything durable about one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct AgentState {
    /// Registered versions by their text. They never change, and every copy of the state shares them.
    pub versions: BTreeMap<String, Arc<Version>>,
    /// The version in force.
    pub current: Option<String>,
    /// Versions that were in force before, oldest first.
    pub past: Vec<String>,
    /// Its stage.
    pub stage: Option<Lifecycle>,
    /// Whether it is to run.
    pub running: bool,
    /// Whether it is to take no work for now.
    pub paused: bool,
    /// How many replicas it is to have.
    pub replicas: u32,
    /// The last epoch given out.
    pub epoch: Epoch,
    /// Its replicas.
    pub instances: BTreeMap<InstanceNo, Instance>,
    /// What people see of its fault policy.
    pub fault: Option<FaultView>,
    /// The fault policy's own record.
    pub fault_record: Option<Value>,
    /// The quarantine it is in, or was last in.
    pub quarantine: Option<QuarantineRecord>,
    /// Its failures and findings by fingerprint: those that differ only in numbers are one.
    pub errors: BTreeMap<String, ErrorSummary>,
    /// What was enforced at its last start.
    pub sandbox: Option<SandboxView>,
    /// Who registered it; a new registration after its end has a new owner.
    pub owner: String,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When something about it last changed.
    pub updated_at: Timestamp,
    /// Records that concern it.
    pub records: u64,
    /// What it did against the rules lately, oldest first; the trust in it falls by that. A new registration does not
    /// change it.
    #[serde(default)]
    pub misdeeds: Vec<Misdeed>,
    /// What incarnations handed on and none has taken yet.
    #[serde(default)]
    pub saved: BTreeMap<InstanceNo, SavedState>,
}

/// What an incarnation handed on to the next one of its replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// The incarnation that said it.
    pub epoch: Epoch,
    /// The version that it was of.
    pub version: String,
    /// What it said.
    pub state: Arc<Value>,
}

/// Misdeeds kept of an agent: each is announced to the task machine at once, which counts it for good. More than one is kept
/// for those that happen while it restarts.
const MISDEEDS_MAX: usize = 8;

impl AgentState {
    /// The manifest in force.
    pub fn manifest(&self) -> Option<&AgentManifest> {
        self.version().map(|v| &*v.manifest)
    }

    /// The manifest of an incarnation that lives: another one than that in force while an upgrade is under way.
    pub fn manifest_of(&self, epoch: Epoch) -> Option<&AgentManifest> {
        let mut instances = self.instances.values();
        let instance = instances.find(|instance| instance.epoch == epoch)?;
        let version = self.versions.get(&instance.version)?;
        Some(&version.manifest)
    }

    /// The version in force.
    pub fn version(&self) -> Option<&Version> {
        let version = self.versions.get(self.current.as_deref()?)?;
        Some(version)
    }

    /// Its stage; an agent without events is merely defined.
    pub fn stage(&self) -> Lifecycle {
        self.stage.unwrap_or(Lifecycle::Defined)
    }

    /// Instances that serve.
    pub fn ready(&self) -> impl Iterator<Item = (InstanceNo, &Instance)> {
        self.instances
            .iter()
            .filter(|(_, i)| i.stage == Lifecycle::Executing)
            .map(|(no, i)| (*no, i))
    }

    /// The state of its fault policy.
    pub fn fault_state(&self) -> FaultState {
        self.fault.as_ref().map_or(FaultState::Stopped, |f| f.state)
    }

    /// Takes an event in.
    #[expect(clippy::too_many_lines, reason = "one short arm for each event")]
    pub fn apply(&mut self, header: &RecordHeader, event: &AgentEvent) {
        self.records += 1;
        self.updated_at = header.time;
        if let Some((what, severity)) = misdeed(event) {
            if self.misdeeds.len() >= MISDEEDS_MAX {
                self.misdeeds.remove(0);
            }
            self.misdeeds.push(Misdeed {
                record: header.position,
                what,
                severity,
            });
        }
        match event {
            AgentEvent::Created { .. } => {
                self.owner.clone_from(&header.actor);
                self.created_at = header.time;
                self.stage = Some(Lifecycle::Defined);
            }
            AgentEvent::Registered { manifest, digest } => {
                self.registered(header, manifest, digest);
            }
            AgentEvent::Activated {
                instance,
                epoch,
                version,
                sandbox,
            } => {
                self.epoch = self.epoch.max(*epoch);
                self.instances.insert(
                    *instance,
                    Instance {
                        epoch: *epoch,
                        stage: Lifecycle::Activated,
                        version: version.clone(),
                        activated_at: header.time,
                        ready_at: None,
                        hooks: Vec::new(),
                        doomed: false,
                    },
                );
                if sandbox.is_some() {
                    self.sandbox.clone_from(sandbox);
                }
                if self.stage() == Lifecycle::Quarantined {
                    self.stage = Some(Lifecycle::Activated);
                }
                self.settle();
            }
            AgentEvent::Handshaken {
                instance,
                epoch,
                hooks,
                ..
            } => {
                self.with(*instance, *epoch, |i| {
                    i.stage = Lifecycle::Handshaken;
                    i.hooks.clone_from(hooks);
                });
            }
            AgentEvent::Started { instance, epoch } => {
                self.with(*instance, *epoch, |i| {
                    i.stage = Lifecycle::Executing;
                    i.ready_at = Some(header.time);
                });
            }
            AgentEvent::InstanceStopped {
                instance, epoch, ..
            } => self.gone(*instance, *epoch),
            AgentEvent::InstanceFailed {
                instance,
                epoch,
                failure,
            } => {
                self.gone(*instance, *epoch);
                errors::note(
                    &mut self.errors,
                    failure.class.name(),
                    &failure.message,
                    header.time,
                );
            }
            // What ends its instance is counted with the failure that this is.
            AgentEvent::Finding { finding, .. } if finding.action == FindingAction::End => {}
            AgentEvent::Finding { finding, .. } => {
                let kind = finding.finding.name();
                errors::note(&mut self.errors, kind, &finding.detail, header.time);
            }
            // What ends its instance is counted with the failure that this is.
            AgentEvent::LimitBreached { breach, .. } if breach.action == BreachAction::End => {}
            AgentEvent::LimitBreached { breach, .. } => {
                let kind = format!("limit.{}", breach.limit.name());
                errors::note(&mut self.errors, &kind, &breach.detail, header.time);
            }
            // How an instance is, and what holds for it, ends with it.
            AgentEvent::InstanceHealth { .. }
            | AgentEvent::LimitsChanged { .. }
            | AgentEvent::InstanceFrozen { .. } => {}
            AgentEvent::StateSaved {
                instance,
                epoch,
                version,
                state,
            } => {
                let saved = SavedState {
                    epoch: *epoch,
                    version: version.clone(),
                    state: Arc::clone(state),
                };
                self.saved.insert(*instance, saved);
            }
            AgentEvent::StateRestored { instance, .. } | AgentEvent::StateLost { instance, .. } => {
                self.saved.remove(instance);
            }
            AgentEvent::FaultChanged { view, record, .. } => {
                self.fault = Some(view.clone());
                self.fault_record = Some(record.clone());
            }
            AgentEvent::Quarantined { record } => {
                self.quarantine = Some(record.clone());
                self.stage = Some(Lifecycle::Quarantined);
                self.doom();
            }
            AgentEvent::Recovered { on_trial, .. } => {
                // On trial it is still known what for.
                if !on_trial {
                    self.quarantine = None;
                }
            }
            AgentEvent::ProbationPassed { .. } => self.quarantine = None,
            AgentEvent::Upgraded {
                from, to, success, ..
            } => {
                if *success {
                    self.past.retain(|v| v != to);
                    self.past.push(from.clone());
                    self.current = Some(to.clone());
                } else {
                    self.doom();
                }
            }
            AgentEvent::DesiredChanged {
                running,
                paused,
                replicas,
            } => {
                self.running = *running;
                self.paused = *paused;
                self.replicas = *replicas;
            }
            AgentEvent::LifecycleChanged { from, to } => {
                if *from == Lifecycle::Upgrading && *to == Lifecycle::Registered {
                    self.doom(); // The upgrade was given up.
                }
                self.stage = Some(*to);
            }
            AgentEvent::Terminated { .. } => {
                self.stage = Some(Lifecycle::Terminated);
                self.running = false;
                self.saved.clear();
            }
            AgentEvent::Audited { .. } => self.stage = Some(Lifecycle::Audited),
        }
    }

    fn registered(&mut self, header: &RecordHeader, manifest: &AgentManifest, digest: &str) {
        let text = manifest.version.to_string();
        let renewed = matches!(
            self.stage(),
            Lifecycle::Defined | Lifecycle::Terminated | Lifecycle::Audited
        );
        if renewed {
            // A new registration of a terminated agent begins a new life; its epochs go on.
            self.versions.clear();
            self.past.clear();
            self.instances.clear();
            self.saved.clear();
            self.fault = None;
            self.fault_record = None;
            self.quarantine = None;
            self.paused = false;
            self.owner.clone_from(&header.actor);
            self.stage = Some(Lifecycle::Registered);
        }
        if renewed || self.current.is_none() {
            self.current = Some(text.clone());
            self.replicas = manifest.replicas;
        }
        self.versions.insert(
            text,
            Arc::new(Version {
                manifest: Arc::new(manifest.clone()),
                digest: digest.to_owned(),
                registered_at: header.time,
                registered_by: header.actor.clone(),
            }),
        );
    }

    fn with(&mut self, no: InstanceNo, epoch: Epoch, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = self.instances.get_mut(&no).filter(|i| i.epoch == epoch) {
            change(instance);
            self.settle();
        }
    }

    fn gone(&mut self, no: InstanceNo, epoch: Epoch) {
        if self.instances.get(&no).is_some_and(|i| i.epoch == epoch) {
            self.instances.remove(&no);
            self.settle();
        }
    }

    fn doom(&mut self) {
        for instance in self.instances.values_mut() {
            instance.doomed = true;
        }
    }

    /// The agent is as far as its furthest instance. When that one ends it falls back to `Registered`, and is at once
    /// as far as the next one again.
    fn settle(&mut self) {
        let furthest = self
            .instances
            .values()
            .filter(|i| !i.doomed)
            .map(|i| i.stage)
            .max()
            .unwrap_or(Lifecycle::Registered);
        match self.stage() {
            // What is over, isolated or being exchanged changes by an event of its own; ends of instances lead nowhere.
            Lifecycle::Terminated
            | Lifecycle::Audited
            | Lifecycle::Defined
            | Lifecycle::Quarantined
            | Lifecycle::Upgrading => {}
            Lifecycle::Registered
            | Lifecycle::Activated
            | Lifecycle::Handshaken
            | Lifecycle::Executing => self.stage = Some(furthest),
        }
    }
}

/// What an event says that the agent did against the rules. What a person ordered says nothing of that.
fn misdeed(event: &AgentEvent) -> Option<(String, Severity)> {
    match event {
        AgentEvent::InstanceFailed { failure, .. } if failure.class == FailureClass::Policy => {
            Some((failure.message.clone(), failure.class.severity()))
        }
        AgentEvent::Quarantined { record } if record.reason.kind != QuarantineKind::Manual => {
            let what = format!("quarantined: {}", record.reason.description);
            Some((what, record.reason.severity))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
