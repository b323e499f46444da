//! What is going to happen, in the order in which it will.

use std::collections::BTreeMap;

/// Things to come by their time; what comes at one time comes in the order in which it was planned.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(u64, u64), E>,
    planned: u64,
    /// When the last message of each lane arrives: messages of one sender to one receiver do not overtake each other.
    lanes: BTreeMap<(u64, u64), u64>,
}

impl<E> Queue<E> {
    pub(crate) const fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            planned: 0,
            lanes: BTreeMap::new(),
        }
    }

    /// Plans something.
    pub(crate) fn at(&mut self, at: u64, event: E) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    /// Plans something that does not overtake what went the same way before.
    pub(crate) fn in_lane(&mut self, lane: (u64, u64), at: u64, event: E) {
        let last = self.lanes.entry(lane).or_default();
        *last = at.max(*last);
        let at = *last;
        self.at(at, event);
    }

    /// The next thing, and its time.
    pub(crate) fn next(&mut self) -> Option<(u64, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }

    /// Forgets what is planned, but for what is to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&E) -> bool) {
        self.events.retain(|_, event| keep(event));
        self.lanes.clear();
    }

    /// How much is planned.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}
