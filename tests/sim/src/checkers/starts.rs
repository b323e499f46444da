//! Nobody is started by any path but those that may start: a grant of the policy, the end of something that was told to
//! stop for a restart or an upgrade, a replica that was added, or a rest that is over. And no epoch is given out twice.

use std::collections::BTreeMap;

use mesh_actors_core::agent::{AgentCommand, AgentEffect, AgentMachine, AgentState};
use mesh_messages::{Epoch, InstanceNo, Timestamp};

use super::fault_table::{FaultTable, Granted, Looked};
use super::{Verdict, ensure};

const PROMISE: &str = "restart limits are exact: no start by any other path";

/// All starts of a run.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// The last epoch of each agent that was performed.
    epochs: BTreeMap<usize, Epoch>,
    /// Replicas whose last end was nobody's failure, and the starts that followed from such ends.
    rests: BTreeMap<(usize, InstanceNo), Rests>,
}

#[derive(Debug, Default)]
struct Rests {
    resting: bool,
    starts: Vec<Timestamp>,
}

impl Starts {
    /// An agent, or its actor, begins a new life: what limits its rests is forgotten with its actor.
    pub(crate) fn begins_anew(&mut self, agent: usize) {
        self.rests.retain(|(of, _), _| *of != agent);
    }

    /// Checks the starts that a step wants.
    pub(crate) fn decided(
        &mut self,
        (agent, now): (usize, Timestamp),
        (command, looked): (&AgentCommand, Looked),
        effects: &[AgentEffect],
        machine: &AgentMachine,
        (state, table): (&AgentState, &FaultTable),
    ) -> Verdict {
        if let AgentCommand::Ended {
            instance, failure, ..
        } = command
            && looked.current
        {
            let nobodys = failure
                .as_ref()
                .is_some_and(|f| !super::fault_rules::of_class(f.class).1);
            let rests = self.rests.entry((agent, *instance)).or_default();
            rests.resting = nobodys && !looked.told;
        }
        for effect in effects {
            let AgentEffect::Spawn { instance, .. } = effect else {
                continue;
            };
            let policy = machine.policy().record().state;
            ensure(policy.is_started(), PROMISE, || {
                format!("agent {agent} was started while its policy is {policy} ({command:?})")
            })?;
            ensure(instance.0 < state.replicas, PROMISE, || {
                format!(
                    "replica {instance} of agent {agent}, which is to have {}",
                    state.replicas
                )
            })?;
            let rests = self.rests.entry((agent, *instance)).or_default();
            let rested = std::mem::take(&mut rests.resting);
            if table.granted() == Granted::Start {
                continue;
            }
            let may = match command {
                AgentCommand::Ended { .. } => looked.current && !rested,
                AgentCommand::Scale { .. } => !rested,
                AgentCommand::Rested => rested,
                _ => false,
            };
            // A scale or an end may find a rest that is over.
            ensure(may || rested, PROMISE, || {
                format!("replica {instance} of agent {agent} by {command:?}")
            })?;
            if rested {
                let limit = usize::try_from(table.config().max_crashes.max(1)).unwrap_or(1);
                let window = table.config().crash_window;
                rests.starts.push(now);
                let within = rests
                    .starts
                    .iter()
                    .filter(|then| now.since(**then) <= window)
                    .count();
                ensure(within <= limit, PROMISE, || {
                    format!(
                        "replica {instance} of agent {agent} was started {within} times within {window:?} after ends that were nobody's failure"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// An incarnation is really started.
    pub(crate) fn performed(&mut self, agent: usize, epoch: Epoch) -> Verdict {
        let last = self.epochs.entry(agent).or_default();
        ensure(epoch > *last, "incarnations are numbered", || {
            format!("epoch {epoch} of agent {agent} was given out before (last {last})")
        })?;
        *last = epoch;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::AgentId;
    use mesh_supervision_core::fault::FaultConfig;

    use super::*;

    #[test]
    fn a_start_without_a_grant_is_noticed() {
        let (now, config) = (Timestamp::from_millis(1000), FaultConfig::default());
        let id = AgentId::new("a").unwrap();
        let machine = AgentMachine::new(id, config.clone(), now).unwrap();
        let (state, table) = (AgentState::default(), FaultTable::new(config, 1000));
        let command = AgentCommand::Rested;
        let looked = table.look(&state, &command);
        let spawn = AgentEffect::Spawn {
            instance: InstanceNo(0),
            epoch: Epoch(1),
            version: "1.0.0".to_owned(),
            upgraded_from: None,
        };
        let verdict = Starts::default().decided(
            (0, now),
            (&command, looked),
            &[spawn],
            &machine,
            (&state, &table),
        );
        assert_eq!(verdict.unwrap_err().promise, PROMISE);
    }

    #[test]
    fn an_epoch_that_was_given_out_before_is_noticed() {
        let mut starts = Starts::default();
        starts.performed(0, Epoch(1)).unwrap();
        starts.performed(1, Epoch(1)).unwrap();
        starts.performed(0, Epoch(2)).unwrap();
        let again = starts.performed(0, Epoch(2)).unwrap_err();
        assert_eq!(again.promise, "incarnations are numbered");
    }
}
