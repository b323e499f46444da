//! What a task claims as a whole: taken together with its assignment, or not at all.
//!
//! No task holds one thing while it waits for another, so two cannot wait for each other by themselves. Through delegation they
//! can: a task keeps what it claims while it waits for those below it. The end of its attempt then ends the circle. A task that cannot have all
//! that it claims leaves its line and is parked; it stands in line for each of the resources, in the order of all lines
//! (see [`Rank`]). It goes back into its own line when all are free and no other one is before it.
//!
//! Two do not stand behind others. What an agent claims in the midst of an attempt is served first, because a slot is
//! taken while it waits. And a delegated task takes what is free although an earlier one waits for that and for something
//! else as well: whoever has the other thing may wait for the delegated task.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::claim::TaskClaim;
use mesh_messages::events::TaskEvent;
use mesh_messages::task::{TaskSpec, TaskState, WaitReason, WaitingFor};
use mesh_messages::{AttemptNo, TaskId};

use crate::routing::InstanceKey;
use crate::task::command::{Context, Live};
use crate::task::dispatch::outlook;
use crate::task::index::{GroupKey, Rank, group_of, is_delegated, rank};
use crate::task::state::{Entry, Tasks};
use crate::task::tx::{EVENTS_MAX, Tx};

/// How much longer than its deadline an attempt has what its task claims: whoever asks at that very moment shall not find it
/// given up while the attempt is about to be ended.
const AFTER_DEADLINE: Duration = Duration::from_mins(1);

/// The attempt that had a resource and may still be at it, although it has ended here.
fn leaving<'l>(live: &'l Live, name: &str) -> Option<&'l (InstanceKey, TaskId, AttemptNo)> {
    let mut left = live.leaving.get(name)?.iter();
    left.find(|(key, task, attempt)| {
        let held = live.releasing.get(key);
        held.is_some_and(|held| held.contains(&(task.clone(), *attempt)))
    })
}

fn is_free(tasks: &Tasks, live: &Live, name: &str) -> bool {
    tasks.claims().get(name).is_none() && leaving(live, name).is_none()
}

/// Who stands in line for a resource before a task that yields to others, apart from those who go.
fn before<'t>(
    tasks: &'t Tasks,
    name: &str,
    own: &Rank,
    going: &BTreeSet<TaskId>,
) -> Option<&'t TaskId> {
    let line = tasks.index().claimants.get(&(name.to_owned(), false))?;
    let mut line = line.iter().take_while(|other| *other < own);
    let first = line.find(|other| !going.contains(&other.2));
    first.map(|first| &first.2)
}

/// For what a task waits before it can have all that it claims; `None` when it can.
pub(crate) fn claim_wait(tasks: &Tasks, live: &Live, entry: &Entry) -> Option<WaitingFor> {
    let spec = &entry.task().spec;
    if spec.claims.is_empty() {
        return None;
    }
    let own = rank(&entry.task().id, entry);
    let nobody = BTreeSet::new();
    let waits = |detail: String, agents: Vec<_>, tasks: Vec<TaskId>| WaitingFor {
        reason: WaitReason::Claim,
        detail,
        until: None,
        agents,
        tasks,
    };
    spec.claims.iter().find_map(|claim| {
        let name = &claim.resource;
        if let Some(held) = tasks.claims().get(name) {
            let Some(holder) = &held.holder else {
                let detail = format!("attempts under way are before it in line for {name:?}");
                let others = held.waiting.iter().map(|one| one.task.clone());
                return Some(waits(detail, Vec::new(), others.take(8).collect()));
            };
            let agent = holder.key.0.clone();
            let detail = format!(
                "task {} of agent {agent} holds {name:?}, which it claims",
                holder.task
            );
            return Some(waits(detail, vec![agent], vec![holder.task.clone()]));
        }
        if let Some(((agent, ..), task, _)) = leaving(live, name) {
            let detail = format!("task {task} had {name:?}, and agent {agent} is still ending it");
            return Some(waits(detail, vec![agent.clone()], vec![task.clone()]));
        }
        if is_delegated(entry) {
            return None;
        }
        let first = before(tasks, name, &own, &nobody)?;
        let detail = format!("task {first} is before it in line for {name:?}");
        Some(waits(detail, Vec::new(), vec![first.clone()]))
    })
}

/// The first of a task's claims that a task above it has: that one waits for it, so it would never be free.
pub(crate) fn taken_above(tasks: &Tasks, spec: &TaskSpec) -> Option<(usize, TaskId)> {
    if spec.claims.is_empty() {
        return None;
    }
    let mut above = spec.parent.as_ref();
    while let Some(id) = above {
        let entry = tasks.live(id)?;
        let mut claims = spec.claims.iter();
        let taken = claims.position(|claim| {
            let held = tasks.claims().get(&claim.resource);
            let holder = held.and_then(|held| held.holder.as_ref());
            let own = &entry.task().spec.claims;
            holder.is_some_and(|holder| holder.task == *id)
                || own.iter().any(|one| one.resource == claim.resource)
        });
        if let Some(nth) = taken {
            return Some((nth, id.clone()));
        }
        above = entry.task().spec.parent.as_ref();
    }
    None
}

