//! Says on the bus what happens to the mesh itself: tasks that are accepted, agents that are overloaded, tasks that pile up.

use std::time::Duration;

use serde_json::json;

use mesh_actors_core::task::{Notice, Said};
use mesh_messages::bus::{AGENT_OVERLOADED, QUEUE_BACKLOG};

use crate::bus::BusHandle;
use crate::orchestrator::OrchestratorHandle;
use crate::store::StoreCell;

mod feed;

use feed::Feed;

/// What is said of how much waits.
const LOADS: [&str; 2] = [QUEUE_BACKLOG, AGENT_OVERLOADED];
/// How often it is looked how much waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says everything, as long as it is polled.
pub(super) async fn herald(bus: BusHandle, orchestrator: OrchestratorHandle, store: StoreCell) {
    let mut accepted = orchestrator.accepted();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = Said::default();
    let mut feed = Feed::default();
    loop {
        tokio::select! {
            heard = accepted.changed() => {
                if heard.is_err() {
                    return;
                }
                feed.go_on(&bus, &store).await;
            }
            _ = look.tick() => {
                // What an earlier life, or a part that was being restarted, left untold.
                feed.go_on(&bus, &store).await;
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
