//! How a task's record changes while a team does it.

use mesh_messages::Timestamp;
use mesh_messages::task::{TaskState, WaitReason};
use mesh_messages::team::{TeamEnd, TeamStep};

use super::TaskRecord;
use super::escalated::waiting_for_escalation;
use crate::task::teams::waiting_for_team;

impl TaskRecord {
    /// Whether a team has it now.
    pub fn is_teams(&self) -> bool {
        let reason = self.task.waiting_for.as_ref().map(|waits| waits.reason);
        self.task.state == TaskState::Blocked && reason == Some(WaitReason::Team)
    }

    /// Takes a step of its team in; false when it cannot happen to the task.
    pub(super) fn teamed(&mut self, at: Timestamp, step: &TeamStep) -> bool {
        if let TeamStep::Formed(team) = step {
            if !matches!(self.task.state, TaskState::Queued | TaskState::Parked) {
                return false;
            }
            self.task.state = TaskState::Blocked;
            self.task.waiting_for = Some(waiting_for_team(team));
            self.task.teamwork = Some(team.clone());
            return true;
        }
        if !self.is_teams() {
            return false;
        }
        let Some(team) = &mut self.task.teamwork else {
            return false;
        };
        match step {
            TeamStep::Formed(_) => return false,
            TeamStep::Began => team.began_at = Some(at),
            TeamStep::Phase(phase) => {
                team.phase = *phase;
                self.task.waiting_for = Some(waiting_for_team(team));
            }
            TeamStep::Done { output } => {
                team.end = Some(TeamEnd::Done);
                self.task.output = Some(output.clone());
                self.end(at, TaskState::Succeeded, None);
            }
            TeamStep::Failed {
                failure,
                otherwise,
                escalates,
            } => {
                team.end = Some(TeamEnd::Failed);
                if *escalates {
                    self.task.error = Some(failure.clone());
                    self.task.waiting_for = Some(waiting_for_escalation(None));
                } else {
                    self.end(at, otherwise.state(), Some(failure.clone()));
                }
            }
            TeamStep::Disbanded { .. } => {
                team.end = Some(TeamEnd::Disbanded);
                self.task.state = TaskState::Queued;
                self.task.waiting_for = None;
            }
        }
        true
    }
}
