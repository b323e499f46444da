//! Processes of the mesh's agents, as this host's `/proc` shows them: what should be gone, and what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use mesh_messages::{AgentId, Epoch};

use super::evidence::Processes;

/// How long the kernel may take to let go of what has ended.
const GONE_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Most processes of one tree that are followed: more than an agent may have as shipped.
const TREE_MAX: usize = 1024;

/// A process that cannot be mistaken for a later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    pid: u32,
    /// Ticks from boot to its start.
    started: u64,
}

/// Every incarnation that was seen to run, and all processes that were seen below it.
#[derive(Debug, Default)]
pub(super) struct Trees {
    seen: BTreeMap<(AgentId, Epoch), BTreeSet<Known>>,
    /// Some instance had a process that is not on this host.
    elsewhere: bool,
}

impl Trees {
    /// Takes note of an incarnation's first process and of whatever lives below it now.
    pub(super) fn note(&mut self, agent: &AgentId, epoch: Epoch, pid: u32) {
        let tree = tree(pid);
        if tree.is_empty() {
            // It may have ended just now; that none is ever found means that they are on another host.
            self.elsewhere = true;
            return;
        }
        let known = self.seen.entry((agent.clone(), epoch)).or_default();
        known.extend(tree);
    }

    /// What is left of the incarnations that do not run any more.
    pub(super) fn left(&self, is_running: impl Fn(&AgentId, Epoch) -> bool) -> Processes {
        if self.seen.is_empty() {
            let why = if self.elsewhere {
                "the agents' processes are not on this host, or hidden from us"
            } else {
                "no agent in scope had a process of its own"
            };
            return Processes::NotHere(why.to_owned());
        }
        let gone: Vec<_> = self
            .seen
            .iter()
            .filter(|((agent, epoch), _)| !is_running(agent, *epoch))
            .collect();
        let until = Instant::now() + GONE_MAX;
        loop {
            let left: Vec<String> = gone
                .iter()
                .flat_map(|((agent, epoch), tree)| {
                    let living = tree
                        .iter()
                        .filter(|known| started(known.pid) == Some(known.started));
                    living
                        .map(move |known| format!("process {} of {agent} epoch {epoch}", known.pid))
                })
                .collect();
            if left.is_empty() || Instant::now() > until {
                return Processes::Looked {
                    ended: gone.len(),
                    left,
                };
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// A process and all that live below it.
fn tree(pid: u32) -> Vec<Known> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let Some(started) = started(pid) else {
            continue;
        };
        found.push(Known { pid, started });
        if found.len() >= TREE_MAX {
            break;
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        open.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    found
}

/// Ticks from boot to its start, while it lives.
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its last bracket has fixed places.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    fn agent() -> AgentId {
        AgentId::new("a").unwrap()
    }

    #[test]
    fn what_an_ended_incarnation_left_is_found_also_when_its_parent_is_gone() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut below = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut below)
            .unwrap();
        let mut trees = Trees::default();
        trees.note(&agent(), Epoch(1), shell.id());
        assert_eq!(
            trees.left(|_, _| true),
            Processes::Looked {
                ended: 0,
                left: vec![]
            }
        );
        shell.kill().unwrap();
        shell.wait().unwrap();
        let named = format!("process {} of a epoch 1", below.trim());
        assert_eq!(
            trees.left(|_, _| false),
            Processes::Looked {
                ended: 1,
                left: vec![named]
            }
        );
        assert!(
            Command::new("kill")
                .args(["-9", below.trim()])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(
            trees.left(|_, _| false),
            Processes::Looked {
                ended: 1,
                left: vec![]
            }
        );
    }

    #[test]
    fn processes_of_another_host_are_not_judged() {
        let mut trees = Trees::default();
        assert!(matches!(trees.left(|_, _| false), Processes::NotHere(_)));
        // Above every number that the kernel gives out.
        trees.note(&agent(), Epoch(1), u32::MAX);
        assert!(
            matches!(trees.left(|_, _| false), Processes::NotHere(why) if why.contains("host"))
        );
    }
}
