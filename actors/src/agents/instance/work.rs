//! Runtimes without a conversation: `command`, one process per task, and `native`, one future per task.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use mesh_messages::claim::TaskClaim;
use mesh_messages::manifest::{AgentManifest, RuntimeKind};
use mesh_messages::task::TASK_DATA_MAX;
use mesh_messages::{Failure, FailureClass};
use mesh_sandbox::{Child, ExitStatus};

use super::strain::Bell;
use super::{InstanceMessage, LAST_WORDS_MAX, Phase, Session};
use crate::agents::delivery::Delivery;
use crate::agents::lines::read_log;
use crate::agents::live::InstanceLive;
use crate::agents::native::{NativeBehaviour, behaviour};
use crate::agents::process::{Pipes, Stdin, exit_failure, launch};
use crate::agents::services::Services;
use crate::agents::spawn::{Start, plan_launch};
use crate::context::Context;
use crate::outbound::{Traveller, serve};
use crate::secrets::Blotter;

/// The environment variable in which a command finds what its task claims: `{"<resource>": <token>}`.
const CLAIMS_VARIABLE: &str = "MESH_CLAIMS";

/// Exit code by which a command says that it cannot serve now (`EX_TEMPFAIL`).
const EX_TEMPFAIL: i32 = 75;

/// How long the rest of a command's log is read when it has ended: its result should not wait for what is read slowly.
const LAST_LOG_MAX: Duration = Duration::from_secs(1);

/// A task at work. Dropping it cancels it; whoever works on it ends its process tree before it says so.
#[derive(Debug)]
pub(super) struct Running {
    cancel: Option<oneshot::Sender<()>>,
}

impl From<oneshot::Sender<()>> for Running {
    fn from(cancel: oneshot::Sender<()>) -> Self {
        let cancel = Some(cancel);
        Self { cancel }
    }
}

impl Running {
    /// Has it given up.
    pub(super) fn cancel(&mut self) {
        self.cancel = None;
    }
}

type Work = Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>>;

impl Session {
    /// A `command` agent has no process until it has a task; meshd shakes hands in its name.
    pub(super) fn start_command(&mut self) {
        self.up(self.args.manifest.capabilities.iter().cloned().collect());
    }

    /// A `native` agent is there as soon as its name is found.
    pub(super) fn start_native(&mut self) {
        if behaviour(&self.args.ctx, &self.args.manifest).is_none() {
            let name = self.args.manifest.entry.as_deref().unwrap_or_default();
            let text = format!("entry: this meshd has no native agent `{name}`");
            return self.finish(Some(Failure::new(FailureClass::Start, text)));
        }
        self.start_command();
    }

    /// Sets a delivered task to work.
    pub(super) fn run(&mut self, delivery: Delivery) {
        let me = self.me.clone();
        self.args.live.active(crate::clock::now());
        let (task, attempt) = (delivery.task.clone(), delivery.attempt);
        let (cancel, cancelled) = oneshot::channel();
        let native = match self.args.manifest.resolved_runtime().kind {
            RuntimeKind::Native => behaviour(&self.args.ctx, &self.args.manifest),
            RuntimeKind::Klp | RuntimeKind::Command => None,
        };
        let work: Work = match native {
            Some(native) => Box::pin(async move {
                tokio::select! {
                    result = attempt_of(&*native, &delivery) => result,
                    _ = cancelled => Err(given_up()),
                }
            }),
            None => Box::pin(self.command(delivery, cancelled)),
        };
        let key = task.clone();
        ractor::concurrency::spawn(async move {
            let result = match ractor::concurrency::spawn(work).await {
                Ok(result) => result,
                Err(error) if error.is_panic() => {
                    Err(Failure::new(FailureClass::Crash, "panicked"))
                }
                Err(_) => Err(given_up()),
            };
            let _gone = me.cast(InstanceMessage::TaskExited {
                task,
                attempt,
                result,
            });
        });
        self.running.insert(key, cancel.into());
    }

    /// One process for one task: input on its standard input, result from its standard output.
    fn command(
        &mut self,
        delivery: Delivery,
        mut cancelled: oneshot::Receiver<()>,
    ) -> impl Future<Output = Result<Value, Failure>> + Send + use<> {
        let manifest = &self.args.manifest;
        let program = self.program(match &delivery.claims[..] {
            [] => Arc::clone(manifest),
            claims => Arc::new(claiming(manifest, claims)),
        });
        async move {
            let input = serde_json::to_vec(&*delivery.input).unwrap_or_default();
            let (status, output) = program.run(input, &mut cancelled).await?;
            outcome(status, output)
        }
    }

    /// A program to be run once in this agent's sandbox: what the manifest says is started.
    pub(super) fn program(&mut self, manifest: Arc<AgentManifest>) -> OneProgram {
        self.next_id += 1;
        let (blotter, sink) = self.log_sink();
        OneProgram {
            ctx: Arc::clone(&self.args.ctx),
            services: Arc::clone(&self.args.services),
            live: Arc::clone(&self.args.live),
            manifest,
            digest: self.args.digest.clone(),
            process: self.next_id,
            blotter,
            sink: Box::new(sink),
            who: Traveller {
                agent: self.args.agent.clone(),
                instance: self.args.instance,
                epoch: self.args.epoch,
            },
            bell: self.bell(),
        }
    }

