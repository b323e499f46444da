//! Says on the bus what happens to the mesh itself: tasks that are accepted, agents that are overloaded, tasks that pile up.

use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use mesh_actors_core::task::{Notice, Said};
use mesh_messages::bus::{AGENT_OVERLOADED, QUEUE_BACKLOG, TASK_CREATED};

use crate::bus::BusHandle;
use crate::orchestrator::{Created, OrchestratorHandle};

/// What is said of how much waits.
const LOADS: [&str; 2] = [QUEUE_BACKLOG, AGENT_OVERLOADED];
/// How often it is looked how much waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says everything, as long as it is polled.
pub(super) async fn herald(bus: BusHandle, orchestrator: OrchestratorHandle) {
    let mut created = orchestrator.created();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = Said::default();
    loop {
        tokio::select! {
            next = next(&mut created) => match next {
                Some(task) => accepted(&bus, task),
                None => return,
            },
            _ = look.tick() => {
                match bus.is_wanted(&LOADS).await {
                    Ok(true) => {}
                    // Who comes later hears from the beginning.
                    Ok(false) => {
                        said = Said::default();
                        continue;
                    }
                    Err(_) => continue,
                }
                // While it is being restarted nothing is known, and nothing is said.
                if let Ok(load) = orchestrator.load().await {
                    for notice in said.step(&load) {
                        tell(&bus, &notice);
                    }
                }
            }
        }
    }
}

async fn next(created: &mut Receiver<Created>) -> Option<Created> {
    loop {
        match created.recv().await {
            Ok(task) => return Some(task),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "accepted tasks were not told to those who subscribed"
                );
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

fn accepted(bus: &BusHandle, task: Created) {
    let id = format!("{TASK_CREATED}:{}", task.id);
    let data = json!({
        "task": task.id, "type": task.kind, "requirements": task.requirements, "priority": task.priority,
    });
    bus.announce(TASK_CREATED, id, data);
}

fn tell(bus: &BusHandle, notice: &Notice) {
    let id = uuid::Uuid::now_v7().to_string();
    match notice {
        Notice::Backlog { begins, queued } => {
            let data = json!({ "state": state(*begins), "queued": queued });
            bus.announce(QUEUE_BACKLOG, id, data);
        }
        Notice::Overloaded {
            agent,
            begins,
            load,
        } => {
            let data = json!({
                "state": state(*begins), "agent": agent, "places": load.places, "taken": load.taken,
                "waiting": load.waiting,
            });
            bus.announce(AGENT_OVERLOADED, id, data);
        }
    }
}

fn state(begins: bool) -> &'static str {
    if begins { "begins" } else { "over" }
}
