//! Stored plans: workflows that are written down, read and edited before somebody starts them.
//!
//! ```text
//!  written (version 1) ─► edited (2, 3, …) ─► started ─► its run, as for any workflow
//!                                └──────────► removed
//! ```
//!
//! Whoever edits or starts one names the version that was read, so that nobody starts what another one changed meanwhile.
//! That it is started and the run that begins are one group of events, and the run's id follows from plan and version.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::plan::{GOAL_BYTES_MAX, PlanState, PlanVersion, StoredPlan};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::task::TASK_DATA_MAX;
use mesh_messages::workflow::DOCUMENT_BYTES_MAX;
use mesh_messages::{PlanId, Timestamp, WorkflowRunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decide::{Answer, LIVE_RUNS_MAX, NewRun, Refusal, Tx, derived};
use super::plan::Plan;
use super::state::Workflows;
use crate::task::json_len;

/// Most plans, started ones included until they are removed: each holds a document, and its earlier versions.
pub const PLANS_MAX: usize = 1000;
/// Earlier versions of a plan that are shown; all of them are in the audit log.
pub const VERSIONS_KEPT_MAX: usize = 5;

/// Most bytes of all plans with those earlier versions that are shown: they are held in memory, and in every snapshot.
pub const PLANS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A plan to be stored, or a new version of one.
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// Its id.
    pub id: PlanId,
    /// The version that it takes the place of; it is a new plan when absent.
    pub replaces: Option<u32>,
    /// What it is for.
    pub goal: String,
    /// What is done, checked.
    pub plan: Arc<Plan>,
    /// What it works on.
    pub input: Value,
    /// In whose name.
    pub by: String,
}

/// What can be asked about plans.
#[derive(Debug, Clone)]
pub enum PlanCommand {
    /// Store one, or another version of one that was not started.
    Write(Box<NewPlan>),
    /// Begin the run of one. The same version again changes nothing.
    Start {
        /// Which.
        id: PlanId,
        /// The version that was read.
        version: u32,
        /// By whom; the run is in this name.
        by: String,
    },
    /// Remove one. Its run goes on.
    Remove {
        /// Which.
        id: PlanId,
        /// By whom.
        by: String,
    },
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanRefusal {
    /// Nobody knows it.
    #[error("Plan {0} not found")]
    NotFound(PlanId),
    /// Somebody wrote another version. Read that one first.
    #[error("plan {plan} is at version {current} by now; read it, then name that version")]
    Changed {
        /// Which.
        plan: PlanId,
        /// Its version.
        current: u32,
    },
    /// It was started, and stays as it was then.
    #[error("plan {plan} was started as run {run}, and cannot be changed any more")]
    Started {
        /// Which.
        plan: PlanId,
        /// Its run.
        run: WorkflowRunId,
    },
    /// Too many.
    #[error("there are {PLANS_MAX} plans, and no more are held; remove some")]
    Full,
    /// Together they would be too large.
    #[error(
        "the plan has {bytes} bytes, the others have {held} with their earlier versions, and {PLANS_BYTES_MAX} are held at most; remove some"
    )]
    TooLarge {
        /// How large this version is.
        bytes: usize,
        /// How large all others are.
        held: usize,
    },
    /// The goal is too long.
    #[error("goal: has {bytes} bytes; at most {GOAL_BYTES_MAX} are accepted")]
    Goal {
        /// How long.
        bytes: usize,
    },
    /// With the workflows that its steps name written out, its own is too large.
    #[error(
        "workflow: has {bytes} bytes with all that its steps name; at most {DOCUMENT_BYTES_MAX} are accepted"
    )]
    Workflow {
        /// How large.
        bytes: usize,
    },
    /// Its input is too large.
    #[error("input: has {bytes} bytes; at most {TASK_DATA_MAX} are accepted")]
    Input {
        /// How large.
        bytes: usize,
    },
}

