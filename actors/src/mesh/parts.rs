//! The parts of the tree as `/status` shows them, and what the operator should know.

use std::time::Duration;

use mesh_messages::system::ComponentStatus;
use mesh_supervision::ChildStatus;

use super::Mesh;
use crate::operations::Operations as _;

/// How long `/status` waits to learn of the parts at the edge.
const EDGE_LOOK_MAX: Duration = Duration::from_secs(1);

impl Mesh {
    pub(super) async fn components(&self) -> Vec<ComponentStatus> {
        let part = |name: &str, parent: &str, running: bool, restarts: u64| ComponentStatus {
            name: name.to_owned(),
            parent: Some(parent.to_owned()),
            running,
            restarts,
        };
        let agents = self.ctx.directory.all();
        let running =
            |slot: &crate::slot::Slot<crate::agents::agent::AgentMessage>| slot.is_running();
        let mut parts = vec![
            part("journal", "mesh", self.alive(), 0),
            part(
                "sentinel",
                "core",
                self.sentinel.is_running(),
                self.sentinel.restarts(),
            ),
            part(
                "registry",
                "core",
                self.registry_slot.is_running(),
                self.registry_slot.restarts(),
            ),
            part(
                "memory",
                "work",
                self.memory.is_running(),
                self.memory.restarts(),
            ),
            part("bus", "work", self.bus.is_running(), self.bus.restarts()),
            part(
                "orchestrator",
                "work",
                self.orchestrator.is_running(),
                self.orchestrator.restarts(),
            ),
            part(
                "workflows",
                "work",
                self.workflows.is_running(),
                self.workflows.restarts(),
            ),
        ];
        let edge = self.edge.borrow().clone();
        if let Some(edge) = edge {
            // A group that is being restarted is not worth waiting for; then its parts are not up.
            let children = edge
                .with_limit(EDGE_LOOK_MAX)
                .children()
                .await
                .unwrap_or_default();
            parts.extend(children.iter().map(|child| {
                let started = child
                    .incarnation
                    .map_or(0, mesh_supervision::Incarnation::number);
                let running = child.status == ChildStatus::Running;
                // The first start of each child of a supervisor has its own number.
                part(
                    &child.spec.id.to_string(),
                    "edge",
                    running,
                    started.saturating_sub(children.len() as u64),
                )
            }));
        }
        parts.extend(agents.iter().map(|entry| {
            part(
                &format!("agent:{}", entry.id),
                "agents",
                running(&entry.slot),
                entry.slot.restarts(),
            )
        }));
        parts
    }
}
