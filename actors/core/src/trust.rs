//! How far each agent is trusted, at each capability: a fold over what was seen of it.
//!
//! ```text
//!  trust (agent, capability) = the lower one of  its score at the capability   starts at 0.75
//!                                                its conduct                   starts at 1
//! ```
//!
//! | what was seen | score of the capabilities that the task needed | conduct |
//! |---|---|---|
//! | a result passed a check by another agent | up by 1/16 of what is missing | up likewise |
//! | … by a command in the agent's sandbox | up by 1/32 | up likewise |
//! | … by a schema that refuses something | up by 1/64 | up likewise |
//! | a result without any of these, or of a task that an agent submitted | as it was | as it was |
//! | a broken contract | 3/4 is left | |
//! | a crash, a hang, an exceeded limit, a timeout | 15/16 is left | |
//! | rules broken, or a quarantine by its fault policy | | 3/4, 1/2, 1/4, 0 is left, by severity |
//! | other code in force | what is above the start falls back to it | |
//! | a week | half of the way to the start | half of the way to 1 |
//!
//! It belongs to the agent, not to its replicas or to a registration: nobody gets rid of a bad name by starting anew.
//! [`Trust::apply`] takes changes in, and everything else only looks; the numbers are in `score.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_messages::task::CheckReport;
use mesh_messages::trust::{
    AgentTrust, CapabilityTrust, Misdeed, TrustCause, TrustChange, TrustEvidence, TrustLevel,
    TrustMove, TrustReset,
};
use mesh_messages::{AgentId, AttemptNo, FailureClass, Position, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

mod score;
#[cfg(test)]
mod tests;

pub use score::{HALF_LIFE, START};
use score::{Score, left_after_misdeed, left_of, lowered, raised};

/// Changes kept of each agent to be shown; the audit has all.
pub const HISTORY_MAX: usize = 32;
/// Capabilities kept of each agent: what a manifest may name, several times over. The one that was changed longest ago goes.
const CAPABILITIES_MAX: usize = 256;
/// Agents kept, removed ones among them. The one that was changed longest ago goes.
const AGENTS_MAX: usize = 16 * 1024;

/// What is known of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Standing {
    conduct: Option<Score>,
    skills: BTreeMap<String, Score>,
    /// The code that was in force at the last change.
    digest: Option<String>,
    /// The last record of its own log that was counted.
    seen: Option<Position>,
    changed: Timestamp,
    /// Newest first.
    history: VecDeque<TrustChange>,
}

/// The trust in all agents.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trust {
    agents: BTreeMap<AgentId, Standing>,
}

/// An attempt whose end tells something of its agent.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// Who.
    pub agent: &'a AgentId,
    /// Digest of the code that the agent runs.
    pub digest: Option<&'a str>,
    /// The capabilities that its task needed.
    pub needs: &'a [String],
    /// The task.
    pub task: &'a TaskId,
    /// The attempt.
    pub attempt: AttemptNo,
}

impl Trust {
    /// The trust in an agent at all of these capabilities.
    pub fn level(&self, agent: &AgentId, needs: &[String], now: Timestamp) -> TrustLevel {
        let standing = self.agents.get(agent);
        let skills = needs.iter().map(|need| skill(standing, need, now).level);
        skills
            .min()
            .unwrap_or(START)
            .min(conduct(standing, now).level)
    }

    /// When time alone will have raised that trust to `least`, if it will.
    pub fn reaches(
        &self,
        agent: &AgentId,
        needs: &[String],
        least: TrustLevel,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let standing = self.agents.get(agent);
        let conduct = conduct(standing, now).reaches(least, now, TrustLevel::FULL);
        let skills = needs
            .iter()
            .map(|need| skill(standing, need, now).reaches(least, now, START));
        // The last of them to be there.
        skills
            .chain([conduct])
            .try_fold(now, |latest, at| Some(latest.max(at?)))
    }

    /// What a verified result changes; `None` when nothing is left to gain.
    pub fn verified(
        &self,
        deed: Deed<'_>,
        by: TrustEvidence,
        now: Timestamp,
    ) -> Option<TrustChange> {
        let standing = self.agents.get(deed.agent);
        let mut moves = skills_of(standing, deed.needs, now, |level| raised(level, by));
        moves.extend(conduct_move(standing, now, |level| raised(level, by)));
        let (task, attempt) = (deed.task.clone(), deed.attempt);
        let cause = TrustCause::Verified { task, attempt, by };
        (!moves.is_empty()).then(|| change(deed.agent, deed.digest, now, cause, moves))
    }

