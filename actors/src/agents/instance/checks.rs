//! Acceptance checks: what an agent hands in counts once it has passed them.
//!
//! ```text
//!  result ─► its form (task machine's schema) ─► check after check ─► AttemptNews::Checked, then Ended
//!                                                  ├ command: a process in a sandbox of this agent's
//!                                                  └ requirements: a task for another agent
//! ```
//!
//! The attempt is in hand meanwhile, so its time limit, a cancellation and a lost instance end it as they always do. What a
//! report means is for the task machine to decide; a check that could not be made is nobody's broken contract, and makes
//! the attempt fail as `unavailable`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use mesh_actors_core::liveness::Input;
use mesh_messages::klp::TaskRequest;
use mesh_messages::manifest::{AgentManifest, RuntimeKind, RuntimeSpec};
use mesh_messages::schema::Checker;
use mesh_messages::task::{
    AcceptanceCheck, CHECK_TIMEOUT_DEFAULT_MS, CheckReport, EVIDENCE_BYTES_MAX, TaskContract,
};
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskId};

use super::work::{OneProgram, given_up};
use super::{InstanceMessage, Phase, Process, Session};
use crate::agents::delivery::{AttemptNews, ChildOutcome, Delivery};
use crate::agents::services::{Delegation, Services};

/// How often a verifying agent's task is asked for again: who was to tell of its end may have been restarted.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// How often it is looked whether whoever makes a check was told to stand still: its time does not count then.
const STILL_LOOK: Duration = Duration::from_millis(500);

/// What has to be known of an attempt to check its result.
#[derive(Debug)]
pub(super) struct Checkable {
    action: String,
    needs: Vec<String>,
    input: Arc<Value>,
    contract: Option<Arc<TaskContract>>,
}

impl Checkable {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let contract = delivery.contract.clone();
        Self {
            action: delivery.action.clone(),
            needs: delivery.needs.clone(),
            input: Arc::clone(&delivery.input),
            contract: contract.filter(|contract| !contract.checks.is_empty()),
        }
    }
}

/// What came of checking a result.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(super) task: TaskId,
    attempt: AttemptNo,
    reports: Vec<CheckReport>,
    result: Result<Value, Failure>,
}

/// A check, ready to be made.
enum Step {
    Command {
        name: String,
        program: OneProgram,
        limit: Duration,
    },
    Agent(Box<Verification>),
    Impossible {
        name: String,
        why: &'static str,
    },
}

/// A question to an agent that verifies.
struct Verification {
    name: String,
    services: Arc<dyn Services>,
    delegation: Delegation,
    /// How long it may take; as long as the attempt when absent.
    limit: Option<Duration>,
    answer: oneshot::Receiver<ChildOutcome>,
}

impl Session {
    /// A result is there: it is checked if its contract says so, and otherwise counts.
    pub(super) fn handed_in(&mut self, task: &TaskId, result: Result<Value, Failure>) {
        let Some(flight) = self.flights.get(task) else {
            return;
        };
        let wanted = flight.work.contract.clone();
        let result = result.and_then(|output| {
            let held = self.terms.gives(&flight.work.needs, &output);
            held.map(|()| output)
        });
        let (Ok(output), Some(contract), None) = (&result, wanted, &flight.give_up) else {
            return self.land(task, result);
        };
        if breaks_form(&contract, output) {
            // The task machine finds that, too, and says where.
            return self.land(task, result);
        }
        let attempt = flight.attempt;
        let (output, question) = (output.clone(), self.question(task, output));
        let checks = contract.checks.iter().enumerate();
        let steps: Vec<Step> = checks
            .map(|(index, check)| self.step(task, attempt, (index, check), &question))
            .collect();
        self.report(AttemptNews::Checking {
            task: task.clone(),
            attempt,
            epoch: self.args.epoch,
            checks: contract.checks.clone(),
        });
        // The agent has done its part; what takes time now is not its silence.
        self.watched(Input::Ended { task: task.clone() });
        let (cancel, cancelled) = oneshot::channel();
        self.running.insert(task.clone(), cancel.into());
        let (me, task) = (self.me.clone(), task.clone());
        ractor::concurrency::spawn(async move {
            let (reports, failure) = make_all(steps, &output, cancelled).await;
            let result = failure.map_or(Ok(output), Err);
            let checked = Checked {
                task,
                attempt,
                reports,
                result,
            };
            let _gone = me.cast(InstanceMessage::Checked(Box::new(checked)));
        });
    }

