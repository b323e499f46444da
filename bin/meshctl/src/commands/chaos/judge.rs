//! The verdict: each promise against the evidence. Pure, so that each can be shown evidence that breaks it.

mod agents;
mod proof;
mod tasks;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::evidence::Evidence;
use super::stories::stories;

/// Names that a finding lists; beyond them it only counts.
const IDS_MAX: usize = 8;

/// What the evidence says of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It was put to the test, and held.
    Held,
    /// It was broken.
    Broken,
    /// Nothing happened that could have broken it, or it could not be looked at.
    NotTested,
    /// It cannot be told yet.
    Undecided,
}

impl Verdict {
    /// As people read it; what is bad is loud.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Broken => "BROKEN",
            Self::NotTested => "not tested",
            Self::Undecided => "undecided",
        }
    }
}

/// One promise and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// Its name, stable.
    pub(super) invariant: &'static str,
    /// What it says.
    pub(super) promise: &'static str,
    pub(super) verdict: Verdict,
    /// What that rests on, in words and numbers.
    pub(super) evidence: String,
    /// What broke it, or keeps it from being told: ids, positions, processes.
    pub(super) ids: Vec<String>,
}

/// What speaks against a promise, gathered.
#[derive(Debug, Default)]
struct Against(Vec<String>);

impl Against {
    fn add(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }

    /// Broken by what was gathered, or as it is otherwise.
    fn finding(
        self,
        (invariant, promise): (&'static str, &'static str),
        otherwise: Verdict,
        evidence: impl Into<String>,
    ) -> Finding {
        let evidence = evidence.into();
        if self.0.is_empty() {
            let ids = Vec::new();
            return Finding {
                invariant,
                promise,
                verdict: otherwise,
                evidence,
                ids,
            };
        }
        let count = self.0.len();
        let mut ids = self.0;
        ids.truncate(IDS_MAX);
        Finding {
            invariant,
            promise,
            verdict: Verdict::Broken,
            evidence: format!("{count} against it; {evidence}"),
            ids,
        }
    }
}

/// The verdict on every promise, always in this order.
pub(super) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let stories = stories(evidence);
    vec![
        tasks::end_once(evidence, &stories),
        tasks::fenced(evidence, &stories),
        agents::epochs_rise(evidence),
        agents::starts_by_policy(evidence, &stories),
        agents::quarantine_is_complete(evidence, &stories),
        proof::blows_are_audited(evidence),
        proof::nothing_survives(evidence),
        proof::log_verifies(evidence),
        proof::mesh_answers(evidence),
    ]
}
