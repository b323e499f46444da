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

use mesh_messages::claim::{Claim, ClaimMode, TaskClaim};
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

/// The attempt that had a resource and may still be at it, although it has ended here, in the way of who wants it like this.
fn leaving<'l>(
    live: &'l Live,
    name: &str,
    mode: ClaimMode,
) -> Option<&'l (InstanceKey, TaskId, AttemptNo)> {
    let mut left = live.leaving.get(name)?.iter();
    let found = left.find(|((key, task, attempt), had)| {
        let held = live.releasing.get(key);
        !had.goes_with(mode) && held.is_some_and(|held| held.contains(&(task.clone(), *attempt)))
    });
    found.map(|(left, _)| left)
}

/// Whether those who have something, and wait for it in the midst of an attempt, let a task have it, too.
fn is_open(tasks: &Tasks, claim: &TaskClaim, delegated: bool) -> bool {
    let held = tasks.claims().get(&claim.resource);
    held.is_none_or(|held| {
        let line = held.waiting.is_empty() || (delegated && !held.holders.is_empty());
        line && held.admits(claim.mode)
    })
}

/// Whether a task can have this as far as those are concerned who have it. What attempts under way wait for goes to them
/// first; a delegated task that can share it does not wait for them, as they may wait for those above it.
fn is_free(tasks: &Tasks, live: &Live, claim: &TaskClaim, delegated: bool) -> bool {
    is_open(tasks, claim, delegated) && leaving(live, &claim.resource, claim.mode).is_none()
}

/// Tasks in line for one resource that are shown: more would not be read.
const SHOWN_MAX: usize = 100;

impl Tasks {
    /// All resources that somebody has or waits for in an attempt, by name, each with the tasks that stand in line for it.
    pub fn claimed(&self) -> impl Iterator<Item = Claim> + '_ {
        self.claims().all().map(|mut claim| {
            let lines = [false, true].into_iter().filter_map(|delegated| {
                let key = (claim.resource.clone(), delegated);
                self.index().claimants.get(&key)
            });
            let tasks = lines.flatten().map(|(_, _, task)| task.clone());
            claim.tasks = tasks.take(SHOWN_MAX).collect();
            claim
        })
    }
}

/// How a task claims something.
fn mode_of(tasks: &Tasks, id: &TaskId, name: &str) -> ClaimMode {
    let claims = tasks.get(id).map(|task| task.spec.claims.as_slice());
    let mut claims = claims.unwrap_or_default().iter();
    let claim = claims.find(|claim| claim.resource == name);
    claim.map(|claim| claim.mode).unwrap_or_default()
}