    /// What a failure changes; `None` when it tells nothing of the agent.
    pub fn failed(
        &self,
        deed: Deed<'_>,
        class: FailureClass,
        now: Timestamp,
    ) -> Option<TrustChange> {
        let left = left_of(class)?;
        let standing = self.agents.get(deed.agent);
        let moves = skills_of(standing, deed.needs, now, |level| lowered(level, left));
        let (task, attempt) = (deed.task.clone(), deed.attempt);
        let cause = TrustCause::Failed {
            task,
            attempt,
            class,
        };
        Some(change(deed.agent, deed.digest, now, cause, moves))
    }

    /// What a misdeed changes; `None` when it was counted before.
    pub fn misdeed(
        &self,
        agent: &AgentId,
        digest: Option<&str>,
        misdeed: &Misdeed,
        now: Timestamp,
    ) -> Option<TrustChange> {
        let standing = self.agents.get(agent);
        if standing.is_some_and(|s| s.seen.is_some_and(|seen| seen >= misdeed.record)) {
            return None;
        }
        let left = left_after_misdeed(misdeed.severity);
        let moves = conduct_move(standing, now, |level| lowered(level, left));
        let cause = TrustCause::Violation {
            record: misdeed.record,
            what: misdeed.what.clone(),
            severity: misdeed.severity,
        };
        Some(change(
            agent,
            digest,
            now,
            cause,
            moves.into_iter().collect(),
        ))
    }

    /// What it changes that other code is in force than at the last change; `None` when it is the same, or nothing is known.
    pub fn recoded(&self, agent: &AgentId, digest: &str, now: Timestamp) -> Option<TrustChange> {
        let standing = self.agents.get(agent)?;
        if standing.digest.as_deref() == Some(digest) {
            return None;
        }
        let names: Vec<String> = standing.skills.keys().cloned().collect();
        let moves = skills_of(Some(standing), &names, now, |level| level.min(START));
        Some(change(agent, Some(digest), now, TrustCause::Version, moves))
    }

