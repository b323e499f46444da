//! What was measured of an agent, as it counts when a team is drafted.
//!
//! An agent's *standing* at a capability, in millionths: the trust in it there, times the share of its verified results that
//! passed, at first and in the end alike. Two results that passed and two that did not are added to what was seen, so that
//! one result decides little and none means one half (Laplace's rule of succession). Nobody knows a new agent, so it stands
//! at 0.375, above one that has failed and below one that has done well.

use std::collections::BTreeMap;

use mesh_messages::quality::Quality;
use mesh_messages::trust::TrustLevel;

use super::Candidate;

/// Who stands below is taken into a team only where nobody else has what is needed: about two results in a row that broke
/// their contracts, and none that kept it.
const POOR: u64 = 150_000;

/// What was measured of an agent at one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merit {
    /// How far it is trusted there.
    pub trust: TrustLevel,
    /// What became of its verified results.
    pub quality: Quality,
}

impl Default for Merit {
    fn default() -> Self {
        Self {
            trust: crate::trust::START,
            quality: Quality::default(),
        }
    }
}

impl Merit {
    fn standing(self) -> u64 {
        let Quality {
            verified,
            passed_first,
            passed,
        } = self.quality;
        // Counts of tasks are far below what would overflow; a log that says otherwise changes nothing but the order.
        let good = passed_first.saturating_add(passed).saturating_add(2);
        let all = verified.saturating_mul(2).saturating_add(4);
        u64::from(self.trust.millionths()).saturating_mul(good) / all
    }
}

impl std::fmt::Display for Merit {
    /// `1 of 2 verified results passed, 0 at first, trust 0.7`, cut to two places.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quality {
            verified,
            passed_first,
            passed,
        } = self.quality;
        match verified {
            0 => f.write_str("no verified results")?,
            _ => write!(
                f,
                "{passed} of {verified} verified passed, {passed_first} at first"
            )?,
        }
        let hundredths = self.trust.millionths() / 10_000;
        write!(f, ", trust {}.{:02}", hundredths / 100, hundredths % 100)
    }
}

impl Candidate {
    fn merit(&self, capability: &str) -> Merit {
        self.merits.get(capability).copied().unwrap_or_default()
    }

    /// The lowest standing at any of these capabilities.
    pub(super) fn standing<'n>(&self, needs: impl IntoIterator<Item = &'n String>) -> u64 {
        let standings = needs.into_iter().map(|need| self.merit(need).standing());
        standings
            .min()
            .unwrap_or_else(|| Merit::default().standing())
    }

    /// Whether it stands so low at one of these that others go before it.
    pub(super) fn is_poor<'n>(&self, needs: impl IntoIterator<Item = &'n String>) -> bool {
        self.standing(needs) < POOR
    }

    /// What was measured of it at these, in words.
    pub(super) fn told(&self, needs: &[String]) -> String {
        let each: BTreeMap<&String, Merit> =
            needs.iter().map(|need| (need, self.merit(need))).collect();
        let each: Vec<String> = each
            .iter()
            .map(|(need, merit)| format!("{need}: {merit}"))
            .collect();
        format!("{} ({})", self.agent, each.join("; "))
    }
}
