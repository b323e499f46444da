//! How much waits, and for whom: what is said of it, and when.
//!
//! | topic | is said when | and again, as over, when |
//! |---|---|---|
//! | `queue.backlog` | [`BACKLOG_HIGH`] tasks or more wait for a free place | [`BACKLOG_LOW`] or fewer do |
//! | `agent.overloaded` | all places of an agent are taken, and as many tasks as it has places wait that it can do | a place is free, or no task waits for it |

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::AgentId;

use super::command::Live;
use super::state::Tasks;

/// Tasks that wait when it is said that there is a backlog.
pub const BACKLOG_HIGH: u64 = 100;
/// Tasks that wait when it is said that it is over: half, so that it is not said at every task.
pub const BACKLOG_LOW: u64 = 50;

/// What an agent has in hand and before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentLoad {
    /// Tasks that it may have in hand.
    pub places: u64,
    /// Tasks that it has in hand.
    pub taken: u64,
    /// Tasks that wait for a place and that it can do.
    pub waiting: u64,
}

/// How much waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Tasks that wait for a free place.
    pub queued: u64,
    /// By agent.
    pub agents: BTreeMap<AgentId, AgentLoad>,
}

/// Something that is said once, when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Many tasks wait, or no longer so.
    Backlog {
        /// Whether it begins.
        begins: bool,
        /// How many wait.
        queued: u64,
    },
    /// More waits for an agent than it can take, or no longer so.
    Overloaded {
        /// Which.
        agent: AgentId,
        /// Whether it begins.
        begins: bool,
        /// How it stands.
        load: AgentLoad,
    },
}

/// What was said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    backlog: bool,
    overloaded: BTreeSet<AgentId>,
}

impl Said {
    /// What is to be said now.
    pub fn step(&mut self, load: &Load) -> Vec<Notice> {
        let mut notices = Vec::new();
        let queued = load.queued;
        let backlog = queued >= BACKLOG_HIGH || (self.backlog && queued > BACKLOG_LOW);
        if backlog != self.backlog {
            self.backlog = backlog;
            let begins = backlog;
            notices.push(Notice::Backlog { begins, queued });
        }
        for (agent, load) in &load.agents {
            let full = load.places > 0 && load.taken >= load.places;
            let said = self.overloaded.contains(agent);
            let least = if said { 1 } else { load.places };
            let begins = full && load.waiting >= least;
            if begins == said {
                continue;
            }
            if begins {
                self.overloaded.insert(agent.clone());
            } else {
                self.overloaded.remove(agent);
            }
            let (agent, load) = (agent.clone(), *load);
            notices.push(Notice::Overloaded {
                agent,
                begins,
                load,
            });
        }
        // One that was removed is not overloaded any more, and there is nobody left to say it of.
        self.overloaded
            .retain(|agent| load.agents.contains_key(agent));
        notices
    }
}

impl Tasks {
    /// How much waits now.
    pub fn load(&self, live: &Live) -> Load {
        let mut load = Load::default();
        for (id, agent) in live.fleet().agents() {
            let places = agent
                .instances
                .values()
                .map(|i| u64::from(i.concurrency))
                .sum();
            load.agents.insert(
                id.clone(),
                AgentLoad {
                    places,
                    ..AgentLoad::default()
                },
            );
        }
        for ((agent, _, _), tasks) in &self.index().in_flight {
            if let Some(load) = load.agents.get_mut(agent) {
                load.taken += tasks.len() as u64;
            }
        }
        for (key, group) in &self.index().ready {
            let waiting = group.get(&None).map_or(0, BTreeSet::len) as u64;
            if waiting == 0 {
                continue;
            }
            load.queued += waiting;
            for (id, _) in live.fleet().capable(&key.needs, key.agent.as_ref()) {
                if let Some(load) = load.agents.get_mut(id) {
                    load.waiting += waiting;
                }
            }
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(queued: u64, (places, taken, waiting): (u64, u64, u64)) -> Load {
        let agent = AgentLoad {
            places,
            taken,
            waiting,
        };
        Load {
            queued,
            agents: [(AgentId::new("echo").unwrap(), agent)].into(),
        }
    }

    #[test]
    fn each_is_said_once_when_it_begins_and_once_when_it_is_over() {
        let mut said = Said::default();
        let begins = |notices: Vec<Notice>| -> Vec<(&str, bool)> {
            let one = |notice: &Notice| match notice {
                Notice::Backlog { begins, .. } => ("backlog", *begins),
                Notice::Overloaded { begins, .. } => ("overloaded", *begins),
            };
            notices.iter().map(one).collect()
        };
        let idle = (2, 0, 0);
        for (now, expected) in [
            (load(99, idle), vec![]),
            (load(100, idle), vec![("backlog", true)]),
            (load(120, idle), vec![]),
            (load(51, idle), vec![]),
            (load(50, idle), vec![("backlog", false)]),
            (load(99, idle), vec![]),
            (load(1, (2, 2, 1)), vec![]),
            (load(2, (2, 1, 2)), vec![]),
            (load(2, (2, 2, 2)), vec![("overloaded", true)]),
            (load(1, (2, 2, 1)), vec![]),
            (load(0, (2, 2, 0)), vec![("overloaded", false)]),
            (load(0, (0, 0, 9)), vec![]),
            (load(9, (2, 2, 9)), vec![("overloaded", true)]),
            (load(9, (2, 1, 9)), vec![("overloaded", false)]),
            (load(9, (2, 2, 9)), vec![("overloaded", true)]),
            (Load::default(), vec![]),
        ] {
            assert_eq!(begins(said.step(&now)), expected, "{now:?}");
        }
    }
}
