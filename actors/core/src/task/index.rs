//! Ways to find tasks without looking at all of them. Each is a function of the entries and is never stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::SubAssign;
use std::sync::Arc;
use std::time::Duration;

use mesh_messages::task::{ATTEMPT_TIMEOUT_DEFAULT_MS, Priority, TaskState, WaitReason};
use mesh_messages::team::TeamWish;
use mesh_messages::{AgentId, FailureClass, TaskId, Timestamp};

use super::escalate::escalated_to;
use super::standing::Ask;
use super::state::Entry;
use super::teams::{is_teams, wish};
use crate::routing::InstanceKey;

/// What becomes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The task must have ended.
    Deadline,
    /// Its attempt must have ended.
    Attempt,
    /// Its pause is over.
    Resume,
}

/// Tasks that the same instances can have: they wait in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    /// Whether they must be alone on their instance.
    pub(crate) alone: bool,
    /// The capabilities, sorted.
    pub(crate) needs: Arc<[String]>,
    /// The one agent that their submitters allow.
    pub(crate) agent: Option<AgentId>,
    /// The agent that failed them last; without fallback no other may have them.
    pub(crate) failed_on: Option<AgentId>,
    /// The trust that they need.
    pub(crate) trust: Ask,
    /// Whether they are children, which may have the slot that those above them gave up.
    pub(crate) child: bool,
    /// The incarnations that declined them.
    pub(crate) declined: BTreeSet<InstanceKey>,
    /// The agent that submitted them, which the operator's rules may keep from others.
    pub(crate) by: Option<String>,
    /// The agent whose work they check, which never has them.
    pub(crate) judges: Option<AgentId>,
    /// Whether teams may do them.
    pub(crate) team: TeamWish,
}

/// Place in the line: virtual time, then order of submission.
pub(crate) type Rank = (Timestamp, u64, TaskId);

/// Whose, and what submitters share out among themselves: the slots of those who can have a task.
type Share = (Arc<str>, Arc<[String]>, Option<AgentId>);

/// The line of one group, apart by the reason that was journalled for the wait (`None`: queued).
pub(crate) type Group = BTreeMap<Option<WaitReason>, BTreeSet<Rank>>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    pub(crate) timers: BTreeSet<(Timestamp, Timer, TaskId)>,
    pub(crate) ready: BTreeMap<GroupKey, Group>,
    /// The same tasks by whose they are.
    pub(crate) lines: BTreeMap<Arc<str>, BTreeMap<GroupKey, BTreeSet<Rank>>>,
    /// Tasks with an attempt under way, by whose they are and who could have them.
    under_way: BTreeMap<Share, usize>,
    /// Tasks that have not ended, by whose they are.
    pub(crate) live: BTreeMap<Arc<str>, usize>,
    pub(crate) in_flight: BTreeMap<InstanceKey, BTreeSet<TaskId>>,
    /// Those of them that have to be alone.
    pub(crate) suspects: BTreeMap<InstanceKey, BTreeSet<TaskId>>,
    /// Tasks that wait for a task.
    pub(crate) dependents: BTreeMap<TaskId, BTreeSet<TaskId>>,
    /// Children that have not ended, by parent.
    pub(crate) children: BTreeMap<TaskId, BTreeSet<TaskId>>,
    /// Blocked tasks that wait for nothing any more.
    pub(crate) unblocked: BTreeSet<TaskId>,
    /// Ended tasks by the number of their last event.
    pub(crate) ended: BTreeSet<(u64, TaskId)>,
    /// By submitter and idempotency key.
    pub(crate) keys: BTreeMap<(String, String), TaskId>,
    pub(crate) states: BTreeMap<TaskState, u64>,
    /// Tasks that wait for resources that they claim, by resource, those of which a task above them is under way apart.
    pub(crate) claimants: BTreeMap<(String, bool), BTreeSet<Rank>>,
    /// Queued tasks that claim a resource, by their line.
    pub(crate) claiming: BTreeMap<(GroupKey, String), BTreeSet<Rank>>,
    /// Tasks that are escalated, by the question or follow-up that they wait for.
    pub(crate) escalated: BTreeMap<TaskId, TaskId>,
    /// Tasks that wait for a person, by submitter.
    pub(crate) asks: BTreeMap<String, BTreeSet<TaskId>>,
    /// Tasks that a team has of which no part was handed to an agent yet.
    pub(crate) fresh_teams: BTreeSet<TaskId>,
}

