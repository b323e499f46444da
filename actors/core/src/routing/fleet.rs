//! The agents and instances that exist right now, as their actors announce them. Volatile: never journalled.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::agent::FaultState;
use mesh_messages::budget::{AccountBudget, Money};
use mesh_messages::gate::ProviderGate;
use mesh_messages::task::{WaitReason, WaitingFor};
use mesh_messages::trust::Misdeed;
use mesh_messages::{AgentId, Epoch, InstanceNo, Timestamp};

use crate::gate::{self, Gates};

/// One incarnation of one replica.
pub type InstanceKey = (AgentId, InstanceNo, Epoch);

/// One replica that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetInstance {
    /// Its incarnation.
    pub epoch: Epoch,
    /// Tasks that it may have in flight.
    pub concurrency: u32,
    /// Why it takes no work (it drains, say); `None` when it does.
    pub closed: Option<String>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetAgent {
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// Where its fault policy stands.
    pub fault: FaultState,
    /// Why it stands there.
    pub reason: Option<String>,
    /// When its next start is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether it was told to take no work.
    pub paused: bool,
    /// The provider's account that its manifest names.
    pub account: Option<String>,
    /// What it may use up itself within each window of time.
    pub limits: Option<AccountBudget>,
    /// The team that its manifest names.
    pub team: Option<String>,
    /// What one task costs, by capability, as it declares.
    pub prices: BTreeMap<String, Money>,
    /// Milliseconds that an attempt may take, by capability, as it declares.
    pub times: BTreeMap<String, u64>,
    /// The replicas that serve.
    pub instances: BTreeMap<InstanceNo, FleetInstance>,
    /// Digest of the version in force.
    pub digest: Option<String>,
    /// What it did against the rules lately, oldest first.
    pub misdeeds: Vec<Misdeed>,
}

/// What an agent's fault policy and orders let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// As much as its instances take.
    Free,
    /// One task at a time over all its instances: it is on probation.
    Permit,
    /// Nothing: breaker open, or quarantined.
    Broken,
    /// Nothing: stopped, terminated or paused.
    Down,
}

impl FleetAgent {
    /// How long an attempt at what needs these capabilities may take as it declares: the shortest of what it says of them.
    pub fn time_for(&self, needs: &[String]) -> Option<u64> {
        needs
            .iter()
            .filter_map(|need| self.times.get(need))
            .min()
            .copied()
    }

    /// What it lets through.
    pub fn gate(&self) -> Gate {
        if self.paused {
            return Gate::Down;
        }
        match self.fault {
            FaultState::Running | FaultState::Backoff => Gate::Free,
            FaultState::HalfOpen | FaultState::Recovering => Gate::Permit,
            FaultState::Open | FaultState::Quarantined => Gate::Broken,
            FaultState::Stopped | FaultState::Terminated => Gate::Down,
        }
    }

    /// Its condition in words, such as `breaker open: 4 crashes in 60 s`.
    pub fn condition(&self) -> String {
        let state = match self.fault {
            FaultState::Running if self.paused => "paused",
            FaultState::Running if self.instances.is_empty() => "starting",
            FaultState::Running => "running",
            FaultState::Backoff => "restarting",
            FaultState::Open => "breaker open",
            FaultState::HalfOpen => "on probation after its breaker",
            FaultState::Quarantined => "quarantined",
            FaultState::Recovering => "recovering from quarantine",
            FaultState::Stopped => "stopped",
            FaultState::Terminated => "terminated",
        };
        match &self.reason {
            Some(reason) => format!("{state}: {reason}"),
            None => state.to_owned(),
        }
    }
}

/// What tasks with the same needs can expect of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// A slot will come free, or an agent is about to be up.
    Soon,
    /// Nothing will happen until the fleet changes.
    Parked(WaitingFor),
}

