//! What agents need of each other: who starts after whom, who waits for what, and what a stop would break. Pure.
//!
//! An agent needs the agents that its manifest names as dependencies of type `agent`. Of those that are `required`, each
//! must serve, in a version that is taken, before an instance of the agent is started; the others only order. Of those of
//! type `service`, each that is required must be registered and active; services have no versions of this kind. Needs that
//! lead back to where they came from cannot be deployed. Where an older version of meshd let them in, agents in such a
//! circle do not wait for each other, because they would for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_messages::AgentId;
use mesh_messages::agent::{FaultState, Lifecycle};
use mesh_messages::dependency::{DependencyGraph, DependencyNode, NeedView, Unmet};
use mesh_messages::manifest::{AgentManifest, Dependency, DependencyType};

use crate::agent::AgentState;

/// What counts of an agent here.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The manifest in force.
    pub manifest: Arc<AgentManifest>,
    /// Whether it is to run.
    pub running: bool,
    /// The state of its fault policy.
    pub fault: FaultState,
    /// Whether one of its instances serves.
    pub ready: bool,
}

impl Node {
    /// An agent as its state shows it; `None` when nothing is registered, or its life is over.
    pub fn of(state: &AgentState) -> Option<Self> {
        if state.stage() >= Lifecycle::Terminated {
            return None;
        }
        Some(Self {
            manifest: Arc::clone(&state.version()?.manifest),
            running: state.running,
            fault: state.fault_state(),
            ready: state.ready().next().is_some(),
        })
    }
}

/// The dependencies of a manifest that are agents.
fn needs(manifest: &AgentManifest) -> impl Iterator<Item = &Dependency> {
    let all = manifest.dependencies.iter();
    all.filter(|need| need.kind == DependencyType::Agent)
}

/// Whether a manifest names other agents at all.
pub fn names_agents(manifest: &AgentManifest) -> bool {
    needs(manifest).next().is_some()
}

/// The dependencies of a manifest that are services.
fn services(manifest: &AgentManifest) -> impl Iterator<Item = &Dependency> {
    let all = manifest.dependencies.iter();
    all.filter(|need| need.kind == DependencyType::Service)
}

/// Whether an agent with this manifest may have to wait for another one, or for a service.
pub fn may_wait(manifest: &AgentManifest) -> bool {
    let mut all = needs(manifest).chain(services(manifest));
    all.any(|need| need.required)
}

/// The services that a manifest has to wait for, by id.
pub fn services_awaited(manifest: &AgentManifest) -> BTreeSet<String> {
    let required = services(manifest).filter(|need| need.required);
    required.map(|need| need.name.clone()).collect()
}

/// Whether an agent with this manifest cannot do without another one.
pub fn requires(manifest: &AgentManifest, agent: &AgentId) -> bool {
    needs(manifest).any(|need| need.required && need.name == agent.as_str())
}

/// The agents that a manifest has to wait for, by name.
pub fn waits_for(manifest: &AgentManifest) -> BTreeSet<String> {
    let required = needs(manifest).filter(|need| need.required);
    required.map(|need| need.name.clone()).collect()
}

/// The services that there are, by id, and what each lacks, in words: nothing where it is active.
pub type Services = BTreeMap<String, Option<ServiceLack>>;

/// Why an agent cannot rely on a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLack {
    /// In words: `is inactive`.
    pub detail: String,
    /// Whether it may come by itself: it is looked at again and again.
    pub coming: bool,
}

/// Agents and what they need of each other and of services. Made of all agents, or of those around one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph(BTreeMap<String, Node>, Arc<Services>);

impl Graph {
    /// The graph of these agents.
    pub fn new(agents: impl IntoIterator<Item = (AgentId, Node)>) -> Self {
        let agents = agents.into_iter();
        let agents = agents.map(|(id, node)| (id.to_string(), node)).collect();
        Self(agents, Arc::default())
    }

    /// The same with the services that there are.
    #[must_use]
    pub fn with_services(mut self, services: Arc<Services>) -> Self {
        self.1 = services;
        self
    }

    /// The graph of an agent with this manifest, and of all that it needs, directly or by way of others.
    pub fn around(manifest: &Arc<AgentManifest>, look: impl Fn(&str) -> Option<Node>) -> Self {
        let own = Node {
            manifest: Arc::clone(manifest),
            running: true,
            fault: FaultState::Running,
            ready: false,
        };
        let mut graph = Self::default();
        let mut open = vec![(manifest.id.to_string(), own)];
        while let Some((id, node)) = open.pop() {
            for need in needs(&node.manifest) {
                let known = *need.name == id || graph.0.contains_key(&need.name);
                if let Some(next) = look(&need.name).filter(|_| !known) {
                    open.push((need.name.clone(), next));
                }
            }
            graph.0.entry(id).or_insert(node);
        }
        graph
    }