impl From<PlanRefusal> for Problem {
    fn from(refusal: PlanRefusal) -> Self {
        let detail = refusal.to_string();
        let conflict = |code, detail| Self::new(ProblemKind::Conflict, code, detail);
        match refusal {
            PlanRefusal::NotFound(_) => Self::new(ProblemKind::NotFound, "plan_not_found", detail),
            PlanRefusal::Changed { .. } => conflict("plan_changed", detail).field("version"),
            PlanRefusal::Started { .. } => conflict("plan_started", detail),
            PlanRefusal::Full | PlanRefusal::TooLarge { .. } => conflict("too_many_plans", detail),
            PlanRefusal::Goal { .. } => Self::invalid("invalid_plan", "goal", detail),
            PlanRefusal::Workflow { .. } => Self::invalid("invalid_plan", "workflow", detail),
            PlanRefusal::Input { .. } => Self::invalid("invalid_plan", "input", detail),
        }
    }
}

/// What became of a plan that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Begun {
    run: WorkflowRunId,
    by: String,
    at: Timestamp,
}

/// A plan that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Held {
    current: PlanVersion,
    /// Newest first.
    earlier: VecDeque<PlanVersion>,
    begun: Option<Begun>,
}

impl Held {
    fn bytes(&self) -> usize {
        let earlier: usize = self.earlier.iter().map(json_len).sum();
        json_len(&self.current) + earlier
    }
}

/// All plans, as their events make them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<PlanId, Held>", into = "BTreeMap<PlanId, Held>")]
pub(crate) struct Plans {
    held: BTreeMap<PlanId, Held>,
    /// How large they are together.
    pub(super) bytes: usize,
}

impl From<BTreeMap<PlanId, Held>> for Plans {
    fn from(held: BTreeMap<PlanId, Held>) -> Self {
        let bytes = held.values().map(Held::bytes).sum();
        Self { held, bytes }
    }
}

impl From<Plans> for BTreeMap<PlanId, Held> {
    fn from(plans: Plans) -> Self {
        plans.held
    }
}

impl Plans {
    /// Whether a run is that of a plan.
    pub(super) fn began(&self, run: &WorkflowRunId) -> bool {
        let mut begun = self.held.values().filter_map(|held| held.begun.as_ref());
        begun.any(|begun| begun.run == *run)
    }

    /// Takes an event about a plan in; of others it knows nothing.
    pub(crate) fn apply(&mut self, event: &WorkflowEvent) {
        match event {
            WorkflowEvent::PlanWritten { plan, version } => self.written(plan, version),
            WorkflowEvent::PlanStarted {
                plan, run, by, at, ..
            } => {
                if let Some(held) = self.held.get_mut(plan) {
                    held.begun = Some(Begun {
                        run: run.clone(),
                        by: by.clone(),
                        at: *at,
                    });
                }
            }
            WorkflowEvent::PlanRemoved { plan, .. } => {
                let removed = self.held.remove(plan);
                let bytes = removed.as_ref().map_or(0, Held::bytes);
                self.bytes = self.bytes.saturating_sub(bytes);
            }
            _ => {}
        }
    }

    fn written(&mut self, plan: &PlanId, version: &PlanVersion) {
        self.bytes = self.bytes.saturating_add(json_len(version));
        let Some(held) = self.held.get_mut(plan) else {
            let held = Held {
                current: version.clone(),
                earlier: VecDeque::new(),
                begun: None,
            };
            self.held.insert(plan.clone(), held);
            return;
        };
        let before = std::mem::replace(&mut held.current, version.clone());
        held.earlier.push_front(before);
        let left_out = held.earlier.iter().skip(VERSIONS_KEPT_MAX);
        let left_out = left_out.map(json_len).sum();
        self.bytes = self.bytes.saturating_sub(left_out);
        held.earlier.truncate(VERSIONS_KEPT_MAX);
    }
}

impl Workflows {
    /// All plans by id, without their earlier versions.
    pub fn plans(&self) -> Vec<StoredPlan> {
        let shown = self.plans.held.iter();
        shown
            .map(|(id, held)| StoredPlan {
                earlier: Vec::new(),
                ..view(id, held)
            })
            .collect()
    }

    /// A plan, with its earlier versions.
    pub fn stored_plan(&self, id: &PlanId) -> Option<StoredPlan> {
        self.plans.held.get(id).map(|held| view(id, held))
    }
}

fn view(id: &PlanId, held: &Held) -> StoredPlan {
    let begun = held.begun.as_ref();
    StoredPlan {
        id: id.clone(),
        state: match begun {
            None => PlanState::Draft,
            Some(_) => PlanState::Started,
        },
        current: held.current.clone(),
        earlier: held.earlier.iter().cloned().collect(),
        run: begun.map(|begun| begun.run.clone()),
        started_by: begun.map(|begun| begun.by.clone()),
        started_at: begun.map(|begun| begun.at),
    }
}

