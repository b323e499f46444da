//! Tasks that are about to be removed: none of them gets another round, and nothing may depend on one from then on.
//!
//! Retention decides by the read side, which may be a moment behind. Between its decision and its record somebody could
//! give a failed task another round, whose records would then be erased with the others, or submit a task whose fate
//! hangs on how it ended. So it asks here first.

use std::collections::{BTreeMap, BTreeSet};

use mesh_actors_core::retention::RetentionState;
use mesh_actors_core::task::Command;
use mesh_messages::TaskId;
use mesh_messages::budget::AccountNote;
use mesh_messages::events::partition;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::task::TaskSpec;
use ractor::ActorProcessingErr;

use super::Shell;
use crate::context::Context;
use crate::partition::Partition;
use crate::store::OpenStore;

/// Dependencies that are remembered between two questions of retention. If more are named, it is told that all stay.
const NAMED_MAX: usize = 100_000;

/// What becomes of removal and what speaks against it.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// The tasks that stay ended.
    ended: BTreeSet<TaskId>,
    /// What was named as a dependency since retention last asked, which the read side may not show yet.
    named: BTreeSet<TaskId>,
    /// More was named than is remembered.
    overflowed: bool,
    /// How accounts stood when that was last put on record.
    noted: BTreeMap<String, AccountNote>,
}

impl Retired {
    /// What an earlier incarnation had retired, as far as it is on record.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn load(ctx: &Context, store: &OpenStore) -> Result<Self, ActorProcessingErr> {
        let loading = ctx.store.load(store, partition::RETENTION);
        let retention: Partition<RetentionState, ()> = loading.await?;
        Ok(Self {
            ended: retention.state().unerased.iter().cloned().collect(),
            ..Self::default()
        })
    }

    /// Those of these accounts that do not stand as they were last put on record, which they are now.
    pub(super) fn unnoted(&mut self, notes: Vec<AccountNote>) -> Vec<AccountNote> {
        let news: Vec<_> = notes
            .iter()
            .filter(|note| self.noted.get(&note.account) != Some(note))
            .cloned()
            .collect();
        self.noted = notes
            .into_iter()
            .map(|note| (note.account.clone(), note))
            .collect();
        news
    }

    fn note_dependencies(&mut self, spec: &TaskSpec) {
        self.named.extend(spec.depends_on.iter().cloned());
        if self.named.len() > NAMED_MAX {
            self.named.clear();
            self.overflowed = true;
        }
    }
}

impl Shell {
    /// Has these tasks stay ended, from here on; those that have not ended, or are depended on, and so stay.
    pub(super) fn retire(&mut self, tasks: Vec<TaskId>) -> BTreeSet<TaskId> {
        let machine = self.partition.state();
        let retired = &mut self.retired;
        let named = std::mem::take(&mut retired.named);
        let overflowed = std::mem::take(&mut retired.overflowed);
        let (goes_on, ended): (BTreeSet<_>, BTreeSet<_>) = tasks.into_iter().partition(|task| {
            let held = machine.record(task);
            let depended = overflowed || named.contains(task);
            held.is_some_and(|record| !record.task.state.is_terminal())
                || depended && !retired.ended.contains(task)
        });
        // Those of earlier times that are not held here are not found by whoever asks for them.
        retired.ended.retain(|task| machine.record(task).is_some());
        retired.ended.extend(ended);
        goes_on
    }

    /// Whether a command would have a retired task go on.
    ///
    /// # Errors
    /// `task_removed`.
    pub(super) fn check_retired(&self, command: &Command) -> Result<(), Problem> {
        match command {
            Command::Retry { task } if self.retired.ended.contains(task) => {
                let detail = format!("task {task} is being removed, and gets no other round");
                Err(Problem::new(ProblemKind::NotFound, "task_removed", detail))
            }
            _ => Ok(()),
        }
    }

    /// The retired tasks that what a command submits would depend on. What it names is not retired from here on.
    pub(super) fn removing(&mut self, command: &Command) -> BTreeSet<TaskId> {
        let specs: Vec<&TaskSpec> = match command {
            Command::Submit { tasks, .. } => tasks.iter().map(|task| &task.spec).collect(),
            Command::Delegate { spec, .. } => vec![spec],
            Command::Split { parts, .. } => parts.iter().map(|part| &part.task).collect(),
            _ => return BTreeSet::new(),
        };
        let mut removing = BTreeSet::new();
        for spec in specs {
            let named = spec.depends_on.iter();
            removing.extend(
                named
                    .filter(|task| self.retired.ended.contains(*task))
                    .cloned(),
            );
            self.retired.note_dependencies(spec);
        }
        removing
    }
}
