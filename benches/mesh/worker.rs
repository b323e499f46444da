//! The native agent that is hurt: it panics when a task says so, and notes when it is at work.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use mesh_actors::agents::native::NativeBehaviour;
use mesh_messages::Failure;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// What a worker was doing when.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    /// About to panic.
    Panics(Instant),
    /// A task has reached it.
    Works(Instant),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Worker {
    notes: mpsc::UnboundedSender<Note>,
    /// Workers that are told to wait for the storm do so until this is true.
    storm: watch::Receiver<bool>,
}

impl Worker {
    pub(crate) fn new(notes: mpsc::UnboundedSender<Note>, storm: watch::Receiver<bool>) -> Self {
        Self { notes, storm }
    }

    fn note(&self, note: Note) {
        // Who does not listen any more has seen enough.
        _ = self.notes.send(note);
    }
}

/// What the input of a task says.
pub(crate) fn input(way: &str) -> Value {
    json!({ "way": way })
}

#[async_trait]
impl NativeBehaviour for Worker {
    #[expect(clippy::panic, reason = "it is what is measured")]
    async fn on_task(&self, _action: &str, input: &Value) -> Result<Value, Failure> {
        match input["way"].as_str() {
            Some("panic") => {
                self.note(Note::Panics(Instant::now()));
                panic!("told to")
            }
            Some("storm") => {
                self.note(Note::Works(Instant::now()));
                let mut storm = self.storm.clone();
                drop(storm.wait_for(|storm| *storm).await);
                panic!("the storm is here")
            }
            Some("rest") => tokio::time::sleep(Duration::from_hours(1)).await,
            _ => self.note(Note::Works(Instant::now())),
        }
        Ok(Value::Null)
    }
}
