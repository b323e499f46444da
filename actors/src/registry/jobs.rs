//! What the registry has done beside itself, one after the other: agents' actors are started and ended.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor as _, ActorRef, ActorStatus, RpcReplyPort};

use mesh_messages::AgentId;
use mesh_messages::problem::Problem;
use mesh_supervision::{Child, Refusal, RequestError, Started};

use super::{ANSWER_MAX, RegistryArgs, RegistryMessage};
use crate::agents::agent::{AgentActor, AgentArgs};
use crate::directory::{AgentEntry, Directory};
use crate::tree::OPEN_MAX;

/// What is to be done to the tree. One after the other, in the order of the commits: an id that is taken back and given
/// out again has its actor in the end.
#[derive(Debug)]
pub(super) enum Job {
    /// Start the actor of an id that was given out.
    Listed(AgentId, RpcReplyPort<Result<(), Problem>>),
    /// End the actor of an id that was taken back.
    Unlisted(AgentId, RpcReplyPort<()>),
    /// See to it that a listed agent has its actor.
    Start(AgentId),
    /// See to it that an agent that is not listed has none.
    Stop(AgentId),
    /// Say that those before were done.
    Populated,
}

pub(super) async fn work(args: &RegistryArgs, me: &ActorRef<RegistryMessage>, job: Job) {
    match job {
        Job::Listed(agent, reply) => {
            let _caller_gone = reply.send(start_agent(args, &agent).await);
        }
        Job::Unlisted(agent, reply) => {
            stop_agent(args, &agent).await;
            let _caller_gone = reply.send(());
        }
        Job::Start(agent) => {
            if let Err(problem) = start_agent(args, &agent).await {
                tracing::error!(%agent, %problem, "the agent's actor could not be started");
                args.ctx.directory.set_absent(&agent, &problem.to_string());
            }
        }
        Job::Stop(agent) => stop_agent(args, &agent).await,
        Job::Populated => {
            // Beside what follows here, on which it may depend.
            tokio::spawn(populated(args.ctx.directory.clone(), me.clone()));
        }
    }
}

/// The name of an agent's actor in the tree.
fn child_name(agent: &AgentId) -> String {
    format!("agent:{agent}")
}

/// Says that all agents are known once each has said where it stands: whoever hears it takes one without a state for one
/// that is gone, and what it left for nobody's. Of one whose actor cannot be started it never comes to that.
async fn populated(directory: Directory, me: ActorRef<RegistryMessage>) {
    /// How often it is looked whether one that is waited for is still there.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    while directory.absent().is_none() && me.get_status() < ActorStatus::Stopping {
        let all = directory.all();
        let Some(silent) = all.iter().find(|entry| !entry.is_known()) else {
            let _gone = me.cast(RegistryMessage::Populated);
            return;
        };
        let _late = tokio::time::timeout(LOOK_EVERY, silent.first_published()).await;
    }
}

async fn start_agent(args: &RegistryArgs, agent: &AgentId) -> Result<(), Problem> {
    let entry = args.ctx.directory.enter(agent);
    let until = tokio::time::Instant::now() + ANSWER_MAX;
    let mut agents = args.agents.clone();
    loop {
        let supervisor = {
            let up = tokio::time::timeout_at(until, agents.wait_for(Option::is_some)).await;
            let up = up
                .ok()
                .and_then(|up| up.ok().and_then(|handle| handle.clone()));
            up.ok_or_else(|| {
                Problem::unavailable("component_restarting", "the agents' supervisor is not up")
            })?
        };
        match supervisor.add(agent_child(args, agent, &entry)).await {
            Ok(_) | Err(RequestError::Refused(Refusal::AlreadyStarted { .. })) => return Ok(()),
            // The handle is of a supervisor that is ending or has ended; its successor announces itself.
            Err(RequestError::NotRunning | RequestError::Refused(Refusal::ShuttingDown))
                if tokio::time::timeout_at(until, agents.changed())
                    .await
                    .is_ok_and(|announced| announced.is_ok()) => {}
            Err(error) => {
                let mut text = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    text = format!("{text}: {cause}");
                }
                return Err(Problem::unavailable("component_restarting", text));
            }
        }
    }
}

/// An agent's actor, as a child of the agents' supervisor.
fn agent_child(args: &RegistryArgs, agent: &AgentId, entry: &Arc<AgentEntry>) -> Child {
    let agent_args = AgentArgs {
        ctx: Arc::clone(&args.ctx),
        services: Arc::clone(&args.services),
        entry: Arc::clone(entry),
    };
    Child::worker(child_name(agent), move |context| {
        let args = agent_args.clone();
        async move {
            args.ctx.store.opened(OPEN_MAX).await?;
            let spawned =
                AgentActor::spawn_linked(None, AgentActor, args, context.supervisor).await?;
            Ok(Started::from(spawned))
        }
    })
}

async fn stop_agent(args: &RegistryArgs, agent: &AgentId) {
    let handle = args.agents.borrow().clone();
    if let Some(supervisor) = handle {
        let name = child_name(agent);
        // A pool forgets a child that it stops; either way it is gone afterwards.
        if let Err(error) = supervisor.terminate_child(name.as_str()).await {
            tracing::debug!(%agent, %error, "its actor was gone already");
        }
        let _gone_already = supervisor.delete_child(name.as_str()).await;
    }
    args.ctx.directory.leave(agent);
    args.services.fleet_gone(agent);
}