/// All agents of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    complete: bool,
    agents: BTreeMap<AgentId, FleetAgent>,
    // Invariant: exactly the capabilities of `agents`.
    by_capability: BTreeMap<String, BTreeSet<AgentId>>,
}

impl Fleet {
    /// Whether every registered agent was announced. Before, the absence of an agent says nothing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// States that every registered agent was announced.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Takes an agent's condition in.
    pub fn put(&mut self, id: AgentId, agent: FleetAgent) {
        self.remove(&id);
        for capability in &agent.capabilities {
            self.by_capability
                .entry(capability.clone())
                .or_default()
                .insert(id.clone());
        }
        self.agents.insert(id, agent);
    }

    /// Forgets an agent.
    pub fn remove(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.remove(id) else {
            return;
        };
        for capability in &agent.capabilities {
            if let Some(agents) = self.by_capability.get_mut(capability) {
                agents.remove(id);
                if agents.is_empty() {
                    self.by_capability.remove(capability);
                }
            }
        }
    }

    /// Forgets one incarnation of a replica, unless a later one has taken its place.
    pub fn remove_instance(&mut self, (agent, instance, epoch): &InstanceKey) {
        if let Some(agent) = self.agents.get_mut(agent)
            && agent
                .instances
                .get(instance)
                .is_some_and(|i| i.epoch == *epoch)
        {
            agent.instances.remove(instance);
        }
    }

    /// One agent.
    pub fn agent(&self, id: &AgentId) -> Option<&FleetAgent> {
        self.agents.get(id)
    }

    /// All agents, by id.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentId, &FleetAgent)> {
        self.agents.iter()
    }

    /// Whether this very incarnation serves.
    pub fn has_instance(&self, (agent, instance, epoch): &InstanceKey) -> bool {
        self.agents
            .get(agent)
            .and_then(|a| a.instances.get(instance))
            .is_some_and(|i| i.epoch == *epoch)
    }

    /// The agents that have this capability, by id.
    pub fn having(&self, capability: &str) -> impl Iterator<Item = &AgentId> {
        self.by_capability.get(capability).into_iter().flatten()
    }

    /// The agents that have all of `needs`, by id; only `only`, when it is named.
    pub fn capable<'a>(
        &'a self,
        needs: &'a [String],
        only: Option<&'a AgentId>,
    ) -> impl Iterator<Item = (&'a AgentId, &'a FleetAgent)> {
        let rarest = needs
            .iter()
            .map(|need| self.by_capability.get(need))
            .min_by_key(|agents| agents.map_or(0, BTreeSet::len))
            .flatten();
        // One that is named is looked up, so that it makes no difference how many others there are.
        // What needs nothing goes to nobody, unless it is for one that is named.
        let named =
            only.filter(|id| needs.is_empty() || rarest.is_some_and(|agents| agents.contains(*id)));
        let all = rarest.filter(|_| only.is_none());
        named
            .into_iter()
            .chain(all.into_iter().flatten())
            .filter_map(|id| self.agents.get(id).map(|agent| (id, agent)))
            .filter(move |(_, agent)| needs.iter().all(|need| agent.capabilities.contains(need)))
    }

    /// What tasks with these needs can expect.
    ///
    /// An agent that restarts within its backoff counts as about to be up: parking for so short a time would only
    /// fill the journal.
    pub fn outlook(&self, needs: &[String], only: Option<&AgentId>, gates: &Gates) -> Outlook {
        self.outlook_among(needs, only, gates, &|_| true)
    }

    /// The same if only some agents may have them.
    pub fn outlook_among(
        &self,
        needs: &[String],
        only: Option<&AgentId>,
        gates: &Gates,
        may: &dyn Fn(&AgentId) -> bool,
    ) -> Outlook {
        if !self.complete {
            return Outlook::Soon;
        }
        let (mut down, mut broken, mut until) = (Vec::new(), Vec::new(), None::<Timestamp>);
        let mut gated: Option<(&ProviderGate, Vec<AgentId>)> = None;
        for (id, agent) in self.capable(needs, only).filter(|(id, _)| may(id)) {
            let held_up = gates.held_up(id, agent.account.as_deref());
            match agent.gate() {
                Gate::Free | Gate::Permit if held_up.is_some() => {
                    let Some(gate) = held_up else { continue };
                    let (first, agents) = gated.get_or_insert_with(|| (gate, Vec::new()));
                    if gate.until < first.until {
                        *first = gate;
                    }
                    if agents.len() < AGENTS_NAMED_MAX {
                        agents.push(id.clone());
                    }
                }
                Gate::Free | Gate::Permit => return Outlook::Soon,
                Gate::Broken => {
                    broken.push((id, agent));
                    until = match (until, agent.next_attempt_at) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                }
                Gate::Down => down.push((id, agent)),
            }
        }
        // It is the one wait that ends by itself.
        if let Some((gate, agents)) = gated {
            return Outlook::Parked(gate::waiting_for(gate, agents));
        }
        let (reason, who) = match (broken.is_empty(), down.is_empty()) {
            (false, _) => (WaitReason::Breaker, broken),
            (true, false) => (WaitReason::AgentDown, down),
            (true, true) => return Outlook::Parked(self.no_agent(needs, only)),
        };
        Outlook::Parked(WaitingFor {
            until,
            ..waiting_for_agents(reason, &who)
        })
    }
}

