//! Finding actors of a tree, and hurting them.

use std::time::Duration;

use mesh_tests::Random;
use ractor::{ActorCell, ActorId, ActorStatus};

use crate::world::until;

/// Parts that may die without any agent's work noticing.
pub(crate) const PARTS: [&str; 7] = [
    "sentinel",
    "registry",
    "projector",
    "memory",
    "bus",
    "orchestrator",
    "health",
];

/// How an actor is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// Dropped where it stands, in the middle of whatever it waits for.
    Kill,
    /// Ends after what it is doing; what is in its mailbox is lost.
    Stop,
    /// Ends after what is in its mailbox.
    Drain,
}

impl Blow {
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.between(0, 4) {
            0 => Self::Stop,
            1 => Self::Drain,
            _ => Self::Kill,
        }
    }

    /// Makes the actor end.
    pub(crate) fn strike(self, cell: &ActorCell) {
        match self {
            Self::Kill => cell.kill(),
            Self::Stop => cell.stop(None),
            // Only one that has ended already refuses.
            Self::Drain => drop(cell.drain()),
        }
    }
}

/// The actors of one tree.
#[derive(Debug, Clone)]
pub(crate) struct Prey {
    run_id: String,
}

fn is_up(cell: &ActorCell) -> bool {
    cell.get_status() == ActorStatus::Running
}

impl Prey {
    pub(crate) fn of(run_id: &str) -> Self {
        Self {
            run_id: run_id.to_owned(),
        }
    }

    /// The part of this name, while it runs.
    pub(crate) fn part(&self, name: &str) -> Option<ActorCell> {
        ractor::registry::where_is(format!("{}/{name}", self.run_id)).filter(is_up)
    }

    /// The agents' actors.
    pub(crate) fn agents(&self) -> Vec<ActorCell> {
        sorted(
            self.part("agents")
                .map(|agents| agents.get_children())
                .unwrap_or_default(),
        )
    }

    /// The agents' instances.
    pub(crate) fn instances(&self) -> Vec<ActorCell> {
        sorted(
            self.agents()
                .iter()
                .flat_map(ActorCell::get_children)
                .collect(),
        )
    }

    /// Waits until the part runs, as another actor than `not`.
    pub(crate) async fn up(&self, name: &str, not: Option<ActorId>) -> ActorCell {
        until(&format!("{name} runs"), async || {
            self.part(name).filter(|cell| Some(cell.get_id()) != not)
        })
        .await
    }

    /// Strikes a part and waits until its next incarnation runs, and all that is restarted with it.
    pub(crate) async fn strike(&self, name: &str, blow: Blow) {
        let last = match name {
            "core" | "work" | "edge" | "journal" => "health",
            _ => name,
        };
        let (cell, last_cell) = (self.up(name, None).await, self.up(last, None).await);
        blow.strike(&cell);
        self.up(name, Some(cell.get_id())).await;
        self.up(last, Some(last_cell.get_id())).await;
    }

    /// Strikes an actor that has no name, and waits until it is gone.
    pub(crate) async fn fell(&self, cell: &ActorCell, blow: Blow) {
        blow.strike(cell);
        cell.wait(Some(Duration::from_secs(20))).await.unwrap();
    }
}

/// By id, so that a seed chooses the same one again.
fn sorted(mut cells: Vec<ActorCell>) -> Vec<ActorCell> {
    cells.retain(is_up);
    cells.sort_by_key(|cell| cell.get_id().pid());
    cells
}
