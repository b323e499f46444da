//! What the agents of these tests do with their tasks, and the book that is kept of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mesh_actors::agents::native::NativeBehaviour;
use mesh_messages::Failure;
use serde_json::{Value, json};

/// What a task does to whoever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Answers at once.
    Quick,
    /// Takes so many milliseconds.
    Slow(u64),
    /// Panics the first time that it is run, and answers from then on.
    PanicsOnce,
    /// Never answers.
    Never,
}

impl Way {
    /// The input of task `n`.
    pub(crate) fn input(self, n: u64) -> Value {
        match self {
            Self::Quick => json!({ "n": n, "way": "quick" }),
            Self::Slow(ms) => json!({ "n": n, "way": "slow", "ms": ms }),
            Self::PanicsOnce => json!({ "n": n, "way": "panics_once" }),
            Self::Never => json!({ "n": n, "way": "never" }),
        }
    }
}

/// How often one task was run.
#[derive(Debug, Clone, Copy, Default)]
struct Runs {
    begun: u32,
    now: u32,
    most: u32,
    // Ends only because its time is up.
    is_endless: bool,
}

/// The book: which task was run how often, and how often at the same time.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<u64, Runs>>);

/// A run that ends with its future, however that ends.
struct Run<'a>(&'a Ledger, u64);

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.with(self.1, |runs| runs.now -= 1);
    }
}

impl Ledger {
    fn with<R>(&self, n: u64, change: impl FnOnce(&mut Runs) -> R) -> R {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(n).or_default())
    }

    /// Enters a run, and says which one of its task it is, from 1.
    fn begin(&self, n: u64) -> (Run<'_>, u32) {
        let begun = self.with(n, |runs| {
            runs.begun += 1;
            runs.now += 1;
            runs.most = runs.most.max(runs.now);
            runs.begun
        });
        (Run(self, n), begun)
    }

    /// How many runs are under way.
    pub(crate) fn under_way(&self) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|runs| runs.now).sum()
    }

    /// How many runs there were in all.
    pub(crate) fn runs(&self) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|runs| runs.begun).sum()
    }

    /// The tasks that were run twice at the same time, by whomever. (An attempt whose time is up is told to let go, and the
    /// next one does not wait until it has; that is no failure.)
    pub(crate) fn run_twice_at_once(&self) -> Vec<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = all
            .iter()
            .filter(|(_, runs)| runs.most > 1 && !runs.is_endless);
        twice.map(|(n, _)| *n).collect()
    }

    /// The tasks that were run more than once, save those whose time ran out.
    pub(crate) fn run_again(&self) -> Vec<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = all
            .iter()
            .filter(|(_, runs)| runs.begun > 1 && !runs.is_endless);
        again.map(|(n, _)| *n).collect()
    }
}

/// The native agent of these tests.
#[derive(Debug)]
pub(crate) struct Worker(pub(crate) Arc<Ledger>);

#[async_trait]
impl NativeBehaviour for Worker {
    async fn on_task(&self, _action: &str, input: &Value) -> Result<Value, Failure> {
        let n = input["n"].as_u64().unwrap();
        let (_run, begun) = self.0.begin(n);
        match input["way"].as_str().unwrap() {
            "slow" => {
                tokio::time::sleep(Duration::from_millis(input["ms"].as_u64().unwrap())).await;
            }
            "panics_once" if begun == 1 => {
                panic!("task {n} panics the first time, as it is told to")
            }
            "quick" | "panics_once" => {}
            _ => {
                self.0.with(n, |runs| runs.is_endless = true);
                std::future::pending::<()>().await;
            }
        }
        Ok(json!({ "n": n }))
    }
}
