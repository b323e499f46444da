//! The real Erlang supervisor, in a process of its own.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use mesh_supervision::Strategy;

use super::story::{Step, Story, flags_text, spec_text};

pub(super) struct Oracle {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts it, or says why there is none.
    pub(super) fn start() -> Result<Self, String> {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/erlang/oracle.escript"
        );
        let mut process = Command::new("escript")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("escript, of Debian's erlang-base, does not run: {error}"))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("escript has no pipes".to_owned());
        };
        Ok(Self {
            process,
            input,
            output: BufReader::new(output),
        })
    }

    /// Leads it through a history: a line for each step.
    pub(super) fn tell(&mut self, story: &Story) -> Vec<String> {
        let mut text = format!("begin {}\n", flags_text(&story.flags));
        for child in &story.children {
            _ = writeln!(text, "child {}", spec_text(child));
        }
        for step in &story.steps {
            _ = writeln!(text, "{step}");
        }
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
        let is_pool = story.flags.strategy == Strategy::Dynamic;
        story
            .steps
            .iter()
            .map(|step: &Step| {
                let mut line = String::new();
                self.output.read_line(&mut line).unwrap();
                assert!(!line.is_empty(), "the oracle ended at {step}");
                normal(line.trim_end(), is_pool)
            })
            .collect()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The members of a pool stop in no particular order, which is made one here.
pub(super) fn normal(line: &str, is_pool: bool) -> String {
    if !is_pool {
        return line.to_owned();
    }
    let mut parts: Vec<String> = line.split(" | ").map(ToOwned::to_owned).collect();
    if let Some(events) = parts.get_mut(1) {
        let mut all: Vec<&str> = events.split(", ").collect();
        for run in all.chunk_by_mut(|a, b| a.starts_with("stop") && b.starts_with("stop")) {
            run.sort_unstable();
        }
        *events = all.join(", ");
    }
    parts.join(" | ")
}