impl Fleet {
    fn no_agent(&self, needs: &[String], only: Option<&AgentId>) -> WaitingFor {
        let detail = match only {
            Some(only) => format!(
                "only {only} may have it, which is not registered or does not have {}",
                needs.join(", ")
            ),
            None => format!(
                "no registered agent has {}{}",
                needs.join(", "),
                self.team_for(needs)
            ),
        };
        WaitingFor {
            reason: WaitReason::NoAgent,
            detail,
            until: None,
            agents: Vec::new(),
            tasks: Vec::new(),
        }
    }

    /// Who has several needs between them, or which of the needs nobody has.
    fn team_for(&self, needs: &[String]) -> String {
        if needs.len() < 2 {
            return String::new();
        }
        let has = |need: &String| self.by_capability.get(need).and_then(|all| all.first());
        let missing: Vec<_> = needs.iter().filter(|need| has(need).is_none()).collect();
        if missing.len() == needs.len() {
            return String::new();
        }
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().map(String::as_str).collect();
            return format!(" together; nobody has {}", missing.join(", "));
        }
        let each: Vec<_> = needs
            .iter()
            .take(AGENTS_NAMED_MAX)
            .filter_map(|need| has(need).map(|agent| format!("{agent} has {need}")))
            .collect();
        format!(
            " together; a team can do it (`meshctl plan create --team`): {}",
            each.join(", ")
        )
    }
}

/// Agents named in one explanation: more would not be read.
const AGENTS_NAMED_MAX: usize = 8;

