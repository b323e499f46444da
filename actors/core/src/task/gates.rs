//! The gates before providers' accounts, as the task machine uses them.
//!
//! An account is that of the agent which has the attempt, as it announces itself; the machine of one gate is [`crate::gate`].

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::events::TaskEvent;
use mesh_messages::gate::{GateState, ProviderGate};
use mesh_messages::task::WaitingFor;
use mesh_messages::{AgentId, Failure, TaskId};

use super::command::{Answer, Live, Refusal};
use super::index::instance_of;
use super::state::Tasks;
use super::tx::Tx;
use crate::gate::{self, Hit, account_of};
use crate::routing::Fleet;

/// The account that an agent works on.
fn account(fleet: &Fleet, agent: &AgentId) -> String {
    let known = fleet.agent(agent);
    account_of(agent, known.and_then(|agent| agent.account.as_deref()))
}

/// How many attempts are under way on each account that has a gate. Who waits for its children asks no provider.
pub(crate) fn at_work(tasks: &Tasks, live: &Live) -> BTreeMap<String, u32> {
    let mut loads = BTreeMap::new();
    for ((agent, ..), ids) in &tasks.index().in_flight {
        let busy = ids.iter().filter(|id| tasks.is_at_work(id)).count();
        let load: &mut u32 = loads.entry(account(&live.fleet, agent)).or_default();
        *load = load.saturating_add(u32::try_from(busy).unwrap_or(u32::MAX));
    }
    loads
}

impl Tx<'_> {
    fn gate(&mut self, gate: ProviderGate) {
        let (at, task) = (self.ctx.now, gate.task.clone());
        let gate = Box::new(gate);
        self.emit(&task, TaskEvent::Gate { at, gate });
    }

    /// An attempt under way has met the limit of its provider: closes the gate of the account. For what the task waits now.
    pub(crate) fn limit_reached(&mut self, id: &TaskId, failure: &Failure) -> Option<WaitingFor> {
        let attempt = self.tasks.record(id)?.attempt()?;
        let (agent, began_at) = (attempt.agent_id.clone(), attempt.started_at);
        let account = account(&self.live.fleet, &agent);
        let hit = Hit {
            at_work: at_work(self.tasks, self.live)
                .get(&account)
                .copied()
                .unwrap_or(1),
            agent: agent.clone(),
            task: id.clone(),
            began_at,
            retry_after: failure.retry_after_ms.map(Duration::from_millis),
            reason: failure.message.clone(),
            account,
        };
        let random = self.random();
        let held = self.tasks.gates().get(&hit.account);
        if let Some(moved) = gate::hit(held, &hit, self.ctx.now, random) {
            self.gate(moved);
        }
        let gate = self.tasks.gates().get(&hit.account)?;
        Some(gate::waiting_for(gate, vec![agent]))
    }

    /// An attempt under way is about to end well: the gate of its account opens further.
    pub(crate) fn limit_passed(&mut self, id: &TaskId) {
        if self.tasks.gates().is_empty() {
            return;
        }
        let Some(entry) = self.tasks.entry(id) else {
            return;
        };
        let (Some((agent, ..)), Some(attempt)) = (instance_of(entry), entry.record.attempt())
        else {
            return;
        };
        let account = account(&self.live.fleet, &agent);
        let held = self.tasks.gates().get(&account);
        let moved = held.and_then(|held| gate::passed(held, attempt.started_at, self.ctx.now));
        if let Some(moved) = moved {
            self.gate(moved);
        }
    }

    /// Opens further the gates whose time has come.
    pub(crate) fn step_gates(&mut self) {
        while let Some(due) = self.tasks.gates().first_due(self.ctx.now).cloned() {
            if self.is_full() {
                return;
            }
            let random = self.random();
            let Some(moved) = gate::step(&due, self.ctx.now, random) else {
                return;
            };
            self.gate(moved);
        }
    }
}

/// Has one go through now and not at the gate's time; more follow as after every wait.
pub(crate) fn try_now(tx: &mut Tx<'_>, account: String) -> Result<Answer, Refusal> {
    let Some(held) = tx.tasks.gates().get(&account) else {
        return Err(Refusal::NoGate(account));
    };
    let mut shown = held.clone();
    if held.state == GateState::Closed {
        let due = ProviderGate {
            until: tx.ctx.now,
            ..shown.clone()
        };
        let random = tx.random();
        if let Some(moved) = gate::step(&due, tx.ctx.now, random) {
            shown = moved.clone();
            tx.gate(moved);
        }
    }
    tx.settle();
    Ok(Answer::Gate(Box::new(shown)))
}

/// Why a gate lets nobody on this account through now; `None` when it does.
pub(crate) fn barred(gate: &ProviderGate, at_work: u32) -> Option<String> {
    match gate.state {
        GateState::Open => None,
        GateState::Ramping if at_work < gate.permits => None,
        GateState::Ramping => Some(format!(
            "the limit of {} was reached, and it is tried again {} at a time",
            gate.account, gate.permits
        )),
        GateState::Closed => Some(format!(
            "the limit of {} was reached; nobody is let through until {}",
            gate.account, gate.until
        )),
    }
}
