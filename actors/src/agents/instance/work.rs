//! Runtimes without a conversation: `command`, one process per task, and `native`, one future per task.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use mesh_messages::task::TASK_DATA_MAX;
use mesh_messages::{Failure, FailureClass};
use mesh_sandbox::ExitStatus;

use super::{InstanceMessage, Session};
use crate::agents::delivery::Delivery;
use crate::agents::lines::read_log;
use crate::agents::process::{exit_failure, launch};
use crate::agents::spawn::{Start, plan_start};

/// Exit code by which a command says that it cannot serve now (`EX_TEMPFAIL`).
const EX_TEMPFAIL: i32 = 75;

/// A task at work; dropping it ends it, its process tree included.
#[derive(Debug)]
pub(super) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// A `command` agent has no process until it has a task; meshd shakes hands in its name.
    pub(super) fn start_command(&mut self) {
        self.shaken(self.args.manifest.capabilities.iter().cloned().collect());
        self.ready();
    }

    /// A `native` agent is there as soon as its name is found.
    pub(super) fn start_native(&mut self) {
        let name = self.native_name();
        if self.args.ctx.natives.get(&name).is_none() {
            let text = format!("entry: this meshd has no native agent `{name}`");
            return self.finish(Some(Failure::new(FailureClass::Start, text)));
        }
        self.start_command();
    }

    fn native_name(&self) -> String {
        let entry = self.args.manifest.entry.as_deref().unwrap_or_default();
        entry.strip_prefix("builtin:").unwrap_or(entry).to_owned()
    }

    /// Sets a delivered task to work.
    pub(super) fn run(&mut self, delivery: Delivery) {
        let me = self.me.clone();
        let (task, attempt) = (delivery.task.clone(), delivery.attempt);
        let work: std::pin::Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>> =
            match self.args.ctx.natives.get(&self.native_name()) {
                Some(native)
                    if self.args.manifest.resolved_runtime().kind
                        == mesh_messages::manifest::RuntimeKind::Native =>
                {
                    Box::pin(async move { native.on_task(&delivery.action, &delivery.input).await })
                }
                _ => Box::pin(self.command(delivery)),
            };
        let key = task.clone();
        let watched = ractor::concurrency::spawn(async move {
            let work = AbortOnDrop(ractor::concurrency::spawn(work));
            let result = match work.wait().await {
                Ok(result) => result,
                Err(error) if error.is_panic() => {
                    Err(Failure::new(FailureClass::Crash, "panicked"))
                }
                Err(_) => Err(Failure::new(FailureClass::Lost, "was given up")),
            };
            let _gone = me.cast(InstanceMessage::TaskExited {
                task,
                attempt,
                result,
            });
        });
        self.running.insert(key, Running(watched));
    }

    /// One process for one task: input on its standard input, result from its standard output.
    fn command(
        &mut self,
        delivery: Delivery,
    ) -> impl Future<Output = Result<Value, Failure>> + Send + use<> {
        self.next_id += 1;
        let process = self.next_id;
        let (ctx, live) = (Arc::clone(&self.args.ctx), Arc::clone(&self.args.live));
        let (manifest, digest) = (Arc::clone(&self.args.manifest), self.args.digest.clone());
        let (instance, epoch) = (self.args.instance, self.args.epoch);
        let rate = ctx.settings.agent_rate;
        let sink = self.log_sink();
        async move {
            let planning = Arc::clone(&ctx);
            let plan = tokio::task::spawn_blocking(move || {
                let start = Start {
                    manifest: &manifest,
                    digest: &digest,
                    instance,
                    epoch,
                    process,
                };
                plan_start(&planning, start)
            });
            let refused = |text: String| Failure::new(FailureClass::Start, text);
            let plan = plan
                .await
                .map_err(|_| refused("the start was given up".to_owned()))?
                .map_err(|refusal| refused(refusal.to_string()))?;
            let uid = plan.spec().ids.map(|ids| ids.uid);
            let (child, mut pipes) = launch(&ctx.launcher, plan).await?;
            live.set_process(Some(child.handle()), uid);
            let input = serde_json::to_vec(&*delivery.input).unwrap_or_default();
            let feed = async {
                // A program that does not read its input is free not to.
                let _unread = pipes.stdin.write_all(&input).await;
                drop(pipes.stdin);
            };
            let read = async {
                let mut output = Vec::new();
                let limit = TASK_DATA_MAX as u64 + 1;
                let _cut_short = (&mut pipes.stdout)
                    .take(limit)
                    .read_to_end(&mut output)
                    .await;
                output
            };
            let log = read_log(pipes.stderr, rate, sink);
            let work = async {
                let ((), output) = tokio::join!(feed, read);
                output
            };
            let all = async { tokio::join!(work, log).0 };
            tokio::pin!(all);
            // What holds the pipes open after the program's end is not the program.
            let (status, output) = tokio::select! {
                output = &mut all => {
                    if output.len() > TASK_DATA_MAX {
                        let _ended_already = child.kill();
                    }
                    (child.wait().await, output)
                }
                status = child.wait() => (status, all.await),
            };
            live.set_process(None, None);
            outcome(status, output)
        }
    }

    pub(super) fn task_exited(
        &mut self,
        task: &mesh_messages::TaskId,
        attempt: mesh_messages::AttemptNo,
        result: Result<Value, Failure>,
    ) {
        self.running.remove(task);
        if self
            .flights
            .get(task)
            .is_none_or(|flight| flight.attempt != attempt)
        {
            return;
        }
        match result {
            Err(failure) if failure.class.is_scored() => {
                // Ends the instance; its owner ends the attempt with this class, so that it is counted once.
                self.finish(Some(failure));
            }
            result => self.land(task, result),
        }
    }
}

/// What the end of a command means for its task.
fn outcome(status: ExitStatus, output: Vec<u8>) -> Result<Value, Failure> {
    if output.len() > TASK_DATA_MAX {
        let text = format!("wrote more than {TASK_DATA_MAX} bytes");
        return Err(Failure::new(FailureClass::Contract, text));
    }
    match status.code {
        Some(0) if !status.oom => Ok(serde_json::from_slice(&output)
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

/// A task that ends with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn wait(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>, oom: bool) -> ExitStatus {
        ExitStatus { code, signal, oom }
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
