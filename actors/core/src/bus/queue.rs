//! The queue of one durable subscription: what waits in it, what is in hand, and what is due.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use mesh_messages::bus::{DeliveryCause, HandOut, Holder, Return, SHARES, SubscriptionTerms};
use mesh_messages::task::Priority;
use mesh_messages::{Epoch, Position, Timestamp};

/// Ends of deliveries that are kept with a message: enough to see a pattern.
pub const CAUSES_MAX: usize = 10;

/// Bytes of messages in one subscription; beyond them it is full. They lie in the working memory, too.
pub const QUEUE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// How urgent it is.
    pub priority: Priority,
    /// How much it counts.
    pub bytes: u64,
    /// How often it was handed out.
    pub deliveries: u32,
    /// How often it had been when it was last put back by order.
    pub forgiven: u32,
    /// Where it is.
    pub place: Place,
    /// How the latest deliveries ended.
    pub causes: Vec<DeliveryCause>,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It may be handed out.
    Ready,
    /// It may be handed out from then on.
    Waiting(Timestamp),
    /// Somebody has it.
    Out(Holder),
}

/// A durable subscription and what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// What it was made with.
    pub terms: SubscriptionTerms,
    /// When it was made.
    pub created_at: Timestamp,
    /// The record by which it was made: what is published later is in it.
    pub made: Position,
    /// Where to go on reading publications of before; absent when it has all of them.
    pub fill: Option<Position>,
    /// How often a message was handed out.
    pub delivered: u64,
    /// Of these, how often it was not the first time.
    pub redelivered: u64,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    // By the record of their publication: the order in which they were published.
    items: BTreeMap<Position, Item>,
    // Those of `items` that may be handed out, by priority.
    ready: BTreeMap<Priority, BTreeSet<Position>>,
    // Those of `items` that wait or are out, by when that is over.
    timers: BTreeSet<(Timestamp, Position)>,
    // How many more of each priority go before it is the turn of a lower one, in the order of `SHARES`.
    credits: [u32; 4],
    bytes: u64,
    out: u32,
}

impl Queue {
    /// An empty one.
    pub fn new(
        terms: SubscriptionTerms,
        at: Timestamp,
        made: Position,
        fill: Option<Position>,
    ) -> Self {
        Self {
            terms,
            created_at: at,
            made,
            fill,
            delivered: 0,
            redelivered: 0,
            acked: 0,
            dead: 0,
            items: BTreeMap::new(),
            ready: BTreeMap::new(),
            timers: BTreeSet::new(),
            credits: SHARES.map(|(_, share)| share),
            bytes: 0,
            out: 0,
        }
    }

    /// Messages in it, those in hand included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Messages in hand.
    pub fn out(&self) -> u32 {
        self.out
    }

