//! How actors of the tree end: asked, killed, by themselves, and with their supervisor.

use mesh_supervision_core::Timestamp;
use mesh_supervision_core::supervisor::{ChildId, End, ExitReason, Incarnation, Input};

use super::{Body, GRID, NodeId, Tried};
use crate::checkers::{Verdict, ensure};
use crate::world::{Event, World};

impl World {
    pub(super) fn stop_child(
        &mut self,
        id: NodeId,
        child: &ChildId,
        incarnation: Incarnation,
        deadline: Timestamp,
    ) {
        let Some(kid) = self.kid(id, child, incarnation) else {
            return;
        };
        let Some(node) = self.tree.nodes.get(&kid) else {
            return;
        };
        match &node.body {
            Body::Supervisor(_) => {
                let deadline = Some(deadline);
                self.send(kid, id.0, Input::Stop { deadline });
            }
            Body::Worker { up: false, .. } => {
                // The start is given up, or wins.
                if self.random.percent(70) {
                    self.tried(kid, Tried::Failed);
                }
            }
            Body::Worker { up: true, part } => {
                let is_part = part.is_some();
                let at = self.now + self.random.between(0, 3) * GRID;
                let reason = match self.random.between(0, 9) {
                    0 => ExitReason::Failed("while stopping".to_owned()),
                    1 => ExitReason::Normal,
                    // Deaf: only a kill helps.
                    2 | 3 if !is_part => return,
                    _ => ExitReason::Shutdown(None),
                };
                self.queue.at(at, Event::Exit { node: kid, reason });
            }
        }
    }

    /// Ends an actor at once, as far as it can be; what it supervised ends with it.
    pub(crate) fn kill_node(&mut self, id: NodeId) -> Verdict {
        let Some(node) = self.tree.nodes.get(&id) else {
            return Ok(());
        };
        match &node.body {
            // It blocks its thread, and is there for a while still.
            Body::Worker { part: None, .. } if self.random.percent(4) => {
                let at = self.now + self.random.between(5, 30) * GRID;
                let reason = ExitReason::Killed;
                self.queue.at(at, Event::Exit { node: id, reason });
                Ok(())
            }
            Body::Worker { up: false, .. } => {
                self.tried(id, Tried::Failed);
                Ok(())
            }
            Body::Worker { .. } | Body::Supervisor(_) => self.exit(id, ExitReason::Killed),
        }
    }

    /// An actor is gone, and what hangs below it.
    pub(crate) fn exit(&mut self, id: NodeId, reason: ExitReason) -> Verdict {
        let Some(node) = self.tree.nodes.get(&id) else {
            return Ok(());
        };
        let parent = node.parent.clone();
        let late = match &node.body {
            Body::Worker { part: None, .. } => self.random.percent(10),
            Body::Worker { .. } | Body::Supervisor(_) => false,
        };
        for gone in self.tree.below(id) {
            self.remove(gone);
        }
        let Some((boss, child, incarnation)) = parent else {
            return self.meshd_ends();
        };
        let input = Input::Exited {
            child,
            incarnation,
            reason,
        };
        if late {
            // The news is late; it may be of somebody who is replaced by then.
            let at = self.now + self.random.between(1, 8) * GRID;
            self.queue
                .in_lane((id.0, boss.0), at, Event::Supervisor { node: boss, input });
        } else {
            self.send(boss, id.0, input);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        let Some(node) = self.tree.nodes.remove(&id) else {
            return;
        };
        if let Some((boss, child, incarnation)) = node.parent
            && let Some(boss) = self.tree.boss_mut(boss)
        {
            boss.kids.remove(&(child, incarnation));
        }
        if let Body::Worker {
            part: Some(part), ..
        } = node.body
        {
            self.tree.parts.remove(&part);
            self.part_is_gone(part);
        }
    }

    pub(super) fn boss_ended(&mut self, id: NodeId, end: End) -> Verdict {
        let Some(boss) = self.tree.boss(id) else {
            return Ok(());
        };
        let left = boss.check.there();
        ensure(
            left.is_empty(),
            "supervision: the order of starts and stops",
            || format!("its end leaves {left:?} behind"),
        )?;
        if !boss.booted && matches!(end, End::BootFailed { .. }) {
            for gone in self.tree.below(id).into_iter().skip(1) {
                self.remove(gone);
            }
            let root = self.tree.root == Some(id);
            self.tried(id, Tried::Failed);
            return if root { self.meshd_ends() } else { Ok(()) };
        }
        let reason = match end {
            End::Stopped => ExitReason::Shutdown(None),
            End::AutoShutdown => ExitReason::Shutdown(Some("done".to_owned())),
            End::Escalated { .. } | End::BootFailed { .. } => {
                ExitReason::Escalated(end.to_string())
            }
        };
        self.exit(id, reason)
    }
}
