//! The baseline: a supervisor of twenty lines. It restarts whoever fails, within a limit, and can do nothing else.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::victim::{Probe, Victim};

/// The limit on restarts, as [`mesh_supervision::Flags`] has it.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) intensity: usize,
    pub(crate) period: Duration,
}

/// Starts its victims, and each again when it fails.
pub(crate) struct Bare;

impl Actor for Bare {
    type Msg = Probe;
    type State = (Limit, VecDeque<Instant>, HashMap<ActorId, Probe>);
    type Arguments = Limit;

    async fn pre_start(
        &self,
        _: ActorRef<Probe>,
        limit: Limit,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok((limit, VecDeque::new(), HashMap::new()))
    }

    async fn handle(
        &self,
        myself: ActorRef<Probe>,
        probe: Probe,
        (_, _, children): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (victim, _) = Actor::spawn_linked(None, Victim, probe.clone(), myself.into()).await?;
        children.insert(victim.get_id(), probe);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Probe>,
        event: SupervisionEvent,
        (limit, restarts, children): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisionEvent::ActorFailed(cell, error) = event else {
            return Ok(());
        };
        let Some(probe) = children.remove(&cell.get_id()) else {
            return Ok(());
        };
        restarts.push_back(Instant::now());
        while restarts
            .front()
            .is_some_and(|at| at.elapsed() > limit.period)
        {
            restarts.pop_front();
        }
        if restarts.len() > limit.intensity {
            return Err(error);
        }
        let (victim, _) = Actor::spawn_linked(None, Victim, probe.clone(), myself.into()).await?;
        children.insert(victim.get_id(), probe);
        Ok(())
    }
}