    pub(super) fn task_exited(
        &mut self,
        task: &mesh_messages::TaskId,
        attempt: mesh_messages::AttemptNo,
        result: Result<Value, Failure>,
    ) {
        self.running.remove(task);
        self.args.live.active(crate::clock::now());
        if matches!(self.phase, Phase::Killed { .. }) {
            if self.running.is_empty() {
                self.conclude();
            }
            return;
        }
        if self
            .flights
            .get(task)
            .is_none_or(|flight| flight.attempt != attempt)
        {
            return;
        }
        match result {
            // Ends the instance; its owner ends the attempt with this class, so that it is counted once.
            Err(failure) if failure.class.is_scored() => self.kill(Some(failure)),
            result => self.handed_in(task, result),
        }
    }
}

/// Has a native agent do what it was given.
async fn attempt_of(native: &dyn NativeBehaviour, delivery: &Delivery) -> Result<Value, Failure> {
    let (action, input) = (&delivery.action, &delivery.input);
    match &delivery.claims[..] {
        [] => native.on_keyed(&delivery.task, action, input).await,
        claims => native.on_claimed(action, input, claims).await,
    }
}

/// The agent as it is, with the tokens of what its task claims in its environment.
fn claiming(manifest: &AgentManifest, claims: &[TaskClaim]) -> AgentManifest {
    let mut manifest = manifest.clone();
    let tokens: BTreeMap<&str, Option<u64>> = claims
        .iter()
        .map(|claim| (claim.resource.as_str(), claim.token))
        .collect();
    let text = serde_json::to_string(&tokens).unwrap_or_default();
    let runtime = manifest.runtime.get_or_insert_default();
    runtime.env.insert(CLAIMS_VARIABLE.to_owned(), text);
    manifest
}

/// A program that runs once, in a sandbox of its agent's.
pub(super) struct OneProgram {
    ctx: Arc<Context>,
    services: Arc<dyn Services>,
    live: Arc<InstanceLive>,
    manifest: Arc<AgentManifest>,
    digest: String,
    process: u64,
    blotter: Blotter,
    sink: Box<dyn FnMut(Vec<u8>) + Send>,
    who: Traveller,
    bell: Bell,
}

impl OneProgram {
    /// The instance of which it is a process.
    pub(super) fn live(&self) -> Arc<InstanceLive> {
        Arc::clone(&self.live)
    }

    /// Runs it to its end: how it ended, and what it wrote on its standard output.
    pub(super) async fn run(
        self,
        input: Vec<u8>,
        cancelled: &mut oneshot::Receiver<()>,
    ) -> Result<(ExitStatus, Vec<u8>), Failure> {
        let Self {
            ctx,
            services,
            live,
            manifest,
            digest,
            process,
            blotter,
            sink,
            who,
            bell,
        } = self;
        let rate = ctx.settings.agent_rate;
        let (instance, epoch) = (who.instance, who.epoch);
        let (planning, served) = (Arc::clone(&ctx), Arc::clone(&manifest));
        let plan = tokio::task::spawn_blocking(move || {
            let start = Start {
                manifest: &manifest,
                digest: &digest,
                instance,
                epoch,
                process,
            };
            plan_launch(&planning, start)
        });
        let refused = |text: String| Failure::new(FailureClass::Start, text);
        let (plan, bounds) = plan
            .await
            .map_err(|_| refused("the start was given up".to_owned()))?
            .map_err(Failure::from)?;
        let uid = plan.spec().ids.map(|ids| ids.uid);
        live.plan_limits(process, bounds);
        // Not interrupted by a cancellation: only a start that has come to its end can be known to be gone.
        let launched = launch(&ctx.launcher, plan).await;
        let (mut child, pipes) = launched.inspect_err(|_| live.remove_process(process))?;
        live.add_process(process, child.handle(), uid);
        if live.is_unsettled() {
            // Its limits were changed while this was on its way.
            let settling = Arc::clone(&live);
            let _set = tokio::task::spawn_blocking(move || settling.settle_process(process)).await;
        }
        if live.is_to_stand_still() {
            // It was paused while this was on its way.
            let still = Arc::clone(&live);
            let _level = tokio::task::spawn_blocking(move || still.settle_frozen()).await;
        }
        let mut output = Vec::new();
        let listener = (child.listener.take(), live.egress());
        let way_out = serve(&ctx, &services, &served, who, listener);
        let Pipes {
            stdin,
            stdout,
            stderr,
        } = pipes;
        let log = read_log(stderr, rate, (blotter, sink));
        let talk = async {
            tokio::join!(feed(stdin, input), read(&child, stdout, &mut output));
        };
        let end = tokio::select! {
            end = attend(&child, talk, log, cancelled) => end,
            () = way_out => Err(given_up()),
        };
        bell.ended(&live, process, &child.handle());
        live.remove_process(process);
        Ok((end?, output))
    }
}

