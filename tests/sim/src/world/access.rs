//! Which agents there are, and who may come in: registry and sentinel.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_actors_core::registry::RegistryState;
use mesh_actors_core::sentinel::{NewToken, SentinelState};
use mesh_actors_core::task::FleetChange;
use mesh_messages::agent::FaultState;
use mesh_messages::events::{RegistryEvent, SentinelEvent};
use mesh_messages::system::Role;

use super::agents::ToAgent;
use super::forest::Part;
use super::orchestrator::ToOrchestrator;
use super::parts::Owned;
use super::{Event, World};
use crate::checkers::{Verdict, ensure};

/// How long the tokens of an isolated agent may open anything while there is a sentinel to void them.
const VOID_WITHIN: u64 = 2000;
/// How soon somebody who found no sentinel tries again.
const TRY_AGAIN: u64 = 500;
/// Tokens that one agent is given at most here.
const TOKENS_EACH: usize = 8;

/// The sentinel's actor.
#[derive(Debug)]
pub(crate) struct Sentinel {
    pub(crate) owned: Owned<SentinelState, Opened>,
    /// What opens the door: the durable tokens.
    door: BTreeSet<String>,
    /// Since when it is there.
    since: u64,
}

/// A change of the door, when it is durable.
#[derive(Debug)]
pub(crate) struct Opened {
    admit: Vec<String>,
    expel: Vec<String>,
}

/// The registry's actor.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) owned: Owned<RegistryState, usize>,
}

impl World {
    pub(crate) fn sentinel_up(&mut self) {
        let state = self.replica.sentinel.clone();
        let door = state
            .tokens()
            .filter(|(_, token)| !token.revoked)
            .map(|(id, _)| id.to_owned())
            .collect();
        let owned = self.owned(Part::Sentinel, state);
        let since = self.now;
        self.sentinel = Some(Sentinel { owned, door, since });
    }

    /// An agent is isolated: its tokens have to go, however often the sentinel has to be asked.
    pub(crate) fn void_tokens(&mut self, agent: usize) {
        let at = self.now + self.random.between(0, 2);
        let event = Event::Token {
            agent,
            issue: false,
        };
        self.queue.at(at, event);
    }

    /// Somebody asks the sentinel.
    pub(crate) fn token(&mut self, agent: usize, issue: bool) -> Verdict {
        let now = self.wall();
        let Some(mut sentinel) = self.sentinel.take() else {
            self.token_later(agent, issue);
            return Ok(());
        };
        let id = self.ids[agent].clone();
        let state = &sentinel.owned.state;
        let events = if issue {
            // No token is issued for an agent that may execute nothing.
            let fault = self.seats[agent].published.fault_state();
            let held = state
                .tokens()
                .filter(|(_, token)| token.subject == id.as_str() && token.is_valid(now))
                .count();
            if matches!(
                fault,
                FaultState::Quarantined | FaultState::Terminated | FaultState::Stopped
            ) || held >= TOKENS_EACH
            {
                self.sentinel = Some(sentinel);
                return Ok(());
            }
            let lasts = Duration::from_secs(self.random.between(1, 600));
            let new = NewToken {
                id: format!("t{}", self.random.bits()),
                digest: "00".to_owned(),
                role: Role::Agent,
                subject: Some(id.to_string()),
                expires_at: Some(now.plus(lasts)),
                attenuable: false,
            };
            state.issue(now, new).unwrap_or_default()
        } else {
            state.revoke_agent(&id)
        };
        let mut change = Opened {
            admit: Vec::new(),
            expel: Vec::new(),
        };
        for event in &events {
            match event {
                SentinelEvent::TokenIssued { id, .. } => change.admit.push(id.clone()),
                SentinelEvent::TokenRevoked { id } => change.expel.push(id.clone()),
                // What was allowed, denied or struck opens nothing.
                _ => {}
            }
        }
        let events: Vec<_> = events
            .into_iter()
            .map(|e| (e, Some(id.clone()), None))
            .collect();
        if !events.is_empty() {
            let kept = self.append(Part::Sentinel, &mut sentinel.owned, &events)?;
            let Some(headers) = kept else {
                // Nobody has voided anything, and so it is asked for again.
                self.token_later(agent, issue);
                return Ok(());
            };
            for (header, (event, ..)) in headers.iter().zip(&events) {
                sentinel.owned.state.apply(header, event);
            }
            sentinel.owned.after_last(vec![change]);
        }
        self.edges
            .hit("sentinel", if issue { "issue" } else { "void an agent's" });
        self.sentinel = Some(sentinel);
        Ok(())
    }