/// Who stands in line for a resource before a task that yields to others, and could not share it, apart from those who go.
fn before<'t>(
    tasks: &'t Tasks,
    claim: &TaskClaim,
    own: &Rank,
    going: &BTreeSet<TaskId>,
) -> Option<&'t TaskId> {
    let name = &claim.resource;
    let line = tasks.index().claimants.get(&(name.clone(), false))?;
    let mut line = line.iter().take_while(|other| *other < own);
    let first = line.find(|other| {
        !going.contains(&other.2) && !mode_of(tasks, &other.2, name).goes_with(claim.mode)
    });
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
        let held = tasks.claims().get(name);
        if let Some(held) = held.filter(|_| !is_open(tasks, claim, is_delegated(entry))) {
            let Some(holder) = held.holder().filter(|_| !held.admits(claim.mode)) else {
                let detail = format!("attempts under way are before it in line for {name:?}");
                let others = held.waiting.iter().map(|one| one.task.clone());
                return Some(waits(detail, Vec::new(), others.take(8).collect()));
            };
            let agent = holder.key.0.clone();
            let detail = format!(
                "task {} of agent {agent}{} holds {name:?}, which it claims",
                holder.task,
                held.shared()
            );
            return Some(waits(detail, vec![agent], vec![holder.task.clone()]));
        }
        if let Some((agent, task, _)) =
            leaving(live, name, claim.mode).map(|(key, task, no)| (&key.0, task, no))
        {
            let detail = format!("task {task} had {name:?}, and agent {agent} is still ending it");
            return Some(waits(detail, vec![agent.clone()], vec![task.clone()]));
        }
        if is_delegated(entry) {
            return None;
        }
        let first = before(tasks, claim, &own, &nobody)?;
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
            let holder = held.and_then(|held| held.held_by(id));
            let own = entry.task().spec.claims.iter();
            let mut own = own.filter(|one| one.resource == claim.resource);
            // What both share, neither waits for.
            holder.is_some_and(|holder| !holder.mode.goes_with(claim.mode))
                || own.any(|one| !one.mode.goes_with(claim.mode))
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
            let token = self.grant(id, attempt, (&claim.resource, claim.mode), until);
            TaskClaim {
                token: Some(token),
                ..claim
            }
        });
        taken.collect()
    }

    /// Keeps others from what an attempt has that is being ended, until its instance has dropped it.
    pub(crate) fn keep_claims(&mut self, key: &InstanceKey, id: &TaskId, attempt: AttemptNo) {
        let mut names: BTreeMap<String, ClaimMode> = BTreeMap::new();
        for name in self.tasks.claims().held_by(id) {
            let held = self
                .tasks
                .claims()
                .get(name)
                .and_then(|one| one.held_by(id));
            names.insert(name.clone(), held.map(|held| held.mode).unwrap_or_default());
        }
        let own = self.tasks.get(id);
        // What a team has, its parts work on.
        let above = own.and_then(|task| self.tasks.get(task.spec.parent.as_ref()?));
        let above = above.filter(|above| above.teamwork.is_some());
        for claim in own
            .into_iter()
            .chain(above)
            .flat_map(|task| &task.spec.claims)
        {
            names.insert(claim.resource.clone(), claim.mode);
        }
        for (name, mode) in names {
            let left = (key.clone(), id.clone(), attempt);
            self.live
                .leaving
                .entry(name)
                .or_default()
                .insert(left, mode);
        }
    }

    /// Puts back into their lines the tasks that can have all that they claim; whether there were any.
    pub(crate) fn serve_claimants(&mut self) -> bool {
        if !self.live.leaving.is_empty() {
            let gone: Vec<String> = self.live.leaving.keys().cloned().collect();
            for name in gone {
                if leaving(self.live, &name, ClaimMode::Exclusive).is_none() {
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
    /// Of each line and resource, how those want it who go.
    turns: BTreeMap<(GroupKey, String), ClaimMode>,
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
            turns: BTreeMap::new(),
            soon: BTreeMap::new(),
        }
    }

    fn going(mut self) -> Vec<TaskId> {
        let mut all = Vec::new();
        for ((name, delegated), line) in &self.tasks.index().claimants {
            let shared = TaskClaim {
                resource: name.clone(),
                mode: ClaimMode::Shared,
                token: None,
            };
            if !is_free(self.tasks, self.live, &shared, *delegated) {
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
                } else if !delegated && mode_of(self.tasks, &rank.2, name).is_exclusive() {
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
            is_free(self.tasks, self.live, claim, delegated)
                && (delegated || before(self.tasks, claim, own, &self.going).is_none())
        });
        if !free || claims.iter().any(|one| self.is_anothers(&group, one, own)) {
            return false;
        }
        for claim in claims {
            let turn = self.turns.entry((group.clone(), claim.resource.clone()));
            let turn = turn.or_insert(claim.mode);
            *turn = (*turn).min(claim.mode);
        }
        self.going.insert(own.2.clone());
        true
    }

    /// Whether one of the same line that waits for a slot alone will have the resource first: to call all of them up would
    /// only send them back. Where no slot can come, they wait for an agent, and it is said so.
    fn is_anothers(&mut self, group: &GroupKey, claim: &TaskClaim, own: &Rank) -> bool {
        let turn = (group.clone(), claim.resource.clone());
        let queued = self.tasks.index().claiming.get(&turn).into_iter().flatten();
        let mut queued = queued.take_while(|other| *other < own);
        let called = queued
            .any(|other| !mode_of(self.tasks, &other.2, &claim.resource).goes_with(claim.mode));
        let turns = self
            .turns
            .get(&turn)
            .is_some_and(|mode| !mode.goes_with(claim.mode));
        if !called && !turns {
            return false;
        }
        let (tasks, live, ctx) = (self.tasks, self.live, self.ctx);
        let soon = self.soon.entry(group.clone());
        *soon.or_insert_with(|| outlook(tasks, live, ctx, group).is_none())
    }
}
