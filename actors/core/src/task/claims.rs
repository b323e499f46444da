//! Claims: named things that one attempt may have at a time, as leases with a token that only rises.
//!
//! ```text
//!  acquire ─┬─ nobody has it ─► Granted(token, until) ─► Renewed* ─► Released | Expired | with its attempt
//!           └─ somebody has ─┬─ no wait ─► refused, naming the holder
//!                            └─ wait ─► Waiting, in line ─► Granted | GivenUp | with its attempt
//! ```
//!
//! What a task claims as a whole is granted with the assignment of its attempt, all in one decision; see `line`.
//!
//! A claim belongs to an attempt that is under way, and ends with it in the same event; so nobody who is gone holds or waits
//! for anything. Whoever stands first in line gets what is free when a decision comes to rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_messages::claim::{Claim, ClaimHolder, ClaimMode, ClaimStep, ClaimWaiter};
use mesh_messages::task::{WaitReason, WaitingFor};
use mesh_messages::{AttemptNo, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::routing::InstanceKey;

mod decide;
mod line;

pub(crate) use decide::{claim, expire};
pub(crate) use line::{claim_wait, taken_above};

/// Most resources that are held or waited for at once, so that the state stays small.
pub const RESOURCES_MAX: usize = 10_000;
/// Most attempts in one line: whoever comes later would wait for longer than it may.
pub const WAITERS_MAX: usize = 1000;
/// Most resources of one attempt, held and waited for: an agent that claims without end finds out.
pub const CLAIMS_OF_TASK_MAX: usize = 64;

/// Who has a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptNo,
    pub(crate) key: InstanceKey,
    pub(crate) token: u64,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    #[serde(default)]
    pub(crate) mode: ClaimMode,
}

/// Who waits for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiter {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptNo,
    pub(crate) key: InstanceKey,
    pub(crate) request: String,
    pub(crate) ttl_ms: u64,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    #[serde(default)]
    pub(crate) mode: ClaimMode,
}

/// A resource that somebody has or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "StoredResource")]
pub(crate) struct Resource {
    /// One alone, or any number who share it, the first first.
    pub(crate) holders: Vec<Holder>,
    pub(crate) waiting: VecDeque<Waiter>,
}

/// As snapshots have it; those of a version that knew no sharing name one holder.
#[derive(Deserialize)]
struct StoredResource {
    #[serde(default)]
    holder: Option<Holder>,
    #[serde(default)]
    holders: Vec<Holder>,
    waiting: VecDeque<Waiter>,
}

impl From<StoredResource> for Resource {
    fn from(stored: StoredResource) -> Self {
        Self {
            holders: stored.holder.into_iter().chain(stored.holders).collect(),
            waiting: stored.waiting,
        }
    }
}

impl Resource {
    /// Whether another one could have it like this beside those who have it.
    pub(crate) fn admits(&self, mode: ClaimMode) -> bool {
        self.holders
            .iter()
            .all(|holder| holder.mode.goes_with(mode))
    }

    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.holders.first()
    }

    pub(crate) fn held_by(&self, task: &TaskId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.task == *task)
    }

    /// Whether whoever stands first in line can have it now.
    fn can_serve(&self) -> bool {
        self.waiting
            .front()
            .is_some_and(|first| self.admits(first.mode))
    }
}

/// What a snapshot holds; the rest is made anew.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Stored {
    resources: BTreeMap<String, Resource>,
    last_token: u64,
}

/// All claims, as their events make them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Claims {
    resources: BTreeMap<String, Resource>,
    last_token: u64,
    /// What each task's attempt holds or waits for.
    by_task: BTreeMap<TaskId, BTreeSet<String>>,
    /// When something becomes due: of the holder, or of the task that waits.
    timers: BTreeSet<(Timestamp, String, Due)>,
    /// Resources that whoever stands first in line for them can have.
    free: BTreeSet<String>,
}

impl From<Claims> for Stored {
    fn from(claims: Claims) -> Self {
        Self {
            resources: claims.resources,
            last_token: claims.last_token,
        }
    }
}