    /// What a verifying agent gets, but for the name of the check.
    fn question(&self, task: &TaskId, output: &Value) -> Value {
        let work = self.flights.get(task).map(|flight| &flight.work);
        json!({
            "task": task,
            "action": work.map(|work| work.action.as_str()),
            "input": work.map(|work| &*work.input),
            "output": output,
        })
    }

    fn step(
        &mut self,
        task: &TaskId,
        attempt: AttemptNo,
        (index, check): (usize, &AcceptanceCheck),
        question: &Value,
    ) -> Step {
        let name = check.name.clone();
        if check.requirements.is_empty() {
            let runtime = self.args.manifest.resolved_runtime();
            if runtime.kind == RuntimeKind::Native {
                let why = "a native agent has no sandbox to run it in";
                return Step::Impossible { name, why };
            }
            let limit = check.timeout_ms.unwrap_or(CHECK_TIMEOUT_DEFAULT_MS);
            return Step::Command {
                name,
                program: self.program(Arc::new(checking(&self.args.manifest, &check.command))),
                limit: Duration::from_millis(limit),
            };
        }
        // No agent can write such an id, so none can have asked for this child before.
        let request = format!("check\n{attempt}\n{index}");
        let mut input = question.clone();
        input["check"] = Value::from(name.as_str());
        let delegation = Delegation {
            agent: self.args.agent.clone(),
            instance: self.args.instance,
            epoch: self.args.epoch,
            parent: task.clone(),
            attempt,
            request: request.clone(),
            task: TaskRequest {
                action: None,
                requirements: check.requirements.clone(),
                input,
                deadline_ms: None,
                timeout_ms: None,
                approval: None,
                budget: None,
                claims: Vec::new(),
                escalate: None,
                trust: None,
            },
            avoid: Some(self.args.agent.clone()),
            token: None,
            within: Vec::new(),
            line: None,
        };
        let (tell, answer) = oneshot::channel();
        self.verifiers.insert((task.clone(), request), tell);
        Step::Agent(Box::new(Verification {
            name,
            services: Arc::clone(&self.args.services),
            delegation,
            limit: check.timeout_ms.map(Duration::from_millis),
            answer,
        }))
    }

    /// Takes the end of a delegated task that verifies; gives back any other.
    pub(super) fn verdict_given(&mut self, outcome: ChildOutcome) -> Option<ChildOutcome> {
        let asked = (outcome.parent.clone(), outcome.request.clone());
        match self.verifiers.remove(&asked) {
            Some(waits) => {
                let _given_up = waits.send(outcome);
                None
            }
            // One that nobody waits for any more is none of the agent's, either.
            None => (!outcome.request.contains('\n')).then_some(outcome),
        }
    }

    /// All checks of a result were made, or given up.
    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked {
            task,
            attempt,
            reports,
            result,
        } = checked;
        self.running.remove(&task);
        self.verifiers.retain(|_, waits| !waits.is_closed());
        if matches!(self.phase, Phase::Killed { .. }) {
            if self.running.is_empty() && matches!(self.process, Process::Absent) {
                self.conclude();
            }
            return;
        }
        let current = self.flights.get(&task);
        if current.is_none_or(|flight| flight.attempt != attempt) {
            return;
        }
        if !reports.is_empty() {
            self.report(AttemptNews::Checked {
                task: task.clone(),
                attempt,
                epoch: self.args.epoch,
                checks: reports,
            });
        }
        self.land(&task, result);
    }
}

fn breaks_form(contract: &TaskContract, output: &Value) -> bool {
    let schema = contract.output_schema.as_ref();
    schema.is_some_and(|schema| {
        Checker::new(schema.clone()).is_ok_and(|checker| !checker.check(output).is_empty())
    })
}

