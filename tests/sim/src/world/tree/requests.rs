//! What is asked of supervisors while they run.

use mesh_supervision_core::supervisor::{ChildId, ChildSpec, Input, Request, RequestId};

use super::{Body, NodeId};
use crate::world::forest::{Part, Recipe, worker_spec};
use crate::world::{Event, World};

impl World {
    /// Asks something of a supervisor.
    pub(crate) fn request(
        &mut self,
        id: NodeId,
        request: Request,
        recipe: Option<Recipe>,
    ) -> Option<RequestId> {
        let boss = self.tree.boss_mut(id)?;
        boss.requests += 1;
        let number = RequestId(boss.requests);
        let new: Vec<ChildId> = match &request {
            Request::Add { spec } => vec![spec.id.clone()],
            Request::Change { specs, .. } => specs.iter().map(|spec| spec.id.clone()).collect(),
            _ => Vec::new(),
        };
        for child in new {
            let known = boss.recipes.get(&child).cloned();
            let recipe = recipe.clone().or(known).unwrap_or(Recipe::Worker);
            boss.brought.insert((number, child), recipe);
        }
        let input = Input::Request {
            id: number,
            request,
        };
        self.queue
            .at(self.now, Event::Supervisor { node: id, input });
        Some(number)
    }

    /// Asks for the actor of an agent.
    pub(crate) fn want_agent(&mut self, agent: usize) -> Option<RequestId> {
        let boss = self.tree.agents()?;
        let spec = ChildSpec::worker(format!("agent:{agent}"));
        let recipe = Recipe::Part(Part::Agent(agent));
        self.request(boss, Request::Add { spec }, Some(recipe))
    }

    /// Asks for something at random of a supervisor of workers.
    pub(crate) fn meddle(&mut self, id: NodeId) {
        let Some(boss) = self.tree.boss(id) else {
            return;
        };
        let flags = *boss.machine.flags();
        let ids: Vec<_> = boss
            .machine
            .children()
            .map(|view| view.spec.clone())
            .collect();
        let workers = boss
            .recipes
            .values()
            .all(|recipe| matches!(recipe, Recipe::Worker));
        let spec = self.random.pick(&ids).cloned();
        let child = spec.map_or_else(|| ChildId::from("nobody"), |spec| spec.id);
        let request = match self.random.between(0, 7) {
            0 | 1 if workers => {
                let name = format!("x{}", self.random.between(0, 9));
                let spec = worker_spec(&name, &flags, &mut self.random);
                Request::Add { spec }
            }
            2 if workers => {
                let mut flags = flags;
                flags.intensity = u32::try_from(self.random.between(0, 6)).unwrap_or(1);
                let name = format!("x{}", self.random.between(0, 9));
                let specs = vec![worker_spec(&name, &flags, &mut self.random)];
                Request::Change { flags, specs }
            }
            3 => Request::Restart { child },
            4 => Request::Terminate { child },
            5 if workers => Request::Delete { child },
            _ => Request::Start { child },
        };
        self.request(id, request, None);
    }

    /// Whether a supervisor stands over nothing but workers and pods.
    pub(crate) fn is_meddled_with(&self, id: NodeId) -> bool {
        self.tree.boss(id).is_some_and(|boss| {
            Some(id) != self.tree.root
                && boss.recipes.values().all(|recipe| match recipe {
                    Recipe::Worker => true,
                    Recipe::Part(_) => false,
                    Recipe::Group(group) => group
                        .children
                        .iter()
                        .all(|(_, recipe)| matches!(recipe, Recipe::Worker)),
                })
                && !self.has_part(id)
        })
    }

    pub(super) fn has_part(&self, id: NodeId) -> bool {
        self.tree.agents() == Some(id)
    }

    /// The workers below one supervisor, for a storm.
    pub(crate) fn flock(&self, id: NodeId) -> Vec<NodeId> {
        let is_worker = |id: &NodeId| {
            matches!(
                self.tree.nodes.get(id).map(|node| &node.body),
                Some(Body::Worker {
                    part: None,
                    up: true
                })
            )
        };
        self.tree.below(id).into_iter().filter(is_worker).collect()
    }

    /// The answer to a request for an agent's actor.
    pub(super) fn agent_added(&mut self, request: RequestId) {
        self.wanted_agents.remove(&request);
        if self.wanted_agents.is_empty() {
            self.populated();
        }
    }
}