impl From<Stored> for Claims {
    fn from(stored: Stored) -> Self {
        let mut claims = Self {
            last_token: stored.last_token,
            ..Self::default()
        };
        for (name, resource) in stored.resources {
            claims.put(name, resource);
        }
        claims
    }
}

impl Claims {
    /// Takes a step of a task's attempt in, which is under way on `key`.
    pub(crate) fn apply(
        &mut self,
        (task, attempt, key): (&TaskId, AttemptNo, &InstanceKey),
        (name, at): (&str, Timestamp),
        step: &ClaimStep,
    ) {
        let mut resource = self.take(name);
        let held = |token: u64, until: Timestamp, since: Timestamp, mode: ClaimMode| Holder {
            mode,
            task: task.clone(),
            attempt,
            key: key.clone(),
            token,
            since,
            until,
        };
        match step {
            ClaimStep::Waiting {
                request,
                ttl_ms,
                until,
                mode,
            } => {
                let waiter = |since| Waiter {
                    mode: *mode,
                    task: task.clone(),
                    attempt,
                    key: key.clone(),
                    request: request.clone(),
                    ttl_ms: *ttl_ms,
                    since,
                    until: *until,
                };
                // Asked again, it keeps its place.
                match resource.waiting.iter_mut().find(|w| w.task == *task) {
                    Some(known) => *known = waiter(known.since),
                    None => resource.waiting.push_back(waiter(at)),
                }
            }
            ClaimStep::Granted { token, until, mode } => {
                resource.waiting.retain(|waiter| waiter.task != *task);
                resource.holders.retain(|holder| holder.task != *task);
                resource.holders.push(held(*token, *until, at, *mode));
                self.last_token = self.last_token.max(*token);
            }
            ClaimStep::Renewed { until, .. } => {
                let mut holders = resource.holders.iter_mut();
                if let Some(holder) = holders.find(|holder| holder.task == *task) {
                    holder.until = *until;
                }
            }
            ClaimStep::Released { .. } | ClaimStep::Expired { .. } => {
                resource.holders.retain(|holder| holder.task != *task);
            }
            ClaimStep::GivenUp => resource.waiting.retain(|waiter| waiter.task != *task),
        }
        self.put(name.to_owned(), resource);
    }

    /// A task has no attempt under way any more: it neither holds nor waits.
    pub(crate) fn let_go(&mut self, task: &TaskId) {
        for name in self.by_task.get(task).cloned().unwrap_or_default() {
            let mut resource = self.take(&name);
            resource.holders.retain(|holder| holder.task != *task);
            resource.waiting.retain(|waiter| waiter.task != *task);
            self.put(name, resource);
        }
    }

    /// Takes a resource out, with all that leads to it.
    fn take(&mut self, name: &str) -> Resource {
        let Some(resource) = self.resources.remove(name) else {
            return Resource::default();
        };
        for (at, who, task) in ends(&resource) {
            self.timers.remove(&(at, name.to_owned(), who));
            if let Some(names) = self.by_task.get_mut(task) {
                names.remove(name);
                if names.is_empty() {
                    self.by_task.remove(task);
                }
            }
        }
        self.free.remove(name);
        resource
    }

    /// Puts one in; one that nobody wants is forgotten.
    fn put(&mut self, name: String, resource: Resource) {
        if resource.holders.is_empty() && resource.waiting.is_empty() {
            return;
        }
        for (at, who, task) in ends(&resource) {
            self.timers.insert((at, name.clone(), who));
            let names = self.by_task.entry(task.clone()).or_default();
            names.insert(name.clone());
        }
        if resource.can_serve() {
            self.free.insert(name.clone());
        }
        self.resources.insert(name, resource);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.resources.len()
    }

    /// What a task's attempt has.
    pub(crate) fn held_by(&self, task: &TaskId) -> impl Iterator<Item = &String> {
        let names = self.by_task.get(task).into_iter().flatten();
        names.filter(|name| {
            let held = self.get(name).and_then(|resource| resource.held_by(task));
            held.is_some()
        })
    }

    /// The token under which a task has a resource, if it has it.
    pub(crate) fn token_of(&self, name: &str, task: &TaskId) -> Option<u64> {
        self.get(name)?.held_by(task).map(|holder| holder.token)
    }