    /// The messages in it, in the order of their publication.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = (Position, &Item)> {
        self.items.iter().map(|(position, item)| (*position, item))
    }

    /// A message in it.
    pub fn item(&self, record: Position) -> Option<&Item> {
        self.items.get(&record)
    }

    /// Whether one more of this size does not fit.
    pub fn is_full_for(&self, bytes: u64) -> bool {
        let count = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        count >= self.terms.max_queue || (self.bytes + bytes > QUEUE_BYTES_MAX && count > 0)
    }

    /// Which messages have to go so that one more of this size and priority fits: the oldest of the lowest priority
    /// first, none in hand and none that is more urgent. `None` is the newcomer itself, alone: where all of these would
    /// not make room for it, they stay.
    pub fn victims(&self, bytes: u64, newcomer: Priority) -> Vec<Option<Position>> {
        let max = usize::try_from(self.terms.max_queue).unwrap_or(usize::MAX);
        let (mut count, mut size) = (self.items.len() + 1, self.bytes + bytes);
        let fits =
            |count: usize, size: u64| count <= max && (size <= QUEUE_BYTES_MAX || count == 1);
        let mut victims = Vec::new();
        let lanes = SHARES.iter().rev().map(|(priority, _)| *priority);
        for priority in lanes.take_while(|priority| *priority <= newcomer) {
            for position in self.idle(priority) {
                if fits(count, size) {
                    return victims;
                }
                victims.push(Some(position));
                count -= 1;
                let item = self.items.get(&position);
                size = size.saturating_sub(item.map_or(0, |item| item.bytes));
            }
        }
        if fits(count, size) {
            return victims;
        }
        vec![None]
    }

    /// Those of a priority that nobody has in hand, oldest first.
    fn idle(&self, priority: Priority) -> impl Iterator<Item = Position> {
        let waits =
            |item: &Item| item.priority == priority && matches!(item.place, Place::Waiting(_));
        let late = self.timers.iter().map(|(_, position)| *position);
        let late = late.filter(move |position| self.items.get(position).is_some_and(waits));
        let late: BTreeSet<Position> = late.collect();
        let mut late = late.into_iter().peekable();
        let ready = self.ready.get(&priority).into_iter().flatten().copied();
        let mut ready = ready.peekable();
        std::iter::from_fn(move || match (ready.peek(), late.peek()) {
            (Some(one), Some(other)) if other < one => late.next(),
            (Some(_), _) => ready.next(),
            (None, _) => late.next(),
        })
    }

    /// Which messages are handed out now, at most `most`: by priority within their shares, then by age.
    pub fn next(&self, now: Timestamp, most: usize) -> Vec<HandOut> {
        let room = self.terms.max_unacked.saturating_sub(self.out);
        let most = most.min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut lanes = SHARES.map(|(priority, _)| {
            let ready = self.ready.get(&priority).into_iter().flatten();
            ready.copied().take(most).collect::<BTreeSet<Position>>()
        });
        let again = self.due(now).filter_map(|(_, position)| {
            let item = self.items.get(&position)?;
            matches!(item.place, Place::Waiting(_)).then_some((lane_of(item.priority), position))
        });
        for (lane, position) in again.take(most) {
            lanes[lane].insert(position);
        }
        let mut credits = self.credits;
        let mut chosen = Vec::new();
        while chosen.len() < most {
            let open = |credits: &[u32; 4]| {
                (0..lanes.len()).find(|&lane| !lanes[lane].is_empty() && credits[lane] > 0)
            };
            let Some(lane) = open(&credits).or_else(|| {
                credits = SHARES.map(|(_, share)| share);
                open(&credits)
            }) else {
                break;
            };
            if let Some(position) = lanes[lane].pop_first() {
                credits[lane] -= 1;
                let deliveries = self.items.get(&position).map_or(0, |item| item.deliveries);
                chosen.push(HandOut {
                    record: position,
                    delivery: deliveries.saturating_add(1),
                });
            }
        }
        chosen
    }

    fn due(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, Position)> {
        self.timers.range(..=(now, Position(u64::MAX))).copied()
    }

    /// The messages in hand whose time is over.
    pub fn overdue(&self, now: Timestamp) -> Vec<Position> {
        let out = |(_, position): (Timestamp, Position)| {
            let item = self.items.get(&position)?;
            matches!(item.place, Place::Out(_)).then_some(position)
        };
        self.due(now).filter_map(out).collect()
    }

    /// The messages in the hands of incarnations that are over.
    pub fn orphans(&self, over: impl Fn(Epoch) -> bool) -> Vec<Position> {
        let orphan = |(position, item): (Position, &Item)| match item.place {
            Place::Out(Holder {
                epoch: Some(epoch), ..
            }) if over(epoch) => Some(position),
            Place::Out(_) | Place::Ready | Place::Waiting(_) => None,
        };
        if self.out == 0 {
            return Vec::new();
        }
        self.items().filter_map(orphan).collect()
    }

    /// When something is due after now.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let later = (now, Position(u64::MAX));
        self.timers.range(later..).next().map(|(at, _)| *at)
    }

    /// Whether something could be handed out now.
    pub fn has_more(&self, now: Timestamp) -> bool {
        let idle = self.out >= self.terms.max_unacked
            || (self.items.len() == usize::try_from(self.out).unwrap_or_default());
        !idle && !self.next(now, 1).is_empty()
    }

    // ---- what has happened ----

    pub(super) fn push(&mut self, record: Position, item: Item) {
        if self.items.contains_key(&record) {
            return;
        }
        self.bytes += item.bytes;
        self.ready.entry(item.priority).or_default().insert(record);
        self.items.insert(
            record,
            Item {
                place: Place::Ready,
                ..item
            },
        );
    }

    pub(super) fn remove(&mut self, record: Position) -> Option<Item> {
        self.unplace(record);
        let item = self.items.remove(&record)?;
        self.bytes = self.bytes.saturating_sub(item.bytes);
        Some(item)
    }

    /// Takes a message from where it is.
    fn unplace(&mut self, record: Position) {
        let Some(item) = self.items.get_mut(&record) else {
            return;
        };
        match std::mem::replace(&mut item.place, Place::Ready) {
            Place::Ready => {
                if let Some(lane) = self.ready.get_mut(&item.priority) {
                    lane.remove(&record);
                }
            }
            Place::Waiting(until) => {
                self.timers.remove(&(until, record));
            }
            Place::Out(holder) => {
                self.timers.remove(&(holder.until, record));
                self.out -= 1;
            }
        }
    }

    pub(super) fn handed_out(&mut self, holder: Holder, messages: &[HandOut]) {
        for handed in messages {
            self.unplace(handed.record);
            let Some(item) = self.items.get_mut(&handed.record) else {
                continue;
            };
            let lane = lane_of(item.priority);
            if self.credits[lane] == 0 {
                self.credits = SHARES.map(|(_, share)| share);
            }
            self.credits[lane] -= 1;
            item.deliveries = handed.delivery;
            item.place = Place::Out(holder);
            self.timers.insert((holder.until, handed.record));
            self.out += 1;
            self.delivered += 1;
            self.redelivered += u64::from(handed.delivery > 1);
        }
    }

    pub(super) fn acked(&mut self, record: Position) -> bool {
        let known = self.remove(record).is_some();
        self.acked += u64::from(known);
        known
    }

    pub(super) fn extended(&mut self, record: Position, until: Timestamp) {
        if let Some(item) = self.items.get_mut(&record)
            && let Place::Out(holder) = &mut item.place
        {
            self.timers.remove(&(holder.until, record));
            holder.until = until;
            self.timers.insert((until, record));
        }
    }

    pub(super) fn returned(&mut self, back: &Return) {
        self.unplace(back.record);
        let Some(item) = self.items.get_mut(&back.record) else {
            return;
        };
        if item.causes.len() >= CAUSES_MAX {
            item.causes.remove(0);
        }
        item.causes.push(back.cause.clone());
        // Without a pause it stands again where it stood: before everything that was published later.
        if back.not_before <= back.cause.at {
            item.place = Place::Ready;
            self.ready
                .entry(item.priority)
                .or_default()
                .insert(back.record);
        } else {
            item.place = Place::Waiting(back.not_before);
            self.timers.insert((back.not_before, back.record));
        }
    }
}

impl Item {
    /// A message that was never handed out.
    pub fn new(priority: Priority, bytes: u64) -> Self {
        Self {
            priority,
            bytes,
            deliveries: 0,
            forgiven: 0,
            place: Place::Ready,
            causes: Vec::new(),
        }
    }

    /// Whether the delivery that ends now was the last one that it gets.
    pub fn is_spent(&self, terms: &SubscriptionTerms) -> bool {
        self.deliveries.saturating_sub(self.forgiven) >= terms.max_deliver
    }
}

fn lane_of(priority: Priority) -> usize {
    match priority {
        Priority::Critical => 0,
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Low => 3,
    }
}
