//! How actors of the tree start: at once, late, or not.

use mesh_supervision_core::supervisor::{ChildId, Incarnation, Input};

use super::{Body, GRID, Node, NodeId, START_LIMIT, Tried};
use crate::checkers::{Verdict, breach, ensure};
use crate::world::forest::Recipe;
use crate::world::{Event, World};

impl World {
    pub(super) fn start_child(
        &mut self,
        id: NodeId,
        child: ChildId,
        incarnation: Incarnation,
    ) -> Verdict {
        let Some(recipe) = self
            .tree
            .boss(id)
            .and_then(|boss| boss.recipes.get(&child).cloned())
        else {
            return breach(
                "supervision: whom a failure concerns",
                format!("{child} has no code"),
            );
        };
        let place = Some((id, child.clone(), incarnation));
        let kid = match &recipe {
            Recipe::Group(group) => self.grow(place, group)?,
            Recipe::Worker => self.tree.insert(Node {
                parent: place,
                body: Body::Worker {
                    part: None,
                    up: false,
                },
            }),
            Recipe::Part(part) => {
                let body = Body::Worker {
                    part: Some(*part),
                    up: false,
                };
                let node = self.tree.insert(Node {
                    parent: place,
                    body,
                });
                let before = self.tree.parts.insert(*part, node);
                let there = before.filter(|before| self.tree.nodes.contains_key(before));
                ensure(
                    there.is_none(),
                    "supervision: no old incarnation is acted on",
                    || format!("{part:?} was started while it is there"),
                )?;
                node
            }
        };
        if let Some(boss) = self.tree.boss_mut(id) {
            boss.kids.insert((child, incarnation), kid);
        }
        match recipe {
            Recipe::Group(_) => {
                self.queue.at(
                    self.now,
                    Event::Supervisor {
                        node: kid,
                        input: Input::Boot,
                    },
                );
            }
            Recipe::Worker => {
                // A boot that fails ends its supervisor for good, and so is rare.
                let booted = self.tree.boss(id).is_some_and(|boss| boss.booted);
                let fate = if booted || self.random.percent(1) {
                    self.random.between(0, 99)
                } else {
                    99
                };
                let (after, tried) = match fate {
                    0..=3 => (0, Tried::Failed),
                    4..=5 => (3, Tried::Failed),
                    6 => (0, Tried::Ignored),
                    7..=14 => (self.random.between(1, 6), Tried::Up),
                    15 => (START_LIMIT / GRID, Tried::Failed),
                    _ => (0, Tried::Up),
                };
                let at = self.now + after * GRID;
                self.queue.at(at, Event::Tried { node: kid, tried });
            }
            Recipe::Part(part) => self.part_starts(part, kid),
        }
        Ok(())
    }

    /// A start has come to its end.
    pub(crate) fn tried(&mut self, id: NodeId, tried: Tried) {
        let Some(node) = self.tree.nodes.get_mut(&id) else {
            return;
        };
        let Some((boss, child, incarnation)) = node.parent.clone() else {
            return;
        };
        let input = match tried {
            Tried::Up => {
                if let Body::Worker { up, .. } = &mut node.body {
                    *up = true;
                }
                Input::Started { child, incarnation }
            }
            Tried::Ignored => {
                self.remove(id);
                Input::Ignored { child, incarnation }
            }
            Tried::Failed => {
                self.remove(id);
                Input::StartFailed {
                    child,
                    incarnation,
                    reason: "no".to_owned(),
                }
            }
        };
        self.send(boss, id.0, input);
    }
}
