//! What must hold, a file per promise. No checker asks the machine that it checks: each keeps its own account of what
//! went in and what came out, and knows the rules from `docs/semantics.md`.

pub(crate) mod fault_rules;
pub(crate) mod fault_table;
pub(crate) mod instances;
pub(crate) mod starts;
pub(crate) mod supervision;
pub(crate) mod tasks;

use std::fmt;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub promise: &'static str,
    /// What was seen instead.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// Nothing, or the first promise that was not kept.
pub(crate) type Verdict = Result<(), Breach>;

/// Checks one promise.
pub(crate) fn ensure(holds: bool, promise: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        return Ok(());
    }
    breach(promise, what())
}

/// Says that a promise was not kept.
pub(crate) fn breach(promise: &'static str, what: impl Into<String>) -> Verdict {
    Err(Breach {
        promise,
        what: what.into(),
    })
}
