//! What has to be asked of the read side before a command can be decided.

use super::command::{Command, Lookups, NewTask};
use super::state::Tasks;
use super::submit::child_id;

impl Tasks {
    /// Tasks that a command is about and that are not held; the read side may know them.
    pub fn lookups(&self, command: &Command) -> Lookups {
        let mut lookups = Lookups::default();
        match command {
            Command::Submit { by, tasks } => {
                for NewTask {
                    id, fresh, spec, ..
                } in tasks
                {
                    lookups.tasks.extend((!fresh).then(|| id.clone()));
                    lookups.tasks.extend(spec.depends_on.iter().cloned());
                    let key = spec
                        .idempotency_key
                        .iter()
                        .map(|key| (by.clone(), key.clone()));
                    lookups
                        .keys
                        .extend(key.filter(|key| !self.index().keys.contains_key(key)));
                }
            }
            Command::Delegate { asker, spec, .. } => {
                let round = self
                    .record(&asker.parent.task)
                    .map_or(0, |record| record.round);
                lookups
                    .tasks
                    .insert(child_id(&asker.parent.task, round, &asker.request));
                lookups.tasks.extend(spec.depends_on.iter().cloned());
            }
            Command::Split { task, parts, .. } => {
                lookups.tasks.insert(task.clone());
                let needed = parts.iter().flat_map(|part| &part.task.depends_on);
                lookups.tasks.extend(needed.cloned());
            }
            Command::Cancel { task, .. }
            | Command::Retry { task }
            | Command::Approve { task, .. } => {
                lookups.tasks.insert(task.clone());
            }
            Command::AttemptStarted { .. }
            | Command::AttemptChecked { .. }
            | Command::AttemptUsed { .. }
            | Command::AttemptEnded { .. }
            | Command::InstanceDown { .. }
            | Command::ResetTrust { .. }
            | Command::TryGate { .. }
            | Command::Tick
            | Command::Fleet(_)
            | Command::News(_)
            | Command::Recover
            | Command::Claim { .. }
            | Command::AttemptChecking { .. }
            | Command::Reconcile { .. } => {}
        }
        lookups.tasks.retain(|id| self.get(id).is_none());
        lookups
    }
}