/// How much later than its submission a task of this priority stands in line. A bound on how long it can be overtaken.
const fn handicap(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => Duration::ZERO,
        Priority::High => Duration::from_mins(1),
        Priority::Normal => Duration::from_mins(5),
        Priority::Low => Duration::from_mins(15),
    }
}

impl Index {
    /// How many attempts a submitter has under way of tasks that the same agents can have.
    pub(crate) fn under_way_in(&self, tenant: &Arc<str>, key: &GroupKey) -> usize {
        let (needs, agent) = (Arc::clone(&key.needs), key.agent.clone());
        let share = (Arc::clone(tenant), needs, agent);
        self.under_way.get(&share).copied().unwrap_or(0)
    }

    pub(crate) fn insert(&mut self, id: &TaskId, entry: &Entry) {
        let task = &entry.record.task;
        *self.states.entry(task.state).or_default() += 1;
        if let Some(key) = &task.spec.idempotency_key {
            self.keys
                .insert((task.submitted_by.clone(), key.clone()), id.clone());
        }
        if task.state.is_terminal() {
            self.ended.insert((entry.last_event, id.clone()));
            return;
        }
        *self.live.entry(Arc::clone(&entry.tenant)).or_default() += 1;
        self.timers.extend(timers(id, entry));
        if task.spec.approval.is_some() {
            let asks = self.asks.entry(task.submitted_by.clone()).or_default();
            asks.insert(id.clone());
        }
        if let Some(parent) = &task.spec.parent {
            self.children
                .entry(parent.clone())
                .or_default()
                .insert(id.clone());
        }
        if let Some(asked) = escalated_to(entry) {
            self.escalated.insert(asked.clone(), id.clone());
        }
        if is_unblocked(entry) {
            self.unblocked.insert(id.clone());
        }
        if is_fresh_team(entry) {
            self.fresh_teams.insert(id.clone());
        }
        for dependency in &entry.pending {
            self.dependents
                .entry(dependency.clone())
                .or_default()
                .insert(id.clone());
        }
        if let Some(key) = instance_of(entry) {
            *self.under_way.entry(share(entry)).or_default() += 1;
            if entry.record.is_suspect() {
                let suspects = self.suspects.entry(key.clone()).or_default();
                suspects.insert(id.clone());
            }
            self.in_flight.entry(key).or_default().insert(id.clone());
        }
        if !task.spec.claims.is_empty() {
            self.insert_claims(id, entry);
        }
        if let Some((group, mark)) = ready(entry) {
            let lines = self.lines.entry(Arc::clone(&entry.tenant)).or_default();
            let line = lines.entry(group.clone()).or_default();
            line.insert(rank(id, entry));
            self.ready
                .entry(group)
                .or_default()
                .entry(mark)
                .or_default()
                .insert(rank(id, entry));
        }
    }

