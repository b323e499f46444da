//! Erasing an agent's values from the journal.

use std::sync::Arc;

use mesh_messages::events::partition;
use mesh_messages::problem::Problem;
use mesh_messages::{AgentId, Position};
use mesh_persistence::Journal;

use super::{Reply, answer};

/// Records that are erased in one step, so that the positions of a long history need not all be held at once.
const STEP: usize = 1024;

/// Erases whatever an agent ever wrote, then answers.
///
/// The purge itself is durable before this begins, so a replay that meets erased records ends in the same state. If
/// meshd dies on the way nobody was answered, and asking again erases the rest.
pub(super) fn in_background(journal: Arc<dyn Journal>, agent: AgentId, reply: Reply<()>) {
    let work = move || answer(reply, erase(&*journal, &agent));
    // Nobody waits for this task but the caller, who waits for its answer.
    drop(tokio::task::spawn_blocking(work));
}

fn erase(journal: &dyn Journal, agent: &AgentId) -> Result<(), Problem> {
    let failed = |what: &dyn std::fmt::Display| {
        Problem::unavailable(
            "erase_failed",
            format!("memory of {agent} is not erased yet: {what}"),
        )
    };
    let records = journal
        .read_partition(&partition::MEMORY, Position(0))
        .map_err(|e| failed(&e))?;
    let mut step = Vec::new();
    for record in records {
        let record = record.map_err(|e| failed(&e))?;
        if record.header.agent.as_ref() == Some(agent)
            && record.header.kind == "memory.set"
            && record.body.is_some()
        {
            step.push(record.header.position);
        }
        if step.len() >= STEP {
            journal
                .erase(&std::mem::take(&mut step))
                .map_err(|e| failed(&e))?;
        }
    }
    if step.is_empty() {
        return Ok(());
    }
    journal.erase(&step).map_err(|e| failed(&e))
}
