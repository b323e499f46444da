//! The tree of actors: real supervisors over simulated children.
//!
//! A child is a *node*. What a supervisor wants done is done to its node after a while, or is not, and what becomes of
//! it is told to the supervisor as an input; everything goes through the queue, as it goes through mailboxes.

mod ends;
mod requests;
mod starts;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_supervision_core::Timestamp;
use mesh_supervision_core::supervisor::{
    ChildId, Effect, Incarnation, Input, RequestId, Supervisor,
};

use super::forest::{Group, Part, Recipe, mesh};
use super::{Event, World};
use crate::checkers::supervision::SupervisionCheck;
use crate::checkers::{Verdict, breach};

/// One actor, by the order in which they were made. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u64);

/// Where a node hangs.
type Place = (NodeId, ChildId, Incarnation);

/// Everything in the tree happens on this grid of milliseconds, so that things do happen at the same time.
const GRID: u64 = 100;
/// How long a start may take before it is given up.
const START_LIMIT: u64 = 3000;

#[derive(Debug)]
pub(crate) struct Node {
    parent: Option<Place>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Worker { part: Option<Part>, up: bool },
    Supervisor(Box<Boss>),
}

#[derive(Debug)]
pub(crate) struct Boss {
    pub(crate) machine: Supervisor,
    check: SupervisionCheck,
    recipes: BTreeMap<ChildId, Recipe>,
    /// What requests bring with them, until they are adopted.
    brought: BTreeMap<(RequestId, ChildId), Recipe>,
    kids: BTreeMap<(ChildId, Incarnation), NodeId>,
    booted: bool,
    requests: u64,
}

/// All actors of one life of meshd.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) root: Option<NodeId>,
    last: u64,
    /// Where the parts are, also while they start.
    pub(crate) parts: BTreeMap<Part, NodeId>,
}

impl Tree {
    fn insert(&mut self, node: Node) -> NodeId {
        self.last += 1;
        let id = NodeId(self.last);
        self.nodes.insert(id, node);
        id
    }

    /// Everything below a node, deepest last, and the node itself first.
    fn below(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut at = 0;
        while let Some(next) = found.get(at).copied() {
            at += 1;
            if let Some(Node {
                body: Body::Supervisor(boss),
                ..
            }) = self.nodes.get(&next)
            {
                found.extend(boss.kids.values().copied());
            }
        }
        found
    }

    /// The supervisors that are there.
    pub(crate) fn bosses(&self) -> Vec<NodeId> {
        let of =
            |(id, node): (&NodeId, &Node)| matches!(node.body, Body::Supervisor(_)).then_some(*id);
        self.nodes.iter().filter_map(of).collect()
    }

    /// The workers that are up and no part of meshd.
    pub(crate) fn workers(&self) -> Vec<NodeId> {
        let of = |(id, node): (&NodeId, &Node)| {
            let free = matches!(
                node.body,
                Body::Worker {
                    part: None,
                    up: true
                }
            );
            free.then_some(*id)
        };
        self.nodes.iter().filter_map(of).collect()
    }

    fn boss(&self, id: NodeId) -> Option<&Boss> {
        match &self.nodes.get(&id)?.body {
            Body::Supervisor(boss) => Some(boss),
            Body::Worker { .. } => None,
        }
    }

    fn boss_mut(&mut self, id: NodeId) -> Option<&mut Boss> {
        match &mut self.nodes.get_mut(&id)?.body {
            Body::Supervisor(boss) => Some(boss),
            Body::Worker { .. } => None,
        }
    }

    /// The supervisor of the agents' actors, if it is up.
    fn agents(&self) -> Option<NodeId> {
        let root = self.boss(self.root?)?;
        let find = |boss: &Boss, name: &str| {
            boss.kids
                .iter()
                .find(|((id, _), _)| id.as_str() == name)
                .map(|(_, node)| *node)
        };
        let work = self.boss(find(root, "work")?)?;
        let agents = find(work, "agents")?;
        self.boss(agents).filter(|boss| boss.booted)?;
        Some(agents)
    }
}

/// How a start comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Up,
    Ignored,
    Failed,
}

impl World {
    /// Starts a life of meshd.
    pub(crate) fn plant(&mut self) -> Verdict {
        self.tree = Tree::default();
        // The forest is the same in every life.
        let mut random = crate::random::Random::new(self.seed);
        let root = Arc::new(mesh(&mut random));
        let id = self.grow(None, &root)?;
        self.tree.root = Some(id);
        self.tell(id, Input::Boot)
    }