/// The agent as it is, but for what is started: the same sandbox around another program. It is not given the agent's secrets,
/// since what it writes is kept as evidence.
fn checking(manifest: &AgentManifest, command: &[String]) -> AgentManifest {
    let mut manifest = manifest.clone();
    let own = manifest.runtime.take().unwrap_or_default();
    manifest.entry = None;
    manifest.secrets.clear();
    let mut words = command.iter().cloned();
    manifest.runtime = Some(RuntimeSpec {
        kind: RuntimeKind::Command,
        command: words.next(),
        args: words.collect(),
        ..own
    });
    manifest
}

/// Makes the checks one after the other, up to the first that does not pass; a failure when one could not be made.
async fn make_all(
    steps: Vec<Step>,
    output: &Value,
    mut cancelled: oneshot::Receiver<()>,
) -> (Vec<CheckReport>, Option<Failure>) {
    let text = serde_json::to_vec(output).unwrap_or_default();
    let mut reports = Vec::new();
    for step in steps {
        let made = match step {
            Step::Command {
                name,
                program,
                limit,
            } => run(name, program, limit, text.clone(), &mut cancelled).await,
            Step::Agent(verification) => tokio::select! {
                made = ask(*verification) => made,
                _ = &mut cancelled => Err(given_up()),
            },
            Step::Impossible { name, why } => Err(unmade(&name, why)),
        };
        match made {
            Ok(report) => {
                let passed = report.passed;
                reports.push(report);
                if !passed {
                    break;
                }
            }
            Err(failure) => return (reports, Some(failure)),
        }
    }
    (reports, None)
}

/// Why a check could not be made: not the fault of whoever did the work.
fn unmade(name: &str, why: impl std::fmt::Display) -> Failure {
    let text = format!("check \"{name}\" could not be made: {why}");
    Failure::new(FailureClass::Unavailable, text)
}

async fn run(
    name: String,
    program: OneProgram,
    limit: Duration,
    input: Vec<u8>,
    cancelled: &mut oneshot::Receiver<()>,
) -> Result<CheckReport, Failure> {
    let (stop, mut stopped) = oneshot::channel::<()>();
    let live = program.live();
    let work = program.run(input, &mut stopped);
    tokio::pin!(work);
    let late = tokio::select! {
        ended = &mut work => return told(name, ended),
        () = in_motion(limit, || std::future::ready(live.is_to_stand_still())) => true,
        _ = &mut *cancelled => false,
    };
    drop(stop);
    // Its process is gone when this returns.
    let _ended = work.await;
    if !late {
        return Err(given_up());
    }
    Ok(CheckReport {
        name,
        passed: false,
        evidence: format!("took longer than {} ms", limit.as_millis()),
        task: None,
    })
}