impl Tx<'_> {
    /// Parks a task that cannot have all that it claims; false when that is not so.
    pub(crate) fn park_if_claimed(&mut self, id: &TaskId) -> bool {
        let Some(entry) = self.tasks.entry(id) else {
            return false;
        };
        let Some(waits) = claim_wait(self.tasks, self.live, entry) else {
            return false;
        };
        let (state, waiting_for) = (TaskState::Parked, Some(waits));
        self.emit(id, TaskEvent::Waiting { state, waiting_for });
        true
    }

    /// Takes all that a task claims for the attempt that was just assigned, in the order in which it names them.
    pub(crate) fn take_claims(&mut self, id: &TaskId, attempt: AttemptNo) -> Vec<TaskClaim> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        // They end with the attempt, which its deadline bounds.
        let (claims, until) = (
            task.spec.claims.clone(),
            task.deadline_at.plus(AFTER_DEADLINE),
        );
        let taken = claims.into_iter().map(|claim| {
            let token = self.grant(id, attempt, &claim.resource, until);
            TaskClaim {
                token: Some(token),
                ..claim
            }
        });
        taken.collect()
    }

    /// Keeps others from what an attempt has that is being ended, until its instance has dropped it.
    pub(crate) fn keep_claims(&mut self, key: &InstanceKey, id: &TaskId, attempt: AttemptNo) {
        let claimed = self.tasks.get(id).into_iter();
        let claimed = claimed.flat_map(|task| task.spec.claims.iter().map(|claim| &claim.resource));
        // What a team has, its parts work on.
        let above = self.tasks.get(id).and_then(|task| task.spec.parent.clone());
        let above = above.and_then(|above| self.tasks.get(&above));
        let above = above.filter(|above| above.teamwork.is_some()).into_iter();
        let above = above.flat_map(|above| above.spec.claims.iter().map(|claim| &claim.resource));
        let held = self.tasks.claims().held_by(id);
        for name in claimed.chain(above).chain(held) {
            let left = (key.clone(), id.clone(), attempt);
            let all = self.live.leaving.entry(name.clone()).or_default();
            all.insert(left);
        }
    }

    /// Puts back into their lines the tasks that can have all that they claim; whether there were any.
    pub(crate) fn serve_claimants(&mut self) -> bool {
        if !self.live.leaving.is_empty() {
            let gone: Vec<String> = self.live.leaving.keys().cloned().collect();
            for name in gone {
                if leaving(self.live, &name).is_none() {
                    self.live.leaving.remove(&name);
                }
            }
        }
        if self.tasks.index().claimants.is_empty() {
            return false;
        }
        let mut called = false;
        for id in Round::of(self.tasks, self.live, self.ctx).going() {
            if self.is_full() {
                break;
            }
            let (state, waiting_for) = (TaskState::Queued, None);
            self.emit(&id, TaskEvent::Waiting { state, waiting_for });
            called = true;
        }
        called
    }
}

/// One look at those who wait for what they claim.
struct Round<'a> {
    tasks: &'a Tasks,
    live: &'a Live,
    ctx: Context<'a>,
    going: BTreeSet<TaskId>,
    /// Of each line and resource, that one goes.
    turns: BTreeSet<(GroupKey, String)>,
    /// Whether a line waits for a slot alone.
    soon: BTreeMap<GroupKey, bool>,
}

impl<'a> Round<'a> {
    fn of(tasks: &'a Tasks, live: &'a Live, ctx: Context<'a>) -> Self {
        Self {
            tasks,
            live,
            ctx,
            going: BTreeSet::new(),
            turns: BTreeSet::new(),
            soon: BTreeMap::new(),
        }
    }

    fn going(mut self) -> Vec<TaskId> {
        let mut all = Vec::new();
        for ((name, delegated), line) in &self.tasks.index().claimants {
            if !is_free(self.tasks, self.live, name) {
                continue;
            }
            for rank in line {
                if all.len() >= EVENTS_MAX {
                    return all;
                }
                if self.going.contains(&rank.2) {
                    continue;
                }
                if self.goes(rank, *delegated) {
                    all.push(rank.2.clone());
                } else if !delegated {
                    break;
                }
            }
        }
        all
    }

    fn goes(&mut self, own: &Rank, delegated: bool) -> bool {
        let Some(entry) = self.tasks.entry(&own.2) else {
            return false;
        };
        let group = group_of(entry);
        let claims = &entry.task().spec.claims;
        let free = claims.iter().all(|claim| {
            let name = &claim.resource;
            is_free(self.tasks, self.live, name)
                && (delegated || before(self.tasks, name, own, &self.going).is_none())
        });
        if !free
            || claims
                .iter()
                .any(|one| self.is_anothers(&group, &one.resource, own))
        {
            return false;
        }
        for claim in claims {
            self.turns.insert((group.clone(), claim.resource.clone()));
        }
        self.going.insert(own.2.clone());
        true
    }

    /// Whether one of the same line that waits for a slot alone will have the resource first: to call all of them up would
    /// only send them back. Where no slot can come, they wait for an agent, and it is said so.
    fn is_anothers(&mut self, group: &GroupKey, name: &str, own: &Rank) -> bool {
        let turn = (group.clone(), name.to_owned());
        let queued = self.tasks.index().claiming.get(&turn);
        let called = queued.is_some_and(|line| line.first().is_some_and(|first| first < own));
        if !called && !self.turns.contains(&turn) {
            return false;
        }
        let (tasks, live, ctx) = (self.tasks, self.live, self.ctx);
        let soon = self.soon.entry(group.clone());
        *soon.or_insert_with(|| outlook(tasks, live, ctx, group).is_none())
    }
}
