//! `meshd demo`: the main job on real files, in seconds, with nothing installed but this binary.
//!
//! Everything here goes the way that a client's requests go; nothing is staged but the crashes, and those by an agent.

use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mesh_actors::Operations;
use mesh_actors::operations::BundleSource;
use mesh_config::{Config, Origins};
use mesh_messages::agent::{FaultState, Lifecycle};
use mesh_messages::identity::DidKey;
use mesh_messages::problem::Problem;
use mesh_messages::task::{Task, TaskSpec, TaskState};
use mesh_messages::units::Span;
use mesh_messages::{Position, TaskId};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::cli::DemoArgs;
use crate::daemon::{Node, Serving, Signals, operator, runtime};
use crate::exit::{Exit, Failure};
use crate::telemetry::Export;

mod fleet;
mod screen;
mod story;

use screen::Screen;
use story::Story;

/// How long the report may take; a tree of the largest size that the planner takes needs a tenth.
const LIMIT: Duration = Duration::from_mins(3);
/// How long the fleet may take to be ready; longer than one start may take.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How often the screen is brought up to date: often enough to look alive.
const REFRESH: Duration = Duration::from_millis(60);
/// The fragile agent's first delay before a restart, and how long its breaker first stays open: short enough that what
/// follows happens while there is work.
const BACKOFF: Span = Span::from_millis(20);
const COOL_DOWN: Span = Span::from_millis(200);
/// How long the demo waits, once the report is done, for a restart that is due.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Events that are read at once.
const BATCH: usize = 1000;
/// The audit log's export, in the data directory.
const EXPORT_FILE: &str = "audit.jsonl";

/// `meshd demo`.
///
/// # Errors
/// Why there is no report.
pub(crate) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let root = readable(args.path.as_deref()).map_err(|error| Failure::new(Exit::Failed, error))?;
    let data = tempfile::Builder::new().prefix("meshd-demo-").tempdir();
    let data = data.map_err(|error| Failure::io("cannot make a temporary directory", error))?;
    outside(&root, data.path()).map_err(|error| Failure::new(Exit::Failed, error))?;
    let (node, storage) = Node::open(config(&data), Origins::default())?;
    let export = node.telemetry()?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let demo = Demo {
            root,
            data: data.path().to_owned(),
            key: node.identity.name,
            screen: Screen::new(),
        };
        Box::pin(demo.play(node, &mut signals, &export, args.keep)).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(storage);
    outcome
}

/// The configuration as shipped, but for where it lives, and a shorter wait for what is to be seen.
fn config(data: &TempDir) -> Config {
    let mut config = Config {
        data: data.path().to_owned(),
        ..Config::default()
    };
    "127.0.0.1:0".clone_into(&mut config.listen);
    // What goes wrong on purpose is told on the screen.
    "off".clone_into(&mut config.telemetry.log_level);
    config.supervision.backoff_base = BACKOFF;
    config.supervision.cool_down_base = COOL_DOWN;
    config
}

/// The tree to report on: absolute, without links, and readable by agents, which are other users when meshd is root.
fn readable(path: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = path.unwrap_or(Path::new("."));
    let shown = path.display();
    let root = std::fs::canonicalize(path).with_context(|| format!("cannot report on {shown}"))?;
    let about = std::fs::metadata(&root).with_context(|| format!("cannot report on {shown}"))?;
    let (needed, mode) = if about.is_dir() {
        (0o005, "o+rx")
    } else {
        (0o004, "o+r")
    };
    let shown = root.display();
    anyhow::ensure!(
        !rustix::process::geteuid().is_root() || about.mode() & needed == needed,
        "agents run as users of their own, and may not read {shown}; try `chmod {mode} {shown}`, or another PATH"
    );
    Ok(root)
}

/// A sandbox never shows meshd's own state.
fn outside(root: &Path, data: &Path) -> anyhow::Result<()> {
    let data = std::fs::canonicalize(data).context("cannot use the temporary directory")?;
    anyhow::ensure!(
        !data.starts_with(root),
        "{} holds the demo's own data, {}; choose another PATH, or set TMPDIR",
        root.display(),
        data.display()
    );
    Ok(())
}

fn told(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{}", problem.detail)
}