fn told(
    name: String,
    ended: Result<(mesh_sandbox::ExitStatus, Vec<u8>), Failure>,
) -> Result<CheckReport, Failure> {
    let (status, output) = ended.map_err(|failure| unmade(&name, failure))?;
    let how = match (status.code, status.signal) {
        _ if status.oom => "ran out of memory".to_owned(),
        (Some(0), _) => String::new(),
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    let said = last_of(&output);
    let gap = if how.is_empty() || said.is_empty() {
        ""
    } else {
        ": "
    };
    Ok(CheckReport {
        name,
        passed: how.is_empty(),
        evidence: format!("{how}{gap}{said}"),
        task: None,
    })
}

/// The end of what was written, which is where results stand.
fn last_of(output: &[u8]) -> String {
    let from = output.len().saturating_sub(EVIDENCE_BYTES_MAX);
    let text = String::from_utf8_lossy(&output[from..]);
    text.trim().to_owned()
}

/// Returns after so much time in which whoever makes the check was not told to stand still.
async fn in_motion<F: Future<Output = bool> + Send>(limit: Duration, stands: impl Fn() -> F) {
    let mut left = limit;
    while !left.is_zero() {
        let step = left.min(STILL_LOOK);
        tokio::time::sleep(step).await;
        if !stands().await {
            left = left.saturating_sub(step);
        }
    }
}

/// The task of whoever verifies; cancelled when nobody waits for its verdict any more, however that came: it would have a place
/// of the author's task, and of the verifier, until the deadline.
struct Asked {
    services: Arc<dyn Services>,
    task: Mutex<Option<TaskId>>,
}

impl Asked {
    fn known(&self) -> Option<TaskId> {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.clone()
    }

    fn set(&self, task: Option<TaskId>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(task) = self.known() {
            let why = "nobody waits for its verdict any more";
            self.services.give_up(task, why.to_owned());
        }
    }
}

async fn ask(verification: Verification) -> Result<CheckReport, Failure> {
    let Verification {
        name,
        services,
        delegation,
        limit,
        mut answer,
    } = verification;
    let child = Asked {
        services: Arc::clone(&services),
        task: Mutex::new(None),
    };
    let asked = async {
        loop {
            let task = services
                .delegate(delegation.clone())
                .await
                .map_err(|error| unmade(&name, error.detail))?;
            child.set(Some(task));
            if let Ok(answered) = tokio::time::timeout(ASK_AGAIN, &mut answer).await {
                return answered.map_err(|_| given_up());
            }
        }
    };
    let stands = || {
        let (services, task) = (Arc::clone(&services), child.known());
        async move {
            match task {
                Some(task) => services.stands_still(&task).await,
                None => false,
            }
        }
    };
    let late = async {
        match limit {
            Some(limit) => in_motion(limit, stands).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = asked => {
            // It has ended by itself.
            child.set(None);
            outcome?
        }
        () = late => {
            let ms = limit.unwrap_or_default().as_millis();
            let why = format!("whoever verifies it took longer than {ms} ms");
            return Err(unmade(&name, why));
        }
    };
    judged(name, &delegation.agent, outcome)
}

/// What an agent's answer says of the work of another.
fn judged(name: String, author: &AgentId, outcome: ChildOutcome) -> Result<CheckReport, Failure> {
    if outcome.by.as_ref() == Some(author) {
        let why = format!("nobody but {author} itself, who did the work, can verify it");
        return Err(unmade(&name, why));
    }
    let child = outcome.child;
    let answer = outcome.result;
    let answer = answer.map_err(|failure| unmade(&name, format!("task {child}: {failure}")))?;
    let Some(passed) = answer.get("ok").and_then(Value::as_bool) else {
        let why = format!("task {child} answered neither `ok: true` nor `ok: false`");
        return Err(unmade(&name, why));
    };
    let reason = answer.get("reason").and_then(Value::as_str).unwrap_or("");
    let cut = reason.floor_char_boundary(EVIDENCE_BYTES_MAX);
    Ok(CheckReport {
        name,
        passed,
        evidence: reason[..cut].to_owned(),
        task: Some(child),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(by: &str, result: Result<Value, Failure>) -> ChildOutcome {
        ChildOutcome {
            parent: TaskId::new("p").unwrap(),
            request: "check\n1\n0".to_owned(),
            child: TaskId::new("c").unwrap(),
            by: Some(AgentId::new(by).unwrap()),
            result,
        }
    }

    #[test]
    fn an_agent_never_verifies_its_own_work() {
        let author = AgentId::new("author").unwrap();
        let yes = || Ok(json!({"ok": true, "reason": "fine"}));
        let own = judged("c".to_owned(), &author, outcome("author", yes()));
        assert_eq!(own.unwrap_err().class, FailureClass::Unavailable);
        let other = judged("c".to_owned(), &author, outcome("critic", yes())).unwrap();
        assert!(other.passed);
        assert_eq!(other.evidence, "fine");
    }

    #[test]
    fn an_answer_that_says_neither_yes_nor_no_is_no_verdict() {
        let author = AgentId::new("author").unwrap();
        for answer in [json!({}), json!({"ok": "true"}), json!("yes"), Value::Null] {
            let judged = judged("c".to_owned(), &author, outcome("critic", Ok(answer)));
            assert_eq!(judged.unwrap_err().class, FailureClass::Unavailable);
        }
    }

    #[test]
    fn evidence_is_the_last_that_was_written() {
        let long = format!("{}end\n", "é".repeat(EVIDENCE_BYTES_MAX));
        let said = last_of(long.as_bytes());
        assert!(said.ends_with("éend") && said.len() <= EVIDENCE_BYTES_MAX + 2);
    }
}
