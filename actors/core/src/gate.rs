//! The gate before a provider's account, as a machine of its own.
//!
//! ```text
//!            a limit is reached                 its time has come
//!   Open ───────────────────────► Closed(until) ─────────────────► Ramping(1 permit)
//!    ▲                              ▲   │ later refusals of what was      │   │
//!    │                              │   └─ under way may put it off       │   │ a success: one permit more
//!    │                              └──── a limit is reached ─────────────┤   │ a step's time: twice as many
//!    └──────── more permits than there were attempts under way ───────────┴───┘
//! ```
//!
//! There is one clock per account, so a fleet that shares one waits once and together, not each agent by itself. What the
//! provider says of the time is believed within bounds; one who was wrong is asked again more and more seldom. The first
//! attempt after a wait goes alone: if the limit still holds, it costs one refusal and not one per agent. Then the number of
//! attempts doubles at each step, since a long attempt may not show for a while that the limit is gone.
//!
//! All of it is a function of what was recorded, the time and random bits; [`Gates`] only keeps what was decided.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::gate::{GATE_REASON_BYTES_MAX, GateState, ProviderGate};
use mesh_messages::task::{WaitReason, WaitingFor};
use mesh_messages::{AgentId, Position, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::task::below;
use crate::trail::Trail;

/// Shortest wait that a provider is believed: less is no wait, and would make a loop of it.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest wait that a provider is believed. A limit per day ends without one try per hour doing harm, and nobody's typing
/// error of three zeros too many stops a fleet for a month.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// The first wait when the provider names none; it doubles with each closing in a row.
pub const GATE_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait when the provider names none, or was wrong before.
pub const GATE_PAUSE_MAX: Duration = Duration::from_mins(10);
/// Largest random addition to a wait, so that accounts that closed together do not open together.
pub const GATE_SPREAD_MAX: Duration = Duration::from_secs(5);
/// How long one step of the opening lasts at least and, doubled, at most: long enough for a refusal to come back.
pub const RAMP_STEP: Duration = Duration::from_secs(5);

/// A provider's limit was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Whose limit.
    pub account: String,
    /// The agent that says so.
    pub agent: AgentId,
    /// Its task.
    pub task: TaskId,
    /// When its attempt began.
    pub began_at: Timestamp,
    /// For how long nobody need try, as the provider says.
    pub retry_after: Option<Duration>,
    /// What the provider says.
    pub reason: String,
    /// Attempts under way on the account, this one included.
    pub at_work: u32,
}

/// What becomes of a gate when a limit is reached; `None` when that changes nothing.
pub fn hit(
    held: Option<&ProviderGate>,
    hit: &Hit,
    now: Timestamp,
    random: u64,
) -> Option<ProviderGate> {
    let strikes = match held {
        // What began before the gate last moved tells nothing new of it.
        Some(gate) if gate.state == GateState::Closed || hit.began_at < gate.since => gate.strikes,
        Some(gate) => gate.strikes.saturating_add(1),
        None => 1,
    };
    let pause = pause(strikes, hit.retry_after);
    let until = now
        .plus(pause)
        .plus(below((pause / 4).min(GATE_SPREAD_MAX), random));
    if let Some(gate) = held.filter(|gate| gate.state == GateState::Closed) {
        // One of those that were under way when it closed. Only what is clearly later counts, or each would be recorded.
        let later = hit.retry_after.is_some() && until > gate.until.plus(GATE_SPREAD_MAX);
        return later.then(|| ProviderGate {
            until,
            ..gate.clone()
        });
    }
    Some(ProviderGate {
        account: hit.account.clone(),
        state: GateState::Closed,
        reason: shortened(&hit.reason),
        agent: hit.agent.clone(),
        task: hit.task.clone(),
        since: now,
        until,
        strikes,
        permits: 0,
        peak: held.map_or(0, |gate| gate.peak).max(hit.at_work),
    })
}