/// Waits until all instances of an agent serve.
async fn await_ready(operations: &dyn Operations, agent: &str, wanted: u32) -> anyhow::Result<()> {
    let limit = tokio::time::Instant::now() + START_LIMIT;
    loop {
        let status = operations.agent_status(agent).await.map_err(told)?;
        let instances = status.instances.unwrap_or_default();
        let serving = instances
            .iter()
            .filter(|one| one.lifecycle == Lifecycle::Executing)
            .count();
        if u32::try_from(serving).is_ok_and(|serving| serving >= wanted) {
            return Ok(());
        }
        let why = status.fault.and_then(|fault| fault.reason);
        anyhow::ensure!(
            tokio::time::Instant::now() < limit,
            "{agent} did not start: {}; see `meshd doctor`",
            why.as_deref().unwrap_or("no handshake came")
        );
        tokio::time::sleep(REFRESH).await;
    }
}

struct Demo {
    root: PathBuf,
    data: PathBuf,
    key: DidKey,
    screen: Screen,
}

impl Demo {
    async fn play(
        mut self,
        node: Node,
        signals: &mut Signals,
        export: &Export,
        keep: bool,
    ) -> Result<Exit, Failure> {
        self.screen.title(&format!(
            "meshd demo: a fleet of agents reports on {}",
            self.root.display()
        ));
        self.screen.lines(&fleet::introduction());
        let serving = Serving::start(node, None).await?;
        let operations = serving.mesh.operations();
        let shown = tokio::select! {
            shown = self.show(&*operations) => shown,
            name = signals.next() => Err(anyhow::anyhow!("interrupted by {name}")),
        };
        match shown {
            Ok(()) if keep => {
                self.invite(&serving.url);
                Ok(serving.until_signal(signals, export).await)
            }
            Ok(()) => {
                serving.stop(signals).await;
                self.screen.line("Next: `meshd demo --keep` to look around in this mesh, `meshd --help` to run your own.");
                Ok(Exit::Ok)
            }
            Err(error) => {
                self.screen.end_progress();
                serving.stop(signals).await;
                Err(Failure::new(Exit::Failed, error))
            }
        }
    }

    async fn show(&mut self, operations: &dyn Operations) -> anyhow::Result<()> {
        self.deploy(operations).await?;
        let mut story = Story::new(&self.root);
        let task = self.report(operations, &mut story).await?;
        self.screen.end_progress();
        let error = || {
            task.error
                .as_ref()
                .map_or_else(|| task.state.name().to_owned(), ToString::to_string)
        };
        anyhow::ensure!(
            task.state == TaskState::Succeeded,
            "there is no report: {}",
            error()
        );
        let text = task
            .output
            .as_ref()
            .and_then(|output| output["text"].as_str())
            .unwrap_or_default();
        self.screen.heading("Report");
        self.screen.lines(text.trim_end());
        self.screen.heading("What happened");
        self.screen.lines(&story.summary());
        self.sandbox(operations).await?;
        self.prove(operations).await
    }

    /// Registers the fleet, all at once.
    async fn deploy(&mut self, operations: &dyn Operations) -> anyhow::Result<()> {
        self.screen.begin("starting the agents");
        let caller = operator();
        let bundles = fleet::manifests(&self.root)?;
        let registrations = bundles.into_iter().map(|manifest| {
            operations.register_agent(
                &caller,
                BundleSource::Manifest {
                    manifest,
                    path: None,
                },
                true,
            )
        });
        let (mut ready, mut agents) = (0, 0);
        for registration in futures::future::join_all(registrations).await {
            let there = registration
                .map_err(told)
                .context("an agent could not be deployed; see `meshd doctor`")?;
            agents += 1;
            ready += there.instances_wanted;
            await_ready(operations, there.id.as_str(), there.instances_wanted).await?;
        }
        self.screen.event(&format!(
            "{ready} processes of {agents} agents are ready, each in a sandbox of its own"
        ));
        Ok(())
    }