    pub(crate) fn remove(&mut self, id: &TaskId, entry: &Entry) {
        let task = &entry.record.task;
        one_less(&mut self.states, &task.state);
        if let Some(key) = &task.spec.idempotency_key {
            self.keys.remove(&(task.submitted_by.clone(), key.clone()));
        }
        if task.state.is_terminal() {
            self.ended.remove(&(entry.last_event, id.clone()));
            return;
        }
        one_less(&mut self.live, &entry.tenant);
        for timer in timers(id, entry) {
            self.timers.remove(&timer);
        }
        if let Some(parent) = &task.spec.parent {
            remove_from(&mut self.children, parent, id);
        }
        if let Some(asked) = escalated_to(entry) {
            self.escalated.remove(asked);
        }
        if is_unblocked(entry) {
            self.unblocked.remove(id);
        }
        if is_fresh_team(entry) {
            self.fresh_teams.remove(id);
        }
        if task.spec.approval.is_some() {
            remove_from(&mut self.asks, &task.submitted_by, id);
        }
        for dependency in &entry.pending {
            remove_from(&mut self.dependents, dependency, id);
        }
        if let Some(key) = instance_of(entry) {
            remove_from(&mut self.in_flight, &key, id);
            remove_from(&mut self.suspects, &key, id);
            one_less(&mut self.under_way, &share(entry));
        }
        if !task.spec.claims.is_empty() {
            self.remove_claims(id, entry);
        }
        if let Some((key, mark)) = ready(entry)
            && let Some(group) = self.ready.get_mut(&key)
        {
            let rank = rank(id, entry);
            remove_from(group, &mark, &rank);
            if group.is_empty() {
                self.ready.remove(&key);
            }
            if let Some(lines) = self.lines.get_mut(&entry.tenant) {
                remove_from(lines, &key, &rank);
                if lines.is_empty() {
                    self.lines.remove(&entry.tenant);
                }
            }
        }
    }
}

fn share(entry: &Entry) -> Share {
    let agent = entry.task().spec.agent.clone();
    (Arc::clone(&entry.tenant), Arc::clone(&entry.needs), agent)
}

fn one_less<K: Ord, N: Default + PartialEq + SubAssign + From<u8>>(
    counts: &mut BTreeMap<K, N>,
    key: &K,
) {
    if let Some(count) = counts.get_mut(key) {
        *count -= N::from(1);
        if *count == N::default() {
            counts.remove(key);
        }
    }
}

impl Index {
    fn insert_claims(&mut self, id: &TaskId, entry: &Entry) {
        for claim in &entry.task().spec.claims {
            let name = claim.resource.clone();
            if waits_for_claims(entry) {
                let line = self.claimants.entry((name, is_delegated(entry)));
                line.or_default().insert(rank(id, entry));
            } else if entry.task().state == TaskState::Queued {
                let line = self.claiming.entry((group_of(entry), name));
                line.or_default().insert(rank(id, entry));
            }
        }
    }

    fn remove_claims(&mut self, id: &TaskId, entry: &Entry) {
        let rank = rank(id, entry);
        for claim in &entry.task().spec.claims {
            let name = claim.resource.clone();
            if waits_for_claims(entry) {
                remove_from(&mut self.claimants, &(name, is_delegated(entry)), &rank);
            } else if entry.task().state == TaskState::Queued {
                remove_from(&mut self.claiming, &(group_of(entry), name), &rank);
            }
        }
    }
}

/// Whether a task above it may wait for it.
pub(crate) fn is_delegated(entry: &Entry) -> bool {
    entry.task().spec.parent.is_some()
}

/// Whose work a task checks: meshd asks for it in the agent's name, and for another agent.
pub(crate) fn judges(entry: &Entry) -> Option<&AgentId> {
    let task = entry.task();
    let author = task.spec.avoid.as_ref()?;
    let asked_by = task.submitted_by.strip_prefix("agent:");
    (task.spec.parent.is_some() && asked_by == Some(author.as_str())).then_some(author)
}