    /// What leads from an agent to itself, the shortest way, beginning and ending with it; `None` when nothing does.
    pub fn cycle(&self, agent: &AgentId) -> Option<Vec<AgentId>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut open = VecDeque::from([agent.as_str()]);
        while let Some(at) = open.pop_front() {
            for next in self.needed(at) {
                if next == agent.as_str() {
                    let mut way = vec![agent.clone()];
                    let mut step = Some(at);
                    while let Some(id) = step {
                        way.push(AgentId::new(id).ok()?);
                        step = came_from.get(id).copied();
                    }
                    way.reverse();
                    return Some(way);
                }
                if !came_from.contains_key(next) {
                    came_from.insert(next, at);
                    open.push_back(next);
                }
            }
        }
        None
    }

    /// The agents of the graph that an agent needs itself.
    fn needed(&self, agent: &str) -> impl Iterator<Item = &str> {
        let manifest = self.0.get(agent).map(|node| &*node.manifest);
        let names = manifest.into_iter().flat_map(needs);
        names
            .map(|need| need.name.as_str())
            .filter(|name| self.0.contains_key(*name))
    }

    /// Whether the needs of one agent lead to another.
    fn leads(&self, from: &str, to: &str) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for next in self.needed(at) {
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    /// What an agent lacks before it may start: nothing where all that it requires serves.
    pub fn unmet(&self, agent: &AgentId) -> Vec<Unmet> {
        let manifest = self.0.get(agent.as_str()).map(|node| &node.manifest);
        let required = manifest.into_iter().flat_map(|manifest| needs(manifest));
        let agents = required
            .filter(|need| need.required)
            .filter_map(|need| self.lacks(need))
            .filter(|unmet| !self.leads(&unmet.agent, agent.as_str()));
        let required = manifest.into_iter().flat_map(|manifest| services(manifest));
        let services = required
            .filter(|need| need.required)
            .filter_map(|need| self.lacks_service(need));
        agents.chain(services).collect()
    }

    /// What a dependency on a service lacks.
    fn lacks_service(&self, need: &Dependency) -> Option<Unmet> {
        let (detail, coming) = match self.1.get(&need.name) {
            None => ("is not registered".to_owned(), false),
            Some(lack) => lack.clone().map(|lack| (lack.detail, lack.coming))?,
        };
        Some(Unmet {
            agent: need.name.clone(),
            kind: DependencyType::Service,
            detail,
            coming,
        })
    }

    /// What a dependency on an agent lacks.
    fn lacks(&self, need: &Dependency) -> Option<Unmet> {
        let unmet = |detail: String, coming| {
            let agent = need.name.clone();
            Some(Unmet {
                agent,
                kind: DependencyType::Agent,
                detail,
                coming,
            })
        };
        let Some(node) = self.0.get(&need.name) else {
            return unmet("is not registered".to_owned(), false);
        };
        if !need.takes(&node.manifest.version) {
            let has = &node.manifest.version;
            let text = format!("is version {has}, which {} does not take", need.version);
            return unmet(text, false);
        }
        match node.fault {
            _ if node.ready => None,
            FaultState::Quarantined => unmet("is in quarantine".to_owned(), false),
            FaultState::Terminated => unmet("has ended for good".to_owned(), false),
            _ if !node.running => unmet("is stopped".to_owned(), false),
            FaultState::Stopped => unmet("is stopped after a failure".to_owned(), false),
            FaultState::Running
            | FaultState::Backoff
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Recovering => unmet("is not ready yet".to_owned(), true),
        }
    }

    /// The order in which agents start: each needs only agents of the waves before its own. What circles hold back comes
    /// last, at once.
    pub fn waves(&self) -> Vec<Vec<AgentId>> {
        let mut lacking: BTreeMap<&str, usize> = BTreeMap::new();
        let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for id in self.0.keys() {
            let needed: BTreeSet<&str> = self.needed(id).collect();
            lacking.insert(id, needed.len());
            for name in needed {
                dependents.entry(name).or_default().push(id);
            }
        }
        let mut waves = Vec::new();
        let free = lacking.iter().filter(|(_, lacks)| **lacks == 0);
        let mut wave: Vec<&str> = free.map(|(id, _)| *id).collect();
        while !wave.is_empty() {
            let mut next = Vec::new();
            for id in &wave {
                lacking.remove(id);
                for dependent in dependents.get(id).into_iter().flatten() {
                    if let Some(lacks) = lacking.get_mut(dependent) {
                        *lacks -= 1;
                        if *lacks == 0 {
                            next.push(*dependent);
                        }
                    }
                }
            }
            next.sort_unstable();
            waves.push(ids(&wave));
            wave = next;
        }
        if !lacking.is_empty() {
            let left: Vec<&str> = lacking.into_keys().collect();
            waves.push(ids(&left));
        }
        waves
    }

    /// The agents that cannot do without an agent, directly or by way of others, in the order in which they are stopped:
    /// waves, those that nobody needs first. Only agents that are to run, and only by way of such; who names it as optional
    /// goes on without it.
    pub fn breaks(&self, agent: &AgentId) -> Vec<Vec<AgentId>> {
        let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, node) in self.0.iter().filter(|(_, node)| node.running) {
            for need in needs(&node.manifest).filter(|need| need.required) {
                dependents.entry(&need.name).or_default().push(id);
            }
        }
        // A circle has no first: the agent itself is not among those that need it.
        let mut seen = BTreeSet::from([agent.as_str()]);
        let mut open = vec![agent.as_str()];
        while let Some(at) = open.pop() {
            let found = dependents.remove(at).unwrap_or_default();
            open.extend(found.into_iter().filter(|id| seen.insert(id)));
        }
        seen.remove(agent.as_str());
        if seen.is_empty() {
            return Vec::new();
        }
        let waves = self.waves().into_iter().rev();
        waves
            .map(|mut wave| {
                wave.retain(|id| seen.contains(id.as_str()));
                wave
            })
            .filter(|wave: &Vec<AgentId>| !wave.is_empty())
            .collect()
    }

    /// The registered agents that an agent needs, directly or by way of others, and that are not to run, in the order in
    /// which they are started. What is in quarantine is not started by the way.
    pub fn to_start(&self, agent: &AgentId) -> Vec<AgentId> {
        let stopped = |id: &AgentId| {
            let node = self.0.get(id.as_str());
            id != agent
                && node.is_some_and(|node| !node.running && node.fault != FaultState::Quarantined)
                && self.leads(agent.as_str(), id.as_str())
        };
        self.waves().into_iter().flatten().filter(stopped).collect()
    }

    /// All of it, to be shown.
    pub fn view(&self) -> DependencyGraph {
        let mut dependents: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for id in self.0.keys() {
            for name in self.needed(id) {
                dependents.entry(name).or_default().insert(id);
            }
        }
        let agents = self.0.iter().filter_map(|(name, node)| {
            let id = AgentId::new(name.as_str()).ok()?;
            let by: Vec<&str> = dependents
                .get(name.as_str())
                .into_iter()
                .flatten()
                .copied()
                .collect();
            let waits = node.running && !node.ready;
            Some(DependencyNode {
                version: node.manifest.version.to_string(),
                running: node.running,
                ready: node.ready,
                needs: node
                    .manifest
                    .dependencies
                    .iter()
                    .map(|need| self.shown(need))
                    .collect(),
                needed_by: ids(&by),
                waiting_for: if waits { self.unmet(&id) } else { Vec::new() },
                id,
            })
        });
        DependencyGraph {
            agents: agents.collect(),
            waves: self.waves(),
            cycles: self.cycles(),
        }
    }

    fn shown(&self, need: &Dependency) -> NeedView {
        let (looked, lacks) = match need.kind {
            DependencyType::Agent => (true, self.lacks(need)),
            DependencyType::Service => (true, self.lacks_service(need)),
            DependencyType::Module => (false, None),
        };
        NeedView {
            name: need.name.clone(),
            kind: need.kind,
            version: need.version.clone(),
            required: need.required,
            met: looked.then_some(lacks.is_none()),
            detail: lacks.map(|unmet| unmet.detail),
        }
    }

    /// The circles, one for each group of agents that need each other.
    fn cycles(&self) -> Vec<Vec<AgentId>> {
        let mut told: BTreeSet<AgentId> = BTreeSet::new();
        let mut cycles = Vec::new();
        // What is in no circle is in a wave that needs only earlier ones; only the last one can hold any.
        for id in self.waves().pop().unwrap_or_default() {
            if told.contains(&id) {
                continue;
            }
            if let Some(cycle) = self.cycle(&id) {
                told.extend(cycle.iter().cloned());
                cycles.push(cycle);
            }
        }
        cycles
    }
}

fn ids(names: &[&str]) -> Vec<AgentId> {
    // They are ids that the graph was made of.
    names
        .iter()
        .filter_map(|name| AgentId::new(*name).ok())
        .collect()
}

#[cfg(test)]
mod tests;
