//! Agents that misbehave: contained, classed, counted, explained, and none of the others' business.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

mod commands;
mod ends;
mod good;
mod lines;
mod results;
mod silence;
mod starts;

const SOON: Duration = Duration::from_secs(30);

/// A daemon with one healthy agent, `healthy`, and one that is not.
struct Fleet {
    daemon: Daemon,
    rogue: String,
}

impl Fleet {
    /// Waits until the rogue serves.
    #[track_caller]
    fn serving(rogue: &Bundle) -> Self {
        let fleet = Self::new(Home::new());
        fleet.daemon.deploy(rogue);
        Self {
            rogue: rogue.id().to_owned(),
            ..fleet
        }
    }

    /// Does not wait for the rogue, which may never serve.
    #[track_caller]
    fn starting(home: Home, rogue: &Bundle) -> Self {
        let fleet = Self::new(home);
        fleet.daemon.register(rogue);
        Self {
            rogue: rogue.id().to_owned(),
            ..fleet
        }
    }

    #[track_caller]
    fn new(home: Home) -> Self {
        let daemon = home.start();
        daemon.deploy(&Bundle::echo("healthy"));
        Self {
            daemon,
            rogue: String::new(),
        }
    }

    /// The healthy agent works, and was never started again.
    #[track_caller]
    fn others_are_unaffected(&self) {
        assert_eq!(
            self.daemon.output("echo", &json!("still here")),
            json!("still here")
        );
        assert_eq!(self.daemon.audit("kind=activated&agent=healthy").len(), 1);
        assert_eq!(self.daemon.status("healthy")["fault"]["score"], 0);
    }

    /// Waits for the rogue's first failure of this class, which its records and its status explain.
    #[track_caller]
    fn fails_as(&self, class: &str, because: &str) -> Value {
        let what = format!("{} fails as {class}", self.rogue);
        let record = eventually(&what, SOON, || {
            let errors = self.errors();
            match errors
                .iter()
                .find(|record| record["payload"]["failure"]["class"] == class)
            {
                Some(record) => Ok(record.clone()),
                None => Err(format!("{errors:?}")),
            }
        });
        let message = record["payload"]["failure"]["message"].as_str().unwrap();
        assert!(message.contains(because), "`{because}` in: {message}");
        // Counted among the agent's errors, by class.
        let status = self.daemon.status(&self.rogue);
        let errors = status["health"]["errors"].as_array().unwrap();
        assert!(
            errors
                .iter()
                .any(|error| error["type"] == class && error["count"].as_u64() >= Some(1)),
            "{status}"
        );
        record
    }

    /// Records of failures of the rogue's instances.
    fn errors(&self) -> Vec<Value> {
        self.daemon
            .audit(&format!("kind=error&agent={}", self.rogue))
    }

    /// What the first instance refused so far.
    fn refused(&self) -> u64 {
        self.daemon.status(&self.rogue)["instances"][0]["refusedMessages"]
            .as_u64()
            .unwrap_or(0)
    }
}

/// A task for one capability that gets so many attempts of so long.
fn bounded(capability: &str, input: &Value, attempts: u32, timeout_ms: u64) -> Value {
    json!({
        "requirements": [capability], "input": input, "timeoutMs": timeout_ms,
        "retry": {"maxAttempts": attempts, "baseDelayMs": 10},
    })
}

/// The classes of a task's failed attempts.
fn classes(task: &Value) -> Vec<&str> {
    let attempts = task["attempts"].as_array().unwrap().iter();
    attempts
        .filter_map(|attempt| attempt["error"]["class"].as_str())
        .collect()
}