/// How long nobody passes. A provider that was wrong before is not believed to be faster than its record.
fn pause(strikes: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = |times: u32| {
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        GATE_PAUSE.saturating_mul(factor).min(GATE_PAUSE_MAX)
    };
    match retry_after.map(|said| said.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)) {
        Some(said) if strikes <= 1 => said,
        Some(said) => said.max(doubled(strikes - 2)),
        None => doubled(strikes.saturating_sub(1)),
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(GATE_REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// What becomes of a gate whose time has come; `None` while it has not.
pub fn step(gate: &ProviderGate, now: Timestamp, random: u64) -> Option<ProviderGate> {
    if gate.until > now {
        return None;
    }
    let until = now.plus(RAMP_STEP).plus(below(RAMP_STEP, random));
    match gate.state {
        GateState::Closed => Some(ProviderGate {
            state: GateState::Ramping,
            since: now,
            until,
            permits: 1,
            ..gate.clone()
        }),
        GateState::Ramping => Some(widened(
            gate,
            gate.permits.saturating_mul(2).max(1),
            now,
            until,
        )),
        GateState::Open => None,
    }
}

/// What becomes of a gate when an attempt that began at that time went well; `None` when that changes nothing.
pub fn passed(gate: &ProviderGate, began_at: Timestamp, now: Timestamp) -> Option<ProviderGate> {
    let tells = gate.state == GateState::Ramping && began_at >= gate.since;
    tells.then(|| widened(gate, gate.permits.saturating_add(1), now, gate.until))
}

fn widened(gate: &ProviderGate, permits: u32, now: Timestamp, until: Timestamp) -> ProviderGate {
    let open = permits > gate.peak;
    ProviderGate {
        state: if open {
            GateState::Open
        } else {
            GateState::Ramping
        },
        since: if open { now } else { gate.since },
        until: if open { now } else { until },
        permits,
        ..gate.clone()
    }
}

/// For what those wait whom a gate holds up.
pub fn waiting_for(gate: &ProviderGate, agents: Vec<AgentId>) -> WaitingFor {
    let said = if gate.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", gate.reason)
    };
    let detail = match gate.state {
        GateState::Closed => format!(
            "the limit of {} was reached{said}; nobody is let through until {}",
            gate.account, gate.until
        ),
        GateState::Ramping | GateState::Open => format!(
            "the limit of {} was reached{said}; it is tried again, {} at a time",
            gate.account, gate.permits
        ),
    };
    WaitingFor {
        reason: WaitReason::Quota,
        detail,
        until: Some(gate.until),
        agents,
        tasks: Vec::new(),
    }
}

/// A gate that is not open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shut {
    gate: ProviderGate,
    /// Its last record, and the request that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trail: Option<Trail>,
}

/// All gates that are not open. An account without one is not held up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gates(BTreeMap<String, Shut>);

impl Gates {
    /// Takes in where a gate stands.
    pub fn put(&mut self, gate: &ProviderGate) {
        if gate.state == GateState::Open {
            self.0.remove(&gate.account);
            return;
        }
        let gate = gate.clone();
        let before = self.0.remove(&gate.account);
        let trail = before.and_then(|held| held.trail.filter(|_| held.gate.task == gate.task));
        self.0.insert(gate.account.clone(), Shut { gate, trail });
    }

    /// Notes where in the log the last record of a task stands that ran into a limit.
    pub fn note(&mut self, task: &TaskId, position: Position, correlation: Option<&str>) {
        for held in self.0.values_mut().filter(|held| held.gate.task == *task) {
            Trail::advance(&mut held.trail, position, correlation);
        }
    }

    /// Where the log stands with a task that ran into a limit.
    pub fn trail(&self, task: &TaskId) -> Option<&Trail> {
        let held = self.0.values().find(|held| held.gate.task == *task);
        held.and_then(|held| held.trail.as_ref())
    }

    /// The gate of an account, unless it is open.
    pub fn get(&self, account: &str) -> Option<&ProviderGate> {
        self.0.get(account).map(|held| &held.gate)
    }

    /// The gate that holds an agent up, if one does.
    pub fn held_up(&self, agent: &AgentId, provider: Option<&str>) -> Option<&ProviderGate> {
        if self.is_empty() {
            return None;
        }
        self.get(&account_of(agent, provider))
    }

    /// All that are not open, by account.
    pub fn all(&self) -> impl Iterator<Item = &ProviderGate> {
        self.0.values().map(|held| &held.gate)
    }

    /// Whether all are open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next of them takes a step by itself.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.all().map(|gate| gate.until).min()
    }

    /// One whose time has come.
    pub fn first_due(&self, now: Timestamp) -> Option<&ProviderGate> {
        self.all().find(|gate| gate.until <= now)
    }
}

/// The account that an agent's work is counted on: the provider's that its manifest names, or one of its own.
pub fn account_of(agent: &AgentId, provider: Option<&str>) -> String {
    provider.map_or_else(
        || format!("agent:{agent}"),
        |name| format!("provider:{name}"),
    )
}

#[cfg(test)]
mod tests;