pub(crate) fn decide(tx: &mut Tx<'_>, command: PlanCommand) -> Result<Answer, Refusal> {
    match command {
        PlanCommand::Write(new) => Ok(write(tx, *new)?),
        PlanCommand::Start { id, version, by } => start(tx, id, version, by),
        PlanCommand::Remove { id, by } => {
            if !tx.state.plans.held.contains_key(&id) {
                return Err(PlanRefusal::NotFound(id).into());
            }
            let (plan, at) = (id, tx.now);
            tx.emit(WorkflowEvent::PlanRemoved { plan, by, at });
            Ok(Answer::Plan { replayed: false })
        }
    }
}

fn write(tx: &mut Tx<'_>, new: NewPlan) -> Result<Answer, PlanRefusal> {
    let bytes = new.goal.len();
    if bytes > GOAL_BYTES_MAX {
        return Err(PlanRefusal::Goal { bytes });
    }
    let bytes = json_len(new.plan.document());
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(PlanRefusal::Workflow { bytes });
    }
    let bytes = json_len(&new.input);
    if bytes > TASK_DATA_MAX {
        return Err(PlanRefusal::Input { bytes });
    }
    let number = match (new.replaces, tx.state.plans.held.get(&new.id)) {
        (None, _) if tx.state.plans.held.len() >= PLANS_MAX => return Err(PlanRefusal::Full),
        (None, None) => 1,
        (Some(_), None) => return Err(PlanRefusal::NotFound(new.id)),
        (replaces, Some(held)) => {
            let current = held.current.version;
            if let Some(begun) = &held.begun {
                let run = begun.run.clone();
                return Err(PlanRefusal::Started { plan: new.id, run });
            }
            if replaces != Some(current) {
                let plan = new.id;
                return Err(PlanRefusal::Changed { plan, current });
            }
            current.saturating_add(1)
        }
    };
    let version = PlanVersion {
        version: number,
        goal: new.goal,
        workflow: Box::new(new.plan.document().clone()),
        input: new.input,
        by: new.by,
        at: tx.now,
    };
    let (bytes, mut held) = (json_len(&version), tx.state.plans.bytes);
    if let Some(replaced) = tx.state.plans.held.get(&new.id) {
        // Its oldest version makes room.
        let oldest = replaced.earlier.iter().skip(VERSIONS_KEPT_MAX - 1);
        held = held.saturating_sub(oldest.map(json_len).sum());
    }
    if held.saturating_add(bytes) > PLANS_BYTES_MAX {
        return Err(PlanRefusal::TooLarge { bytes, held });
    }
    tx.emit(WorkflowEvent::PlanWritten {
        plan: new.id,
        version: Box::new(version),
    });
    Ok(Answer::Plan { replayed: false })
}

fn start(tx: &mut Tx<'_>, id: PlanId, version: u32, by: String) -> Result<Answer, Refusal> {
    let Some(held) = tx.state.plans.held.get(&id) else {
        return Err(PlanRefusal::NotFound(id).into());
    };
    let current = held.current.version;
    if current != version {
        return Err(PlanRefusal::Changed { plan: id, current }.into());
    }
    if held.begun.is_some() {
        return Ok(Answer::Plan { replayed: true });
    }
    let live = tx.state.index.live;
    if live >= LIVE_RUNS_MAX {
        return Err(Refusal::Full { live });
    }
    let (document, input) = (held.current.workflow.clone(), held.current.input.clone());
    let written = held.current.at.as_millis().to_string();
    let parts = ["plan", id.as_str(), &version.to_string(), &written, ""];
    let run = WorkflowRunId::new(derived(parts))
        .expect("a prefix and 40 hexadecimal digits are a run's id");
    let plan = tx.state.index.plan(Arc::from(document));
    tx.emit(WorkflowEvent::PlanStarted {
        plan: id,
        version,
        run: run.clone(),
        by: by.clone(),
        at: tx.now,
    });
    let new = NewRun {
        id: run,
        plan,
        input,
        by,
        key: None,
        request: String::new(),
        scheduled: None,
    };
    tx.start(new, None);
    Ok(Answer::Plan { replayed: false })
}