pub(super) fn given_up() -> Failure {
    Failure::new(FailureClass::Cancelled, "was given up")
}

async fn feed(mut stdin: Stdin, input: Vec<u8>) {
    // A program that does not read its input is free not to.
    let _unread = stdin.write_all(&input).await;
}

/// Reads a program's output. One that writes too much is ended: nobody reads the rest, so it would wait for ever.
async fn read(child: &Child, stdout: pipe::Receiver, output: &mut Vec<u8>) {
    let limit = TASK_DATA_MAX as u64 + 1;
    let _cut_short = stdout.take(limit).read_to_end(output).await;
    if output.len() > TASK_DATA_MAX {
        let _ended_already = child.kill();
    }
}

/// Waits for the end of a program, for its output, and a moment for its log; a failure when it was ended for a
/// cancellation.
async fn attend(
    child: &Child,
    talk: impl Future<Output = ()>,
    log: impl Future<Output = ()>,
    cancelled: &mut oneshot::Receiver<()>,
) -> Result<ExitStatus, Failure> {
    tokio::pin!(talk, log);
    let (mut talking, mut logging, mut wanted) = (true, true, true);
    let status = loop {
        tokio::select! {
            () = &mut talk, if talking => talking = false,
            () = &mut log, if logging => logging = false,
            status = child.wait() => break status,
            _ = &mut *cancelled, if wanted => {
                wanted = false;
                if let Err(error) = child.kill() {
                    tracing::error!(%error, "cannot kill a command whose task was cancelled");
                }
            }
        }
    };
    if !wanted {
        return Err(given_up());
    }
    if talking && tokio::time::timeout(LAST_WORDS_MAX, talk).await.is_err() {
        // Half an output is none.
        let text = "its output could not be read to its end";
        return Err(Failure::new(FailureClass::Lost, text));
    }
    if logging {
        let _cut_short = tokio::time::timeout(LAST_LOG_MAX, log).await;
    }
    Ok(status)
}

/// What the end of a command means for its task.
fn outcome(status: ExitStatus, output: Vec<u8>) -> Result<Value, Failure> {
    if output.len() > TASK_DATA_MAX {
        let text = format!("wrote more than {TASK_DATA_MAX} bytes");
        return Err(Failure::new(FailureClass::Contract, text));
    }
    match status.code {
        // What two readers could understand differently is text.
        Some(0) if !status.oom => Ok(mesh_messages::json::parse(&output)
            .unwrap_or_else(|_| json!({ "text": String::from_utf8_lossy(&output) }))),
        Some(EX_TEMPFAIL) if !status.oom => Err(Failure::new(
            FailureClass::Unavailable,
            format!("exited with code {EX_TEMPFAIL}"),
        )),
        Some(code) if !status.oom => Err(Failure::new(
            FailureClass::Refusal,
            format!("exited with code {code}"),
        )),
        _ => Err(exit_failure(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>, oom: bool) -> ExitStatus {
        ExitStatus { code, signal, oom }
    }

    #[test]
    fn output_that_two_readers_could_understand_differently_is_text() {
        for text in [
            "9007199254740993",
            r#"{"a":1,"a":2}"#,
            "NaN",
            "{} trailing",
            "1e400",
        ] {
            let output = outcome(exit(Some(0), None, false), text.as_bytes().to_vec());
            assert_eq!(output.unwrap(), json!({ "text": text }));
        }
        let output = outcome(exit(Some(0), None, false), b" 9007199254740991\n".to_vec());
        assert_eq!(output.unwrap(), json!(9_007_199_254_740_991_u64));
    }

    #[test]
    fn the_end_of_a_command_decides_what_its_output_is_worth() {
        let class = |status, output: &[u8]| outcome(status, output.to_vec()).map_err(|f| f.class);
        assert_eq!(
            class(exit(Some(0), None, false), b"{\"a\":1}"),
            Ok(json!({"a": 1}))
        );
        assert_eq!(
            class(exit(Some(0), None, false), b"hello\n"),
            Ok(json!({"text": "hello\n"}))
        );
        assert_eq!(
            class(exit(Some(75), None, false), b""),
            Err(FailureClass::Unavailable)
        );
        assert_eq!(
            class(exit(Some(1), None, false), b"{}"),
            Err(FailureClass::Refusal)
        );
        assert_eq!(
            class(exit(None, Some(11), false), b"{}"),
            Err(FailureClass::Crash)
        );
        assert_eq!(
            class(exit(None, Some(9), true), b""),
            Err(FailureClass::Resource)
        );
        assert_eq!(
            class(exit(Some(0), None, false), &vec![b'1'; TASK_DATA_MAX + 1]),
            Err(FailureClass::Contract)
        );
    }
}