/// A wait for agents, each named with its condition.
pub(super) fn waiting_for_agents(
    reason: WaitReason,
    who: &[(&AgentId, &FleetAgent)],
) -> WaitingFor {
    let named = &who[..who.len().min(AGENTS_NAMED_MAX)];
    let mut detail: Vec<_> = named
        .iter()
        .map(|(id, agent)| format!("{id} is {}", agent.condition()))
        .collect();
    if who.len() > named.len() {
        detail.push(format!("and {} more", who.len() - named.len()));
    }
    WaitingFor {
        reason,
        detail: detail.join("; "),
        until: None,
        agents: named.iter().map(|(id, _)| (*id).clone()).collect(),
        tasks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    fn agent(fault: FaultState, capabilities: &[&str]) -> FleetAgent {
        FleetAgent {
            capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
            fault,
            ..FleetAgent::default()
        }
    }

    fn needs(of: &[&str]) -> Vec<String> {
        of.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn capable_agents_have_every_need() {
        let mut fleet = Fleet::default();
        fleet.put(id("a"), agent(FaultState::Running, &["x", "y"]));
        fleet.put(id("b"), agent(FaultState::Running, &["x"]));
        fleet.put(id("c"), agent(FaultState::Running, &["y", "x", "z"]));
        let found = |of: &[&str], only: Option<&AgentId>| {
            let needs = needs(of);
            fleet
                .capable(&needs, only)
                .map(|(id, _)| id.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&["x", "y"], None), ["a", "c"]);
        assert_eq!(found(&["x", "y"], Some(&id("c"))), ["c"]);
        assert_eq!(found(&["x", "nobody"], None), [""; 0]);
        assert_eq!(found(&[], None), [""; 0]);
        assert_eq!(found(&[], Some(&id("b"))), ["b"]);
        assert_eq!(found(&[], Some(&id("d"))), [""; 0]);
    }

    #[test]
    fn a_changed_agent_loses_its_old_capabilities() {
        let mut fleet = Fleet::default();
        fleet.put(id("a"), agent(FaultState::Running, &["x"]));
        fleet.put(id("a"), agent(FaultState::Running, &["y"]));
        assert_eq!(fleet.capable(&needs(&["x"]), None).count(), 0);
        assert_eq!(fleet.capable(&needs(&["y"]), None).count(), 1);
        fleet.remove(&id("a"));
        assert_eq!(fleet, Fleet::default());
    }

    #[test]
    fn the_outlook_names_the_worst_reason_that_a_wait_can_have() {
        let reason = |agents: &[(&str, FleetAgent)]| {
            let mut fleet = Fleet::default();
            fleet.set_complete();
            for (name, agent) in agents {
                fleet.put(id(name), agent.clone());
            }
            match fleet.outlook(&needs(&["x"]), None, &Gates::default()) {
                Outlook::Soon => None,
                Outlook::Parked(waiting) => Some(waiting.reason),
            }
        };
        let of = |fault| agent(fault, &["x"]);
        let paused = FleetAgent {
            paused: true,
            ..of(FaultState::Running)
        };
        assert_eq!(reason(&[]), Some(WaitReason::NoAgent));
        assert_eq!(
            reason(&[("a", of(FaultState::Stopped))]),
            Some(WaitReason::AgentDown)
        );
        assert_eq!(reason(&[("a", paused)]), Some(WaitReason::AgentDown));
        assert_eq!(
            reason(&[("a", of(FaultState::Stopped)), ("b", of(FaultState::Open))]),
            Some(WaitReason::Breaker)
        );
        assert_eq!(
            reason(&[("a", of(FaultState::Open)), ("b", of(FaultState::Backoff))]),
            None
        );
        assert_eq!(reason(&[("a", of(FaultState::Recovering))]), None);
    }

    #[test]
    fn who_could_do_it_together_is_told_or_what_nobody_can() {
        let mut fleet = Fleet::default();
        fleet.put(id("ann"), agent(FaultState::Running, &["research"]));
        fleet.put(id("bob"), agent(FaultState::Running, &["write"]));
        fleet.set_complete();
        let detail = |list: &[&str]| match fleet.outlook(&needs(list), None, &Gates::default()) {
            Outlook::Parked(waiting_for) => waiting_for.detail,
            Outlook::Soon => String::new(),
        };
        assert_eq!(
            detail(&["research", "write"]),
            "no registered agent has research, write together; a team can do it \
             (`meshctl plan create --team`): ann has research, bob has write"
        );
        assert_eq!(
            detail(&["research", "fly"]),
            "no registered agent has research, fly together; nobody has fly"
        );
        assert_eq!(
            detail(&["fly", "dive"]),
            "no registered agent has fly, dive"
        );
    }

    #[test]
    fn before_all_agents_are_announced_nothing_parks() {
        assert_eq!(
            Fleet::default().outlook(&needs(&["x"]), None, &Gates::default()),
            Outlook::Soon
        );
    }
}