    pub(crate) fn count_of(&self, task: &TaskId) -> usize {
        self.by_task.get(task).map_or(0, BTreeSet::len)
    }

    pub(crate) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, ..)| *at)
    }

    fn first_due(&self, now: Timestamp) -> Option<(String, Due)> {
        let (at, name, who) = self.timers.first()?;
        (*at <= now).then(|| (name.clone(), who.clone()))
    }

    fn first_free(&self) -> Option<&String> {
        self.free.first()
    }

    /// A token above all that were given out. It is no less than the time in milliseconds, so that it rises also where the
    /// records of earlier claims were erased.
    fn next_token(&self, now: Timestamp) -> u64 {
        self.last_token.saturating_add(1).max(now.as_millis())
    }

    /// All of them by name, without the tasks that stand in line before they begin.
    pub fn all(&self) -> impl Iterator<Item = Claim> + '_ {
        self.resources.iter().map(|(name, resource)| Claim {
            resource: name.clone(),
            holder: resource.holder().map(Holder::view),
            mode: resource
                .holder()
                .map(|holder| holder.mode)
                .unwrap_or_default(),
            others: resource.holders.iter().skip(1).map(Holder::view).collect(),
            waiting: resource.waiting.iter().map(Waiter::view).collect(),
            tasks: Vec::new(),
        })
    }

    /// For what a task's attempt stands in line, if it does.
    pub(crate) fn wait_of(&self, task: &TaskId) -> Option<WaitingFor> {
        let names = self.by_task.get(task)?;
        let waits = names.iter().find_map(|name| {
            let resource = self.resources.get(name)?;
            let place = resource.waiting.iter().position(|w| w.task == *task)?;
            Some((name, resource, place))
        });
        let (name, resource, place) = waits?;
        let before = match place {
            0 => String::new(),
            1 => ", and one is before it".to_owned(),
            several => format!(", and {several} are before it"),
        };
        let holder = resource.holder();
        let has = holder.map_or_else(
            || "nobody".to_owned(),
            |holder| format!("task {} of agent {}", holder.task, holder.key.0),
        );
        Some(WaitingFor {
            reason: WaitReason::Claim,
            detail: format!(
                "{has}{} holds {name:?}, which it claims{before}",
                resource.shared()
            ),
            until: resource.waiting.get(place).map(|waiter| waiter.until),
            agents: holder
                .map(|holder| holder.key.0.clone())
                .into_iter()
                .collect(),
            tasks: holder
                .map(|holder| holder.task.clone())
                .into_iter()
                .collect(),
        })
    }
}

/// What becomes due of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A task's claim.
    Claim(TaskId),
    /// A task's wait.
    Wait(TaskId),
}

/// When each of those who have to do with a resource loses it or gives it up.
fn ends(resource: &Resource) -> impl Iterator<Item = (Timestamp, Due, &TaskId)> {
    let holders = resource.holders.iter();
    let waiting = resource.waiting.iter();
    holders
        .map(|holder| (holder.until, Due::Claim(holder.task.clone()), &holder.task))
        .chain(waiting.map(|waiter| (waiter.until, Due::Wait(waiter.task.clone()), &waiter.task)))
}

impl Resource {
    /// With how many others its first holder shares it, in words.
    pub(crate) fn shared(&self) -> String {
        match self.holders.len() {
            0 | 1 => String::new(),
            2 => " and one other".to_owned(),
            several => format!(" and {} others", several - 1),
        }
    }
}

impl Holder {
    pub(crate) fn view(&self) -> ClaimHolder {
        let (agent, instance, epoch) = self.key.clone();
        ClaimHolder {
            task: self.task.clone(),
            attempt: self.attempt,
            agent,
            instance,
            epoch,
            token: self.token,
            since: self.since,
            until: self.until,
        }
    }
}

impl Waiter {
    fn view(&self) -> ClaimWaiter {
        let (agent, instance, epoch) = self.key.clone();
        ClaimWaiter {
            task: self.task.clone(),
            attempt: self.attempt,
            agent,
            instance,
            epoch,
            mode: self.mode,
            since: self.since,
            until: self.until,
        }
    }
}