/// Whether a task stands in line for what it claims as a whole.
pub(crate) fn waits_for_claims(entry: &Entry) -> bool {
    let task = entry.task();
    let reason = task.waiting_for.as_ref().map(|waits| waits.reason);
    task.state == TaskState::Parked && reason == Some(WaitReason::Claim)
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

fn is_unblocked(entry: &Entry) -> bool {
    let task = entry.task();
    let reason = task.waiting_for.as_ref().map(|waits| waits.reason);
    task.state == TaskState::Blocked
        && entry.pending.is_empty()
        && task.spec.approval.is_none()
        && !matches!(reason, Some(WaitReason::Escalation | WaitReason::Team))
}

fn is_fresh_team(entry: &Entry) -> bool {
    let team = entry.task().teamwork.as_ref();
    is_teams(entry) && team.is_some_and(|team| team.began_at.is_none())
}

pub(crate) fn instance_of(entry: &Entry) -> Option<InstanceKey> {
    entry
        .record
        .attempt()
        .map(|a| (a.agent_id.clone(), a.instance, a.epoch))
}

pub(crate) fn group_of(entry: &Entry) -> GroupKey {
    let by = &entry.task().submitted_by;
    GroupKey {
        alone: entry.record.is_suspect(),
        needs: Arc::clone(&entry.needs),
        agent: entry.task().spec.agent.clone(),
        failed_on: entry.record.last_failed_on.clone(),
        trust: Ask::of(entry),
        child: entry.task().spec.parent.is_some(),
        declined: entry.record.declined.clone(),
        by: by.starts_with("agent:").then(|| by.clone()),
        judges: judges(entry).cloned(),
        team: wish(entry),
    }
}

/// The line in which a task stands, and the wait that was journalled for it.
fn ready(entry: &Entry) -> Option<(GroupKey, Option<WaitReason>)> {
    let task = &entry.record.task;
    let mark = match (task.state, task.waiting_for.as_ref().map(|w| w.reason)) {
        (TaskState::Queued, _) => None,
        (
            TaskState::Parked,
            Some(
                r @ (WaitReason::NoAgent
                | WaitReason::AgentDown
                | WaitReason::Breaker
                | WaitReason::Trust
                | WaitReason::Quota),
            ),
        ) => Some(r),
        _ => return None,
    };
    Some((group_of(entry), mark))
}

/// Whether a task stands in a line for the next slot that it can have.
pub(crate) fn is_ready(entry: &Entry) -> bool {
    ready(entry).is_some()
}

pub(crate) fn rank(id: &TaskId, entry: &Entry) -> Rank {
    let (at, seq) = place(entry);
    (at, seq, id.clone())
}

/// Where a task stands in line, or would if it stood in one. Whom a provider refused stands behind those who came before that:
/// otherwise one that is refused again and again would be the only one of its submitter that ever tries.
pub(crate) fn place(entry: &Entry) -> (Timestamp, u64) {
    let task = &entry.record.task;
    let last = task.attempts.last();
    let refused = last.filter(|attempt| {
        let error = attempt.error.as_ref();
        error.is_some_and(|error| error.class == FailureClass::Quota)
    });
    let since = refused.and_then(|attempt| attempt.ended_at);
    let since = since.map_or(task.submitted_at, |at| at.max(task.submitted_at));
    (since.plus(handicap(task.spec.priority)), entry.seq)
}

fn timers(id: &TaskId, entry: &Entry) -> Vec<(Timestamp, Timer, TaskId)> {
    let task = &entry.record.task;
    let mut timers = vec![(task.deadline_at, Timer::Deadline, id.clone())];
    if let Some(at) = attempt_ends_at(entry) {
        timers.push((at, Timer::Attempt, id.clone()));
    }
    if let Some(waiting) = &task.waiting_for
        && waiting.reason == WaitReason::Retry
        && let Some(until) = waiting.until
    {
        timers.push((until, Timer::Resume, id.clone()));
    }
    timers
}

/// When the attempt under way has taken too long.
pub(crate) fn attempt_ends_at(entry: &Entry) -> Option<Timestamp> {
    let attempt = entry.record.attempt()?;
    let limit = entry.record.task.spec.timeout_ms.or(attempt.limit_ms);
    let limit = limit.unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS);
    let limit = entry.record.wall_bound_ms.map_or(limit, |b| b.min(limit));
    Some(attempt.started_at.plus(Duration::from_millis(limit)))
}
