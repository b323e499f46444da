//! Why a task is where it is.

use std::collections::BTreeSet;

use mesh_messages::TaskId;
use mesh_messages::task::{Task, TaskExplanation, TaskState, WaitReason, WaitingFor};

use super::claims::claim_wait;
use super::command::{Context, Live};
use super::dispatch::{demand, outlook, why_queued};
use super::escalate::escalated_to;
use super::index::{group_of, is_ready, waits_for_claims};
use super::record::waiting_for_tasks;
use super::state::{Entry, Tasks};
use super::teams::{is_teams, team_wait, why_no_team};
use super::tx::{Slots, Tx};
use crate::routing::reports;

impl Tasks {
    /// A task that is held, with the reason of its wait as of now.
    pub fn view(&self, live: &Live, ctx: Context<'_>, id: &TaskId) -> Option<Task> {
        let entry = self.entry(id)?;
        Some(Task {
            waiting_for: self.waiting_for(live, ctx, entry),
            ..entry.task().clone()
        })
    }

    /// Everything about why a task that is held is where it is.
    ///
    /// Candidates are those of the latest assignment; of now, while the task waits.
    pub fn explain(&self, live: &Live, ctx: Context<'_>, id: &TaskId) -> Option<TaskExplanation> {
        let entry = self.entry(id)?;
        let mut explanation = entry.record.explanation();
        explanation.waiting_for = self.waiting_for(live, ctx, entry);
        let state = explanation.state;
        if !state.is_in_flight() && !state.is_terminal() {
            let kept = BTreeSet::new();
            let slots = Slots::new((self, live, ctx), &kept, Some(id));
            let demand = demand(self, entry, ctx);
            explanation.candidates = reports(&live.fleet, &slots, self.stats(), &demand);
        }
        Some(explanation)
    }

    /// Who is checking a result, of those agents that were asked to.
    fn with_verifiers(&self, id: &TaskId, waiting_for: WaitingFor) -> WaitingFor {
        let children = self.index().children.get(id).into_iter().flatten();
        let tasks: Vec<_> = children.cloned().collect();
        let by = tasks.iter().filter_map(|child| {
            let attempt = self.record(child)?.attempt()?;
            Some(attempt.agent_id.clone())
        });
        WaitingFor {
            agents: by.collect(),
            tasks,
            ..waiting_for
        }
    }

    fn waiting_for(&self, live: &Live, ctx: Context<'_>, entry: &Entry) -> Option<WaitingFor> {
        match entry.task().state {
            // What was journalled names the kind of wait; its details change without being journalled.
            TaskState::Queued | TaskState::Parked if is_ready(entry) => {
                let mut parked = outlook(self, live, ctx, &group_of(entry));
                if let Some(waits) = parked.as_mut()
                    && waits.reason == WaitReason::NoAgent
                    && let Some(why) = why_no_team(self, live, ctx, entry)
                {
                    waits.detail = why;
                }
                Some(parked.unwrap_or_else(|| why_queued(self, live, ctx, entry)))
            }
            TaskState::Parked if waits_for_claims(entry) => {
                let waits = claim_wait(self, live, entry);
                waits.or_else(|| entry.task().waiting_for.clone())
            }
            TaskState::Blocked
                if entry.task().spec.approval.is_some() || escalated_to(entry).is_some() =>
            {
                entry.task().waiting_for.clone()
            }
            TaskState::Blocked if is_teams(entry) => team_wait(self, live, ctx, entry),
            TaskState::Blocked => Some(waiting_for_tasks(entry.pending.iter().cloned().collect())),
            TaskState::Queued | TaskState::Parked | TaskState::Retrying => {
                entry.task().waiting_for.clone()
            }
            TaskState::Assigned | TaskState::Running => {
                self.claims().wait_of(&entry.task().id).or_else(|| {
                    let waiting_for = entry.task().waiting_for.clone()?;
                    Some(self.with_verifiers(&entry.task().id, waiting_for))
                })
            }
            TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::DeadLettered => None,
        }
    }
}

impl Tx<'_> {
    /// A task as it is shown.
    pub(crate) fn view(&self, id: &TaskId) -> Option<Task> {
        self.tasks.view(self.live, self.ctx, id)
    }
}
