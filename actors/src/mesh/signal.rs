//! Signals to agents, as the outside sends them.

use async_trait::async_trait;

use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::signal::{AgentSignal, SignalOrder, SignalSent, SignalledInstance};
use mesh_messages::system::Caller;
use rustix::process::Signal;

use super::Mesh;
use crate::operations::{Action, SignalOperations};

#[async_trait]
impl SignalOperations for Mesh {
    async fn signal_agent(
        &self,
        caller: &Caller,
        id: &str,
        order: SignalOrder,
    ) -> Result<SignalSent, Problem> {
        let entry = self.entry(id)?;
        let wanted = |number| order.instance.is_none_or(|instance| instance == number);
        let live: Vec<_> = entry
            .live()
            .into_iter()
            .filter(|(number, _)| wanted(*number))
            .collect();
        let conflict = |code, text: &str| Problem::new(ProblemKind::Conflict, code, text);
        if live
            .iter()
            .any(|(_, instance)| instance.live.is_to_stand_still())
        {
            let text = "its processes are frozen and take no signal; resume it first";
            return Err(conflict("agent_paused", text));
        }
        let live: Vec<_> = live
            .into_iter()
            .map(|(number, instance)| (number, instance.epoch, instance.live.processes()))
            .filter(|(_, _, processes)| !processes.is_empty())
            .collect();
        if live.is_empty() {
            return Err(conflict(
                "agent_not_running",
                "no process of it runs that could take a signal",
            ));
        }
        let whom = order
            .instance
            .map_or_else(String::new, |one| format!("/{one}"));
        let resource = format!("/v1/agents/{id}/signal/{}{whom}", order.signal.name());
        self.sentinel
            .record_allowed(&caller.name, Action::AgentControl.name(), &resource)
            .await?;
        let mut instances = Vec::new();
        for (instance, epoch, processes) in live {
            for process in processes {
                if let Err(error) = process.signal(raw(order.signal)) {
                    let text = format!("instance {instance} did not take it: {error}");
                    return Err(Problem::unavailable("try_again", text));
                }
            }
            instances.push(SignalledInstance { instance, epoch });
        }
        Ok(SignalSent {
            agent_id: entry.id.clone(),
            signal: order.signal,
            instances,
        })
    }
}

const fn raw(signal: AgentSignal) -> Signal {
    match signal {
        AgentSignal::Hup => Signal::HUP,
        AgentSignal::Int => Signal::INT,
        AgentSignal::Quit => Signal::QUIT,
        AgentSignal::Term => Signal::TERM,
        AgentSignal::Usr1 => Signal::USR1,
        AgentSignal::Usr2 => Signal::USR2,
        AgentSignal::Winch => Signal::WINCH,
    }
}
