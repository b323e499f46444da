//! Whose turn it is: slots are shared out among submitters, so whoever floods the mesh waits for himself.
//!
//! A slot goes to the submitter with the fewest attempts under way of those who wait for the same (max-min fairness). Among
//! equals it goes to the one whose turn is longest ago, which is start-time fair queueing (Goyal, Vin and Cheng, 1996) with
//! one attempt as the unit; and only then to the task that stands first. Among the tasks of one submitter, their rank decides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mesh_messages::TaskId;
use serde::{Deserialize, Serialize};

use super::index::{GroupKey, Rank};
use super::state::Tasks;

/// Families of a line that are asked in one decision whether one of them can have what was given up for it.
const FAMILIES_MAX: usize = 64;

/// How often submitters had their turn, as far as it still matters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Served {
    /// The virtual time: when the last turn began.
    time: u64,
    /// When the last turns end of those for whom that lies ahead.
    ends: BTreeMap<Arc<str>, u64>,
}

impl Served {
    /// Somebody had a turn.
    pub(crate) fn note(&mut self, tenant: &Arc<str>) {
        let begin = self.next_of(tenant);
        self.time = begin;
        self.ends.insert(Arc::clone(tenant), begin + 1);
        self.ends.retain(|_, end| *end > begin);
    }

    /// When somebody's next turn begins.
    fn next_of(&self, tenant: &str) -> u64 {
        let end = self.ends.get(tenant).copied();
        end.unwrap_or(0).max(self.time)
    }
}

/// Those for whom something waits, in the order of their turns.
pub(crate) struct Turns {
    lines: BTreeMap<Arc<str>, BTreeMap<Rank, GroupKey>>,
    order: BTreeSet<(usize, u64, Rank, Arc<str>)>,
    families: usize,
}

/// A task whose turn it is.
pub(crate) struct Turn {
    pub(crate) tenant: Arc<str>,
    pub(crate) rank: Rank,
    pub(crate) key: GroupKey,
}

impl Turns {
    pub(crate) fn new(tasks: &Tasks) -> Self {
        let mut turns = Self {
            lines: BTreeMap::new(),
            order: BTreeSet::new(),
            families: 0,
        };
        for (tenant, lines) in &tasks.index().lines {
            let heads = lines
                .iter()
                .filter_map(|(key, line)| Some((line.first()?.clone(), key.clone())));
            turns.lines.insert(Arc::clone(tenant), heads.collect());
            turns.stand_in_line(tasks, tenant);
        }
        turns
    }

    pub(crate) fn next(&mut self) -> Option<Turn> {
        let (_, _, rank, tenant) = self.order.pop_first()?;
        let key = self.lines.get_mut(&tenant)?.remove(&rank)?;
        Some(Turn { tenant, rank, key })
    }

    /// The task has left its line; the next one of it may be served.
    pub(crate) fn left(&mut self, tasks: &Tasks, turn: Turn) {
        let line = line_of(tasks, &turn.tenant, &turn.key);
        let next = line.and_then(BTreeSet::first).cloned();
        self.go_on(tasks, turn, next);
    }

    /// The task can have nobody's slot, and neither can the rest of its line; but of children those of another task may have
    /// what that one gave up.
    pub(crate) fn waits(&mut self, tasks: &Tasks, turn: Turn) {
        let mut next = None;
        if turn.key.child && self.families < FAMILIES_MAX {
            self.families += 1;
            let parent = |id: &TaskId| tasks.get(id).and_then(|task| task.spec.parent.as_ref());
            let behind = (Bound::Excluded(&turn.rank), Bound::Unbounded);
            let line = line_of(tasks, &turn.tenant, &turn.key).into_iter();
            let mut others = line.flat_map(|line| line.range::<Rank, _>(behind));
            let own = parent(&turn.rank.2);
            next = others.find(|rank| parent(&rank.2) != own).cloned();
        }
        self.go_on(tasks, turn, next);
    }

    fn go_on(&mut self, tasks: &Tasks, turn: Turn, next: Option<Rank>) {
        let Turn { tenant, key, .. } = turn;
        if let Some(rank) = next
            && let Some(lines) = self.lines.get_mut(&tenant)
        {
            lines.insert(rank, key);
        }
        self.stand_in_line(tasks, &tenant);
    }

    fn stand_in_line(&mut self, tasks: &Tasks, tenant: &Arc<str>) {
        let first = self.lines.get(tenant).and_then(BTreeMap::first_key_value);
        if let Some((rank, key)) = first {
            let under_way = tasks.index().under_way_in(tenant, key);
            let next = tasks.served().next_of(tenant);
            let place = (under_way, next, rank.clone(), Arc::clone(tenant));
            self.order.insert(place);
        }
    }
}

fn line_of<'t>(tasks: &'t Tasks, tenant: &str, key: &GroupKey) -> Option<&'t BTreeSet<Rank>> {
    tasks.index().lines.get(tenant)?.get(key)
}