    fn grow(&mut self, parent: Option<Place>, group: &Arc<Group>) -> Result<NodeId, crate::Breach> {
        let specs: Vec<_> = group
            .children
            .iter()
            .map(|(spec, _)| spec.clone())
            .collect();
        let check = SupervisionCheck::new(group.flags, &specs);
        let machine = match Supervisor::new(group.flags, specs) {
            Ok(machine) => machine,
            Err(error) => {
                breach("the simulation", format!("a group is wrong: {error}"))?;
                unreachable!("a breach is an error")
            }
        };
        let recipes = group.children.iter();
        let recipes = recipes
            .map(|(spec, recipe)| (spec.id.clone(), recipe.clone()))
            .collect();
        let boss = Boss {
            machine,
            check,
            recipes,
            brought: BTreeMap::new(),
            kids: BTreeMap::new(),
            booted: false,
            requests: 0,
        };
        let body = Body::Supervisor(Box::new(boss));
        Ok(self.tree.insert(Node { parent, body }))
    }

    /// Gives a supervisor an input now.
    pub(crate) fn tell(&mut self, id: NodeId, input: Input) -> Verdict {
        let now = Timestamp::from_millis(self.now);
        let Some(boss) = self.tree.boss_mut(id) else {
            return Ok(());
        };
        self.trace
            .note(self.now, format_args!("sup {} <- {input:?}", id.0));
        boss.check.before(now, &input, &mut self.edges);
        let mut effects = Vec::new();
        boss.machine.step(now, input, &mut effects);
        for effect in &effects {
            boss.check.effect(effect, &mut self.edges)?;
        }
        boss.check.after(&boss.machine)?;
        for effect in effects {
            self.obey(id, effect)?;
        }
        Ok(())
    }

    fn soon(&mut self) -> u64 {
        // Most messages arrive at once, some only after others were sent.
        let late = if self.random.percent(15) {
            self.random.between(1, 4) * GRID
        } else {
            0
        };
        self.now + late
    }

    /// Sends a supervisor an input.
    fn send(&mut self, to: NodeId, from: u64, input: Input) {
        let at = self.soon();
        let event = Event::Supervisor { node: to, input };
        self.queue.in_lane((from, to.0), at, event);
    }

    /// Does what a supervisor wants.
    fn obey(&mut self, id: NodeId, effect: Effect) -> Verdict {
        match effect {
            Effect::Report(_) => Ok(()),
            Effect::Start { child, incarnation } => self.start_child(id, child, incarnation),
            Effect::Stop {
                child,
                incarnation,
                deadline,
            } => {
                self.stop_child(id, &child, incarnation, deadline);
                Ok(())
            }
            Effect::Kill { child, incarnation } => {
                let kid = self.kid(id, &child, incarnation);
                kid.map_or(Ok(()), |kid| self.kill_node(kid))
            }
            Effect::ArmLimit {
                child,
                incarnation,
                limit,
                at,
            } => {
                // Timers are never early; some are late, and none is taken back.
                let late = u64::from(self.random.percent(10)) * GRID;
                let at = at.as_millis().max(self.now) + late;
                let input = Input::LimitReached {
                    child,
                    incarnation,
                    limit,
                };
                self.queue.at(at, Event::Supervisor { node: id, input });
                Ok(())
            }
            Effect::RetryStart { child, incarnation } => {
                let input = Input::RetryStart { child, incarnation };
                // Not at once, or a start that always fails would stop the clock.
                let at = self.now + u64::from(self.random.percent(50)) * GRID;
                self.queue.at(at, Event::Supervisor { node: id, input });
                Ok(())
            }
            Effect::Forget { child } => {
                if let Some(boss) = self.tree.boss_mut(id) {
                    boss.recipes.remove(&child);
                }
                Ok(())
            }
            Effect::Adopt { request, child } => {
                if let Some(boss) = self.tree.boss_mut(id)
                    && let Some(recipe) = boss.brought.remove(&(request, child.clone()))
                {
                    boss.recipes.insert(child, recipe);
                }
                Ok(())
            }
            Effect::Ready => {
                self.booted(id);
                Ok(())
            }
            // Whether there is one more actor or not: whoever waits for all of them need not wait for this one.
            Effect::Reply { id: request, .. } => {
                if self.tree.agents() == Some(id) {
                    self.agent_added(request);
                }
                Ok(())
            }
            Effect::End(end) => self.boss_ended(id, end),
        }
    }

    fn kid(&self, boss: NodeId, child: &ChildId, incarnation: Incarnation) -> Option<NodeId> {
        let boss = self.tree.boss(boss)?;
        boss.kids.get(&(child.clone(), incarnation)).copied()
    }

    /// All children of a supervisor are up, so it is.
    fn booted(&mut self, id: NodeId) {
        if let Some(boss) = self.tree.boss_mut(id) {
            boss.booted = true;
        }
        self.tried(id, Tried::Up);
        if self.tree.agents() == Some(id) {
            self.agents_up();
        }
    }
}