    /// What an admin's word changes in the trust of an agent that declares these capabilities; `None` when all of it is there
    /// already.
    pub fn reset(
        &self,
        (agent, declared): (&AgentId, &[String]),
        digest: Option<&str>,
        by: &str,
        reset: &TrustReset,
        now: Timestamp,
    ) -> Option<TrustChange> {
        let standing = self.agents.get(agent);
        let to = reset.score.unwrap_or(START);
        let mut moves = if let Some(capability) = &reset.capability {
            skills_of(standing, std::slice::from_ref(capability), now, |_| to)
        } else {
            let scored = standing.map(|s| s.skills.keys()).into_iter().flatten();
            let names: BTreeSet<&String> = scored.chain(declared).collect();
            let names: Vec<String> = names.into_iter().cloned().collect();
            let mut moves = skills_of(standing, &names, now, |_| to);
            let conduct = reset.score.unwrap_or(TrustLevel::FULL);
            moves.extend(conduct_move(standing, now, |_| conduct));
            moves
        };
        // An order is about now: time counts from here on.
        for step in &mut moves {
            step.since = now;
        }
        let cause = TrustCause::Reset {
            by: by.to_owned(),
            reason: reset.reason.clone(),
        };
        (!moves.is_empty()).then(|| change(agent, digest, now, cause, moves))
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: &TrustChange) {
        if !self.agents.contains_key(&change.agent) && self.agents.len() >= AGENTS_MAX {
            let oldest = self.agents.iter().min_by_key(|(_, s)| s.changed);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.and_then(|id| self.agents.remove(&id));
        }
        let standing = self.agents.entry(change.agent.clone()).or_default();
        for step in &change.moves {
            let score = Score {
                level: step.to,
                since: step.since,
            };
            match &step.capability {
                None => standing.conduct = Some(score),
                Some(capability) => {
                    standing.skills.insert(capability.clone(), score);
                }
            }
        }
        while standing.skills.len() > CAPABILITIES_MAX {
            let oldest = standing.skills.iter().min_by_key(|(_, s)| s.since);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                break;
            };
            standing.skills.remove(&oldest);
        }
        if let TrustCause::Violation { record, .. } = &change.cause {
            standing.seen = standing.seen.max(Some(*record));
        }
        if change.digest.is_some() {
            standing.digest.clone_from(&change.digest);
        }
        standing.changed = change.at;
        standing.history.push_front(change.clone());
        standing.history.truncate(HISTORY_MAX);
    }

    /// The trust in an agent that declares these capabilities, with or without its history.
    pub fn view<'a>(
        &self,
        agent: &AgentId,
        declared: impl IntoIterator<Item = &'a String>,
        threshold: TrustLevel,
        now: Timestamp,
        with_history: bool,
    ) -> AgentTrust {
        let standing = self.agents.get(agent);
        let conduct = conduct(standing, now).level;
        let mut names: Vec<&String> = declared.into_iter().collect();
        names.extend(standing.iter().flat_map(|s| s.skills.keys()));
        names.sort();
        names.dedup();
        let capabilities = names.into_iter().map(|name| {
            let score = skill(standing, name, now).level;
            let trust = score.min(conduct);
            CapabilityTrust {
                capability: name.clone(),
                trust,
                score,
                trusted: trust >= threshold,
            }
        });
        let history = standing.filter(|_| with_history).map(|s| &s.history);
        AgentTrust {
            agent_id: agent.clone(),
            conduct,
            capabilities: capabilities.collect(),
            threshold,
            history: history.into_iter().flatten().cloned().collect(),
        }
    }

    /// Whether anything was ever seen of an agent.
    pub fn knows(&self, agent: &AgentId) -> bool {
        self.agents.contains_key(agent)
    }

    /// The agents of which anything was seen, removed ones among them.
    pub fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.keys()
    }
}

/// The strongest of what a result passed, if anything was checked that could have failed.
pub(crate) fn evidence(checks: &[CheckReport], schema: bool) -> Option<TrustEvidence> {
    let passed = || checks.iter().filter(|check| check.passed);
    if passed().any(|check| check.task.is_some()) {
        Some(TrustEvidence::Agent)
    } else if passed().next().is_some() {
        Some(TrustEvidence::Command)
    } else {
        schema.then_some(TrustEvidence::Schema)
    }
}

fn skill(standing: Option<&Standing>, capability: &str, now: Timestamp) -> Score {
    let known = standing.and_then(|s| s.skills.get(capability));
    let fresh = Score {
        level: START,
        since: now,
    };
    known.map_or(fresh, |score| score.at(now, START))
}

fn conduct(standing: Option<&Standing>, now: Timestamp) -> Score {
    let fresh = Score {
        level: TrustLevel::FULL,
        since: now,
    };
    let known = standing.and_then(|s| s.conduct);
    known.map_or(fresh, |score| score.at(now, TrustLevel::FULL))
}

fn skills_of(
    standing: Option<&Standing>,
    needs: &[String],
    now: Timestamp,
    to: impl Fn(TrustLevel) -> TrustLevel,
) -> Vec<TrustMove> {
    let step = |need: &String| moved(Some(need.clone()), skill(standing, need, now), &to);
    needs.iter().filter_map(step).collect()
}

fn conduct_move(
    standing: Option<&Standing>,
    now: Timestamp,
    to: impl Fn(TrustLevel) -> TrustLevel,
) -> Option<TrustMove> {
    moved(None, conduct(standing, now), to)
}

fn moved(
    capability: Option<String>,
    from: Score,
    to: impl Fn(TrustLevel) -> TrustLevel,
) -> Option<TrustMove> {
    let to = to(from.level);
    (to != from.level).then_some(TrustMove {
        capability,
        from: from.level,
        to,
        since: from.since,
    })
}

fn change(
    agent: &AgentId,
    digest: Option<&str>,
    at: Timestamp,
    cause: TrustCause,
    moves: Vec<TrustMove>,
) -> TrustChange {
    TrustChange {
        agent: agent.clone(),
        at,
        digest: digest.map(str::to_owned),
        cause,
        moves,
    }
}
