//! Tasks that an agent will not do, and leaves to others.
//!
//! A decline is no failure: it uses up no attempt and says nothing of the agent. The incarnation that declined is not asked
//! again in this round. When all that can have the task have declined, nobody is left to ask.

use mesh_messages::events::AfterFailure;
use mesh_messages::{AgentId, Failure, TaskId};

use super::command::{Context, Live};
use super::dispatch::demand;
use super::record::TaskRecord;
use super::state::{Entry, Tasks};
use super::tx::{Tx, kept_from};
use crate::routing::{FleetAgent, InstanceKey};

/// After so many declines in a round nobody else is asked: agents that start anew only to decline again come to an end.
pub const DECLINES_MAX: usize = 32;

/// Agents that are named when nobody is left.
const NAMED_MAX: usize = 8;

/// Whether all instances that an agent has declined a task, `more` among them; false of one that has none.
fn declined_by(
    record: &TaskRecord,
    (id, agent): (&AgentId, &FleetAgent),
    more: Option<&InstanceKey>,
) -> bool {
    let mut instances = agent.instances.iter();
    !agent.instances.is_empty()
        && instances.all(|(no, instance)| {
            let key = (id.clone(), *no, instance.epoch);
            record.declined.contains(&key) || more == Some(&key)
        })
}

/// The agents that could have a task, by what they can do, how far they are trusted, and the operator's rules.
fn could_have<'a>(
    tasks: &'a Tasks,
    live: &'a Live,
    ctx: Context<'a>,
    entry: &'a Entry,
) -> Vec<(&'a AgentId, &'a FleetAgent)> {
    let demand = demand(tasks, entry, ctx);
    let trusted =
        |id: &AgentId| demand.judges != Some(id) && demand.trust_in(id) >= demand.trust.least;
    live.fleet
        .capable(demand.needs, demand.only)
        .filter(|(id, _)| trusted(id))
        .filter(|agent| kept_from(ctx, entry.task(), *agent).is_none())
        .collect()
}

/// Which agents that run have declined a task, when none that runs is left; in words.
pub(crate) fn declined_by_all(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    entry: &Entry,
) -> Option<String> {
    if entry.record.declined.is_empty() {
        return None;
    }
    let mut running = could_have(tasks, live, ctx, entry);
    running.retain(|(_, agent)| !agent.instances.is_empty());
    let all = running
        .iter()
        .all(|agent| declined_by(&entry.record, *agent, None));
    let names = running.iter().take(NAMED_MAX).map(|(id, _)| id.as_str());
    all.then(|| {
        format!(
            "all that run have declined it, and it waits for another: {}",
            names.collect::<Vec<_>>().join(", ")
        )
    })
}

/// What follows when the instance that has a task declines it.
pub(crate) fn declined(tx: &Tx<'_>, id: &TaskId, failure: &mut Failure) -> AfterFailure {
    let again = AfterFailure::Retry { at: tx.ctx.now };
    let Some(entry) = tx.tasks.entry(id) else {
        return again;
    };
    let attempt = entry.record.attempt();
    let by = attempt.map(|a| (a.agent_id.clone(), a.instance, a.epoch));
    let times = entry.record.declined.len() + 1;
    let could = could_have(tx.tasks, tx.live, tx.ctx, entry);
    let none_left = tx.live.fleet.is_complete()
        && could
            .iter()
            .all(|agent| declined_by(&entry.record, *agent, by.as_ref()));
    if !none_left && times < DECLINES_MAX {
        return again;
    }
    failure.message = if none_left {
        format!(
            "declined by all that can do it; the last one: {}",
            failure.message
        )
    } else {
        format!("declined {times} times; the last one: {}", failure.message)
    };
    AfterFailure::DeadLetter
}
