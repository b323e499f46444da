//! Keeps records of refusals short: the same one again is counted, not written. Pure.

use std::collections::BTreeMap;

use crate::denial::{Code, Denial};

/// For how long the same refusal is only counted.
pub const DIGEST_WINDOW_MS: u64 = 60_000;

/// Different refusals that are told apart in a window; the rest are counted together. So an agent writes at most some
/// sixty records a minute, whatever it tries.
pub const DIGEST_KEYS_MAX: usize = 30;

/// A refusal, and how often it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// What was refused.
    pub denial: Denial,
    /// How often since the last record of it.
    pub count: u64,
}

/// What tells refusals apart: the kind, the host, the port, the rule, which names a permission that is missing, and the
/// reason, as what cannot be read has only that.
type Key = (Code, String, u16, Option<String>, String);

/// Refusals of one window.
#[derive(Debug, Default)]
pub struct Digest {
    started: Option<u64>,
    repeated: BTreeMap<Key, Noted>,
    others: u64,
}

impl Digest {
    /// Takes a refusal at this time. What comes back is to be recorded now: the refusal itself when it is new.
    pub fn note(&mut self, now_ms: u64, denial: Denial) -> Option<Noted> {
        self.started.get_or_insert(now_ms);
        let key = (
            denial.code,
            denial.host.clone(),
            denial.port,
            denial.rule.clone(),
            denial.reason.clone(),
        );
        if let Some(noted) = self.repeated.get_mut(&key) {
            noted.count = noted.count.saturating_add(1);
            return None;
        }
        if self.repeated.len() >= DIGEST_KEYS_MAX {
            self.others = self.others.saturating_add(1);
            return None;
        }
        let first = Noted { denial, count: 1 };
        self.repeated.insert(
            key,
            Noted {
                count: 0,
                ..first.clone()
            },
        );
        Some(first)
    }

    /// When the window ends; nothing while there is none.
    #[must_use]
    pub fn ends_at(&self) -> Option<u64> {
        self.started
            .map(|start| start.saturating_add(DIGEST_WINDOW_MS))
    }

    /// Ends the window: what was only counted.
    pub fn end(&mut self) -> Vec<Noted> {
        let ended = std::mem::take(self);
        let others = (ended.others > 0).then(|| Noted {
            denial: Denial::new(
                Code::Several,
                "further refusals of other kinds; see the metrics",
            ),
            count: ended.others,
        });
        let repeated = ended.repeated.into_values().filter(|noted| noted.count > 0);
        repeated.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_records_that_account_for_all_of_it() {
        let mut digest = Digest::default();
        let mut recorded = 0;
        for index in 0..10_000_u64 {
            let host = format!("h{}.test", index % 100);
            let denial = Denial::new(Code::DomainNotAllowed, "no").at(host, 443);
            recorded += digest.note(index, denial).map_or(0, |noted| noted.count);
        }
        assert_eq!(recorded, DIGEST_KEYS_MAX as u64);
        assert_eq!(digest.ends_at(), Some(DIGEST_WINDOW_MS));
        let rest = digest.end();
        assert_eq!(rest.len(), DIGEST_KEYS_MAX + 1);
        assert_eq!(
            recorded + rest.iter().map(|noted| noted.count).sum::<u64>(),
            10_000
        );
        assert_eq!(digest.end(), []);
        assert!(
            digest
                .note(
                    1,
                    Denial::new(Code::DomainNotAllowed, "no").at("h1.test", 443)
                )
                .is_some()
        );
    }
}