    /// Submits the one task and shows what becomes of it.
    async fn report(
        &mut self,
        operations: &dyn Operations,
        story: &mut Story,
    ) -> anyhow::Result<Task> {
        let spec: TaskSpec = serde_json::from_value(json!({
            "type": "report-on-tree",
            "requirements": ["report-on-tree"],
            "input": {"path": self.root},
            "deadlineMs": u64::try_from(LIMIT.as_millis())?,
        }))?;
        let submitted = operations
            .submit_tasks(&operator(), vec![spec])
            .await
            .map_err(told)?;
        let id: TaskId = submitted
            .receipts
            .first()
            .context("no receipt came back")?
            .id
            .clone();
        let mut seen = None;
        loop {
            let task = operations.task(id.as_str()).await.map_err(told)?;
            self.follow(operations, story, &mut seen).await?;
            if let Some(progress) = &task.progress {
                self.screen.progress(
                    progress.fraction,
                    progress.note.as_deref().unwrap_or_default(),
                );
            }
            if task.state.is_terminal() {
                self.settle(operations, story, &mut seen).await?;
                return Ok(task);
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Of a few files the report is done before the agent that crashed is back: that is still to be seen.
    async fn settle(
        &mut self,
        operations: &dyn Operations,
        story: &mut Story,
        seen: &mut Option<Position>,
    ) -> anyhow::Result<()> {
        let limit = tokio::time::Instant::now() + SETTLE_LIMIT;
        loop {
            let status = operations
                .agent_status(fleet::FRAGILE)
                .await
                .map_err(told)?;
            self.follow(operations, story, seen).await?;
            let waits = status
                .fault
                .is_some_and(|fault| fault.state == FaultState::Backoff);
            if !waits || tokio::time::Instant::now() >= limit {
                return Ok(());
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Tells what the log has since it was last looked at.
    async fn follow(
        &mut self,
        operations: &dyn Operations,
        story: &mut Story,
        seen: &mut Option<Position>,
    ) -> anyhow::Result<()> {
        loop {
            let events = operations.events_after(*seen, BATCH).await.map_err(told)?;
            for event in &events {
                *seen = event.id.or(*seen);
                if let Some(notable) = story.see(event) {
                    self.screen.event(&notable);
                }
            }
            if events.len() < BATCH {
                return Ok(());
            }
        }
    }

    async fn sandbox(&mut self, operations: &dyn Operations) -> anyhow::Result<()> {
        let view = operations
            .agent_sandbox(fleet::EXAMPLE)
            .await
            .map_err(told)?;
        self.screen.heading("What kept the agents in");
        self.screen.lines(&fleet::sandbox(&view));
        Ok(())
    }

    /// Exports the log and verifies it as anybody could, with nothing but the file and the node's public key.
    async fn prove(&mut self, operations: &dyn Operations) -> anyhow::Result<()> {
        let path = self.data.join(EXPORT_FILE);
        let mut chunks = operations.export_audit(None, true).await.map_err(told)?;
        let mut file = tokio::fs::File::create(&path)
            .await
            .context("cannot write the export")?;
        while let Some(chunk) = chunks.recv().await {
            file.write_all(&chunk.map_err(told)?)
                .await
                .context("cannot write the export")?;
        }
        file.flush().await.context("cannot write the export")?;
        let key = self.key;
        let report = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(&path).context("cannot read the export")?;
            mesh_persistence::verify(BufReader::new(file), Some(&key), None)
                .context("the audit log does not verify")
        })
        .await??;
        self.screen.heading("Proof");
        self.screen.lines(&format!(
            "Every step above is in the audit log. Exported, and checked against the node's public key alone:\n\
             verified {} records, root {}",
            report.records, report.root
        ));
        self.screen.line("");
        Ok(())
    }

    fn invite(&mut self, url: &str) {
        let data = self.data.display();
        self.screen.lines(&format!(
            "The mesh goes on serving at {url}. In another terminal:\n\n\
             \x20 export MESH_DATA={data}\n\
             \x20 meshctl status\n\
             \x20 meshctl agent show fragile-analyst      how it stands, and why\n\
             \x20 meshctl agent history fragile-analyst   every start and every crash\n\
             \x20 meshctl agent recover fragile-analyst   give it another chance\n\
             \x20 meshctl task list                       every file's task, with its attempts\n\
             \x20 meshctl audit verify {data}/{EXPORT_FILE}\n\n\
             Ctrl-C ends it and removes its data."
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_missing_or_holds_the_demos_own_data_is_refused_by_name() {
        let error = readable(Some(Path::new("/no/such/tree"))).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/tree"), "{error:#}");
        let data = tempfile::tempdir().unwrap();
        let error = outside(
            &std::fs::canonicalize(std::env::temp_dir()).unwrap(),
            data.path(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("TMPDIR"), "{error:#}");
        outside(Path::new("/no/such/tree"), data.path()).unwrap();
    }

    #[test]
    fn the_demos_configuration_is_one_that_could_be_loaded() {
        let data = tempfile::tempdir().unwrap();
        let text = serde_json::to_vec(&config(&data)).unwrap();
        let sources = mesh_config::Sources {
            file: Some(("demo.yaml".into(), text)),
            ..mesh_config::Sources::default()
        };
        assert_eq!(Config::load(&sources).unwrap().0, config(&data));
    }
}