    /// There is no sentinel: nobody gets a token, but whoever has to lose one loses it later.
    fn token_later(&mut self, agent: usize, issue: bool) {
        if !issue {
            let at = self.now + TRY_AGAIN;
            self.queue.at(at, Event::Token { agent, issue });
        }
    }

    pub(crate) fn release_sentinel(&mut self) {
        let durable = self.log.durable;
        let Some(sentinel) = &mut self.sentinel else {
            return;
        };
        for change in sentinel.owned.released(durable) {
            sentinel.door.extend(change.admit);
            for id in change.expel {
                sentinel.door.remove(&id);
            }
        }
    }

    /// A quarantined agent holds no valid token.
    pub(crate) fn audit_access(&self) -> Verdict {
        let Some(sentinel) = &self.sentinel else {
            return Ok(());
        };
        let now = self.wall();
        for (agent, seat) in self.seats.iter().enumerate() {
            let Some(since) = seat.isolated_since else {
                continue;
            };
            if self.now < since.max(sentinel.since) + VOID_WITHIN {
                continue;
            }
            let opens = sentinel.owned.state.tokens().find(|(id, token)| {
                token.subject == seat.id.as_str()
                    && token.is_valid(now)
                    && sentinel.door.contains(*id)
            });
            ensure(
                opens.is_none(),
                "a quarantined agent holds no valid token",
                || format!("agent {agent}, isolated since {since}, has {opens:?}"),
            )?;
        }
        Ok(())
    }

    pub(crate) fn registry_up(&mut self) {
        let owned = self.owned(Part::Registry, self.replica.registry.clone());
        self.registry = Some(Registry { owned });
        self.agents_up();
    }

    /// Registry and the agents' supervisor are both there: every listed agent gets its actor.
    pub(crate) fn agents_up(&mut self) {
        let Some(registry) = &self.registry else {
            return;
        };
        let listed: Vec<usize> = (0..self.ids.len())
            .filter(|agent| registry.owned.state.agents.contains(&self.ids[*agent]))
            .collect();
        for agent in listed {
            if let Some(request) = self.want_agent(agent) {
                self.wanted_agents.insert(request);
            }
        }
        if self.wanted_agents.is_empty() {
            self.populated();
        }
    }

    /// Every listed agent has its actor.
    pub(crate) fn populated(&mut self) {
        if self.registry.is_some() && !self.complete {
            self.complete = true;
            let message = ToOrchestrator::Complete(FleetChange::Complete);
            self.send_orchestrator(1000, message);
        }
    }

    /// Gives an id out, so that an agent can be registered.
    pub(crate) fn list(&mut self, agent: usize) -> Verdict {
        let Some(mut registry) = self.registry.take() else {
            return Ok(());
        };
        let id = self.ids[agent].clone();
        if let Ok(Some(event)) = registry.owned.state.list(&id) {
            let events: [(RegistryEvent, _, _); 1] = [(event, Some(id), None)];
            let kept = self.append(Part::Registry, &mut registry.owned, &events)?;
            if kept.is_none() {
                return Ok(());
            }
            for (event, ..) in &events {
                registry.owned.state.apply(event);
            }
            registry.owned.after_last(vec![agent]);
        }
        self.registry = Some(registry);
        self.release_registry();
        Ok(())
    }

    pub(crate) fn release_registry(&mut self) {
        let durable = self.log.durable;
        let Some(registry) = &mut self.registry else {
            return;
        };
        for agent in registry.owned.released(durable) {
            self.edges.hit("registry", "an agent is listed");
            if let Some(request) = self.want_agent(agent) {
                self.wanted_agents.insert(request);
            }
            self.tell_agent(agent, ToAgent::Register { version: 0 });
        }
    }
}
