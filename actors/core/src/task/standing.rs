//! What the ends of attempts, and the agents' own logs, do to the trust in them.

use mesh_messages::schema::Checker;
use mesh_messages::trust::{TrustLevel, TrustNeed, TrustReset};
use mesh_messages::{AgentId, AttemptNo, FailureClass, TaskId};
use serde_json::{Value, json};

use super::attempt::POISON_KILLS;
use super::command::Answer;
use super::refusal::Refusal;
use super::state::Entry;
use super::tx::Tx;
use crate::routing::FleetAgent;
use crate::trust::{Deed, evidence};

/// The trust that a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    /// None.
    Nothing,
    /// As much as the configuration says.
    Threshold,
    /// So much.
    Least(TrustLevel),
}

impl Ask {
    pub(crate) fn of(entry: &Entry) -> Self {
        match entry.task().spec.trust {
            None | Some(TrustNeed::Asked(false)) => Self::Nothing,
            Some(TrustNeed::Asked(true)) => Self::Threshold,
            // Its submission was refused if this is no level; a log says nothing else.
            Some(TrustNeed::Least(least)) => {
                TrustLevel::try_from(least).map_or(Self::Nothing, Self::Least)
            }
        }
    }

    /// The least level that will do.
    pub(crate) fn least(self, threshold: TrustLevel) -> TrustLevel {
        match self {
            Self::Nothing => TrustLevel::NONE,
            Self::Threshold => threshold,
            Self::Least(least) => least,
        }
    }
}

/// A result was taken: if it was checked for somebody other than an agent, that tells something of who made it.
pub(crate) fn verified(tx: &mut Tx<'_>, id: &TaskId) {
    let Some(judged) = Judged::of(tx, id) else {
        return;
    };
    if judged.by_agent {
        return;
    }
    let by = tx.tasks.entry(id).and_then(|entry| {
        let task = entry.task();
        let contract = task.spec.contract.as_ref();
        let schema = contract.and_then(|contract| contract.output_schema.as_ref());
        let checks = task.attempts.last().map_or(&[][..], |last| &last.checks);
        evidence(checks, schema.is_some_and(refuses_something))
    });
    if let Some(by) = by {
        let change = tx.tasks.trust().verified(judged.deed(id), by, tx.ctx.now);
        tx.trusts(change, Some(id));
    }
}

/// An attempt failed. Comes after the event that says so.
///
/// A contract and a limit are their submitter's words: those of an agent tell nothing, or agents could speak ill of each
/// other. A poisonous task tells of itself.
pub(crate) fn failed(tx: &mut Tx<'_>, id: &TaskId, class: FailureClass) {
    let Some(judged) = Judged::of(tx, id) else {
        return;
    };
    let authored = matches!(class, FailureClass::Contract | FailureClass::Timeout);
    let poison = tx
        .tasks
        .record(id)
        .is_some_and(|record| record.solo_kills >= POISON_KILLS);
    if poison || (judged.by_agent && authored) {
        return;
    }
    let change = tx.tasks.trust().failed(judged.deed(id), class, tx.ctx.now);
    tx.trusts(change, Some(id));
}

/// An agent tells how it stands: what it did against the rules is counted once, and other code stands for itself.
pub(crate) fn announced(tx: &mut Tx<'_>, id: &AgentId, agent: &FleetAgent) {
    let now = tx.ctx.now;
    if let Some(digest) = &agent.digest {
        let change = tx.tasks.trust().recoded(id, digest, now);
        tx.trusts(change, None);
    }
    for misdeed in &agent.misdeeds {
        let digest = agent.digest.as_deref();
        let change = tx.tasks.trust().misdeed(id, digest, misdeed, now);
        tx.trusts(change, None);
    }
}

/// Sets the trust in an agent.
pub(crate) fn reset(
    tx: &mut Tx<'_>,
    agent: &AgentId,
    by: &str,
    reset: &TrustReset,
) -> Result<Answer, Refusal> {
    let digest = digest_of(tx, agent);
    let known = tx.live.fleet.agent(agent);
    let declared: Vec<String> = known
        .map(|known| known.capabilities.iter().cloned().collect())
        .unwrap_or_default();
    let of = (agent, &declared[..]);
    let change = tx
        .tasks
        .trust()
        .reset(of, digest.as_deref(), by, reset, tx.ctx.now);
    if change.is_none() {
        return Err(Refusal::NothingToReset(agent.clone()));
    }
    tx.trusts(change, None);
    tx.settle();
    Ok(Answer::Done)
}

/// Whose attempt it was that ended last.
struct Judged {
    agent: AgentId,
    attempt: AttemptNo,
    digest: Option<String>,
    needs: std::sync::Arc<[String]>,
    by_agent: bool,
}

impl Judged {
    fn of(tx: &Tx<'_>, id: &TaskId) -> Option<Self> {
        let entry = tx.tasks.entry(id)?;
        let last = entry.task().attempts.last()?;
        Some(Self {
            digest: digest_of(tx, &last.agent_id),
            agent: last.agent_id.clone(),
            attempt: last.number,
            needs: entry.needs.clone(),
            by_agent: entry.task().submitted_by.starts_with("agent:"),
        })
    }

    fn deed<'a>(&'a self, task: &'a TaskId) -> Deed<'a> {
        Deed {
            agent: &self.agent,
            digest: self.digest.as_deref(),
            needs: &self.needs,
            task,
            attempt: self.attempt,
        }
    }
}

fn digest_of(tx: &Tx<'_>, agent: &AgentId) -> Option<String> {
    let agent = tx.live.fleet.agent(agent)?;
    agent.digest.clone()
}

/// Whether a schema can refuse anything that is easily made: one that fits a value of every kind shows nothing.
fn refuses_something(schema: &Value) -> bool {
    let Ok(checker) = Checker::new(schema.clone()) else {
        return false;
    };
    [
        json!(null),
        json!(true),
        json!(0),
        json!(""),
        json!([]),
        json!({}),
    ]
    .iter()
    .any(|value| !checker.check(value).is_empty())
}
