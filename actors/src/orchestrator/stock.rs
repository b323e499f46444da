//! What the agents have in hand, as the orchestrator finds it when it, or one of them, was started again.

use ractor::ActorProcessingErr;

use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{Command, FleetChange};
use mesh_messages::{AgentId, AttemptNo, TaskId};

use super::Shell;
use crate::directory::AgentEntry;

impl Shell {
    /// Sees what the agents have in hand and what agents there are; whatever else was under way is lost.
    ///
    /// In this order: an agent that is known gets work at once, which nobody has in hand yet.
    pub(super) async fn take_stock(&mut self) -> Result<(), ActorProcessingErr> {
        let directory = self.args.ctx.directory.clone();
        let agents = directory.all();
        for entry in &agents {
            self.actors.insert(entry.id.clone(), entry.actor_no());
        }
        let present = agents.iter().flat_map(|entry| in_hand(entry)).collect();
        self.internal(Command::Reconcile {
            agent: None,
            present,
        })
        .await?;
        for entry in agents {
            let change = FleetChange::Agent(entry.id.clone(), Box::new(entry.fleet()));
            self.internal(Command::Fleet(change)).await?;
        }
        if directory.is_complete() {
            self.internal(Command::Fleet(FleetChange::Complete)).await?;
        }
        Ok(())
    }

    /// Ends what an agent had in hand whose actor is another one than before: that one may have died with the news on its
    /// lips. Before the new one's instances are known, so that nothing is on its way to them yet.
    pub(super) async fn after_restart_of(
        &mut self,
        agent: AgentId,
    ) -> Result<(), ActorProcessingErr> {
        let Some(entry) = self.args.ctx.directory.get(agent.as_str()) else {
            self.actors.remove(&agent);
            return Ok(());
        };
        let no = entry.actor_no();
        if self.actors.insert(agent.clone(), no) == Some(no) {
            return Ok(());
        }
        self.internal(Command::Reconcile {
            agent: Some(agent),
            present: in_hand(&entry).into_iter().collect(),
        })
        .await
    }
}

/// The open attempts of an agent's instances that are there.
fn in_hand(entry: &AgentEntry) -> Vec<(InstanceKey, TaskId, AttemptNo)> {
    let live = entry.live();
    let key_of = |epoch| {
        let (no, _) = live.iter().find(|(_, instance)| instance.epoch == epoch)?;
        Some((entry.id.clone(), *no, epoch))
    };
    let open = entry.open_attempts().into_iter();
    open.filter_map(|(epoch, task, attempt)| Some((key_of(epoch)?, task, attempt)))
        .collect()
}
