//! Splits a tree into files, has each analysed by whoever can, and the findings joined into a report.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::sdk::{Agent, Job, Out};
use super::walk::walk;

/// Requests that it has open at once: enough to keep every analyst busy.
const OPEN_MAX: usize = 64;
/// Findings of one file that the report needs; the rest would only fill the reporter's input.
const REPORTED: [&str; 9] = [
    "path",
    "language",
    "bytes",
    "lines",
    "code",
    "comments",
    "blank",
    "longLines",
    "marks",
];

/// The agent.
#[derive(Debug, Default)]
pub(super) struct Planner {
    jobs: BTreeMap<String, Work>,
}

#[derive(Debug, Default)]
struct Work {
    root: String,
    total: usize,
    left_out: usize,
    waiting: VecDeque<(usize, String)>,
    open: BTreeMap<usize, String>,
    files: Vec<Value>,
    failed: Vec<Value>,
}

impl Agent for Planner {
    fn profile(&self) -> (&'static str, &'static [&'static str]) {
        ("planner", &["report-on-tree"])
    }

    fn on_task(&mut self, job: Job, out: &mut Out) -> io::Result<()> {
        let Some(root) = job.input["path"].as_str() else {
            return out.fail(&job.task_id, "refusal", "input.path: missing");
        };
        let found = match walk(Path::new(root)) {
            Ok(found) if !found.files.is_empty() => found,
            Ok(_) => {
                return out.fail(
                    &job.task_id,
                    "refusal",
                    &format!("{root}: no files to report on"),
                );
            }
            Err(error) => return out.fail(&job.task_id, "refusal", &format!("{root}: {error}")),
        };
        let mut work = Work {
            root: root.to_owned(),
            total: found.files.len(),
            left_out: found.left_out,
            // Nobody can be asked to analyse them, so they are as good as analysed in vain.
            failed: closed(&found.closed, "a directory that agents may not read")
                .chain(closed(&found.nameless, "a name that is not UTF-8"))
                .collect(),
            ..Work::default()
        };
        work.total += work.failed.len();
        let names = found.files.iter().map(|f| f.to_string_lossy().into_owned());
        work.waiting.extend(names.enumerate());
        work.ask(&job.task_id, out)?;
        self.jobs.insert(job.task_id, work);
        Ok(())
    }

    fn on_reply(
        &mut self,
        request: &str,
        result: Result<Value, String>,
        out: &mut Out,
    ) -> io::Result<()> {
        // Requests are named `<task>/<number>` and `<task>/report`.
        let Some((task, part)) = request.rsplit_once('/') else {
            return Ok(());
        };
        let task = task.to_owned();
        if part == "report" {
            if self.jobs.remove(&task).is_none() {
                return Ok(());
            }
            return match result {
                Ok(report) => out.succeed(&task, &report),
                Err(error) => {
                    out.fail(&task, "unavailable", &format!("the report failed: {error}"))
                }
            };
        }
        let Some(work) = self.jobs.get_mut(&task) else {
            return Ok(());
        };
        let Some(path) = part
            .parse()
            .ok()
            .and_then(|number: usize| work.open.remove(&number))
        else {
            return Ok(());
        };
        match result {
            Ok(mut finding) => {
                if let Some(finding) = finding.as_object_mut() {
                    finding.retain(|key, _| REPORTED.contains(&key.as_str()));
                }
                work.files.push(finding);
            }
            Err(error) => work.failed.push(json!({"path": path, "error": error})),
        }
        work.ask(&task, out)
    }

    fn on_cancel(&mut self, task_id: &str) {
        self.jobs.remove(task_id);
    }
}

fn closed(paths: &[PathBuf], why: &str) -> impl Iterator<Item = Value> {
    paths
        .iter()
        .map(move |path| json!({"path": path.to_string_lossy(), "error": why}))
}

impl Work {
    /// Keeps enough requests open; asks for the report when the last answer is in.
    fn ask(&mut self, task: &str, out: &mut Out) -> io::Result<()> {
        while self.open.len() < OPEN_MAX {
            let Some((number, path)) = self.waiting.pop_front() else {
                break;
            };
            out.delegate(
                task,
                &format!("{task}/{number}"),
                "analyse-file",
                &json!({"path": path}),
            )?;
            self.open.insert(number, path);
        }
        let done = self.files.len() + self.failed.len();
        // The file count of a tree is small enough for a float.
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred files")]
        let fraction = done as f64 / (self.total + 1) as f64;
        out.progress(task, fraction, &format!("{done} of {} files", self.total))?;
        if done == self.total {
            self.files
                .sort_by(|a, b| a["path"].as_str().cmp(&b["path"].as_str()));
            let input = json!({
                "root": self.root, "files": self.files, "failed": self.failed, "leftOut": self.left_out,
            });
            out.delegate(task, &format!("{task}/report"), "write-report", &input)?;
        }
        Ok(())
    }
}
