//! Answers with what it was asked.

use std::io;

use super::sdk::{Agent, Job, Out};

/// The agent.
#[derive(Debug)]
pub(super) struct Echo;

impl Agent for Echo {
    fn profile(&self) -> (&'static str, &'static [&'static str]) {
        ("echo", &["echo"])
    }

    fn on_task(&mut self, job: Job, out: &mut Out) -> io::Result<()> {
        out.succeed(&job.task_id, &job.input)
    }
}
