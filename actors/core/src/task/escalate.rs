//! Tasks that have failed for good, and who takes them up.
//!
//! A task that is escalated has not ended: whoever waits for it waits on, until somebody gives it another round of
//! attempts, gives its output, or gives it up. Each step is a task below it, made in the same group of records as the
//! move of the task itself: a question to a person, or a follow-up for an agent.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_messages::AgentId;
use mesh_messages::escalation::{
    ANSWER_DROP, ANSWER_OUTPUT, ANSWER_RETRY, ESCALATION_WITHIN_DEFAULT_MS, Escalation,
    EscalationMove, EscalationStep, GivenUp,
};
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::inbox::{AnswerRole, AskKind, Ruling};
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::schema::Checker;
use mesh_messages::task::{
    DEADLINE_DEFAULT_MS, Priority, TASK_DATA_MAX, Task, TaskSpec, TaskState, WaitReason,
};
use mesh_messages::workflow::ApprovalSpec;
use mesh_messages::{Failure, FailureClass, TaskId, Timestamp};
use serde_json::{Value, json};

use super::asks::{self, OPEN_ASKS_MAX};
use super::command::{Answer, Refusal};
use super::config::RetryPolicy;
use super::record::TaskRecord;
use super::state::{Entry, Tasks};
use super::submit::{child_id, digest_of, hold_within};
use super::tx::Tx;
use super::validate::json_len;

/// Attempts that whoever takes a task up is told of, the last ones.
const ATTEMPTS_TOLD_MAX: usize = 16;
/// Longest text of a failure that they are told, in bytes.
const FAILURE_TOLD_MAX: usize = 512;
/// Largest input that a question repeats; a person finds a larger one with the task.
const INPUT_ASKED_MAX: usize = 16 * 1024;

/// What a task that is escalated waits for; `None` of every other task.
pub(crate) fn escalated_to(entry: &Entry) -> Option<&TaskId> {
    let task = entry.task();
    let waits = task.waiting_for.as_ref()?;
    let escalated = task.state == TaskState::Blocked && waits.reason == WaitReason::Escalation;
    let latest = task.escalation.as_ref().filter(|_| escalated)?;
    latest.end.is_none().then_some(&latest.task)
}

/// Whether a task is the question or the follow-up of an escalation, which is no child that anybody delegated.
pub(crate) fn is_step(spec: &TaskSpec) -> bool {
    spec.escalates.is_some()
}

/// How a failure ends a task; `None` when it does not, or when somebody wanted it to end.
pub(crate) fn given_up(then: &AfterFailure) -> Option<GivenUp> {
    match then {
        AfterFailure::Fail => Some(GivenUp::Failed),
        AfterFailure::DeadLetter => Some(GivenUp::DeadLettered),
        AfterFailure::Retry { .. }
        | AfterFailure::Park { .. }
        | AfterFailure::Escalate { .. }
        | AfterFailure::Cancel => None,
    }
}

/// What a person decides about a task that was escalated.
enum Verdict {
    Retry,
    Drop,
    Output(Value),
}

/// Reads an answer; `None` when the question is about no escalated task.
fn verdict(record: &TaskRecord, answer: Option<&str>) -> Option<Result<Verdict, String>> {
    record.task.spec.escalates.as_ref()?;
    let Some(answer) = answer.map(str::trim) else {
        return Some(Ok(Verdict::Drop));
    };
    Some(match (answer, answer.strip_prefix(ANSWER_OUTPUT)) {
        (ANSWER_RETRY, _) => Ok(Verdict::Retry),
        (ANSWER_DROP, _) => Ok(Verdict::Drop),
        (_, Some(text)) => serde_json::from_str(text)
            .map(Verdict::Output)
            .map_err(|error| format!("what follows \"{ANSWER_OUTPUT}\" is no JSON: {error}")),
        _ => Err(format!(
            "must be \"{ANSWER_RETRY}\", \"{ANSWER_DROP}\", or \"{ANSWER_OUTPUT}\" and the output as JSON"
        )),
    })
}

/// Whether a question is about an escalated task, and its answer is none to that.
pub(crate) fn check_answer(
    tasks: &Tasks,
    record: &TaskRecord,
    answer: Option<&str>,
) -> Result<bool, Refusal> {
    let output = match verdict(record, answer) {
        None => return Ok(false),
        Some(Err(why)) => return Err(Refusal::Unfit(why)),
        Some(Ok(Verdict::Output(output))) => output,
        Some(Ok(Verdict::Retry | Verdict::Drop)) => return Ok(true),
    };
    let about = record.task.spec.escalates.as_ref();
    let contract = about.and_then(|task| tasks.get(task)?.spec.contract.as_ref());
    if let Some(schema) = contract.and_then(|contract| contract.output_schema.clone()) {
        let wrong = match Checker::new(schema) {
            Ok(checker) => checker.check(&output).first().map(ToString::to_string),
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            let why = format!("the output breaks the task's contract: {wrong}");
            return Err(Refusal::Unfit(why));
        }
    }
    Ok(true)
}

/// What whoever takes a task up is told of it.
fn told(task: &Task, failure: &Failure, size_max: usize) -> Value {
    let from = task.attempts.len().saturating_sub(ATTEMPTS_TOLD_MAX);
    let attempts = task.attempts[from..].iter().map(|attempt| {
        json!({
            "number": attempt.number,
            "agentId": attempt.agent_id,
            "startedAt": attempt.started_at,
            "endedAt": attempt.ended_at,
            "error": attempt.error.as_ref().map(short),
        })
    });
    let mut told = json!({
        "task": task.id,
        "action": task.spec.action(),
        "requirements": task.spec.needs(),
        "submittedBy": task.submitted_by,
        "submittedAt": task.submitted_at,
        "error": short(failure),
        "attempts": attempts.collect::<Vec<_>>(),
        "input": Value::Null,
    });
    if json_len(&told) + json_len(&task.spec.input) <= size_max {
        told["input"] = task.spec.input.clone();
    } else {
        told["inputLeftOut"] = Value::Bool(true);
    }
    told
}

fn short(failure: &Failure) -> Failure {
    let mut failure = failure.clone();
    let end = failure.message.floor_char_boundary(FAILURE_TOLD_MAX);
    failure.message.truncate(end);
    failure
}

/// A step that can be taken.
struct Taken {
    step: usize,
    to: EscalationStep,
    until: Timestamp,
    spec: TaskSpec,
    /// Who may answer, where a person is asked.
    ruling: Option<Ruling>,
}

/// Who takes a task up, by its own word, else by the operator's.
fn steps<'t>(tx: &'t Tx<'_>, task: &'t Task) -> &'t [EscalationStep] {
    if task.spec.approval.is_some() || is_step(&task.spec) {
        return &[];
    }
    if let Some(own) = &task.spec.escalate {
        return own;
    }
    if task.spec.parent.is_some() {
        return &[];
    }
    let policy = &tx.ctx.config.policy;
    let last = task.attempts.last().map(|attempt| &attempt.agent_id);
    let own = last.and_then(|agent| policy.agents.get(agent));
    let scopes = own.into_iter().chain(&policy.default);
    let mut said = scopes
        .map(|scope| scope.escalate.as_slice())
        .filter(|steps| !steps.is_empty());
    said.next().unwrap_or_default()
}

/// The first step from this one on that can be taken now.
fn next_step(tx: &Tx<'_>, id: &TaskId, from: usize, failure: &Failure) -> Option<Taken> {
    let task = tx.tasks.live(id)?.task();
    let steps = steps(tx, task).iter().enumerate().skip(from);
    steps
        .map(|(step, to)| (step, to.clone()))
        .find_map(|(step, to)| {
            let within = to.within_ms.unwrap_or(ESCALATION_WITHIN_DEFAULT_MS);
            let until = latest(tx, task, Duration::from_millis(within));
            if until <= tx.ctx.now {
                return None;
            }
            let (spec, ruling) = match to.person {
                Some(_) if asks_too_much(tx, &task.submitted_by) => return None,
                Some(role) => {
                    let spec = question(task, role, failure);
                    let ruling = ruling(tx, task, &spec, role)?;
                    (spec, Some(ruling))
                }
                None => (follow_up(tx, task, &to, failure)?, None),
            };
            Some(Taken {
                step,
                to,
                until,
                spec,
                ruling,
            })
        })
}

/// Who may answer the question about a task; `None` where the operator's rules have nobody asked.
fn ruling(tx: &Tx<'_>, task: &Task, spec: &TaskSpec, role: AnswerRole) -> Option<Ruling> {
    let policy = &tx.ctx.config.policy;
    let mut ruling = asks::ruling(policy, &task.submitted_by, spec.approval.as_ref()?, true);
    // What an agent writes into its task does not count; what the operator's own steps say does.
    if task.spec.escalate.is_none() {
        ruling.role = ruling.role.max(role);
    }
    (ruling.verdict != Some(false)).then_some(ruling)
}

/// So far from now, or as long as the task above it has.
fn latest(tx: &Tx<'_>, task: &Task, within: Duration) -> Timestamp {
    let until = tx.ctx.now.plus(within);
    let parent = task.spec.parent.as_ref();
    let parent = parent.and_then(|parent| tx.tasks.live(parent));
    parent.map_or(until, |parent| until.min(parent.task().deadline_at))
}

/// Whether an agent has as many open questions as it may have.
fn asks_too_much(tx: &Tx<'_>, by: &str) -> bool {
    let open = tx.tasks.index().asks.get(by).map_or(0, BTreeSet::len);
    by.starts_with("agent:") && open >= OPEN_ASKS_MAX
}

/// What a person is asked.
fn question(task: &Task, role: AnswerRole, failure: &Failure) -> TaskSpec {
    let message = format!(
        "Task {} ({}) failed for good after {} attempts: {}. Answer \"{ANSWER_RETRY}\" for another round, \"{ANSWER_DROP}\" to give it up, or \"{ANSWER_OUTPUT}\" and its output as JSON.",
        task.id,
        task.spec.action(),
        task.attempts.len(),
        short(failure)
    );
    TaskSpec {
        input: told(task, failure, INPUT_ASKED_MAX),
        priority: task.spec.priority.max(Priority::High),
        parent: Some(task.id.clone()),
        escalates: Some(task.id.clone()),
        approval: Some(ApprovalSpec {
            kind: AskKind::Question,
            message,
            choices: vec![ANSWER_RETRY.to_owned(), ANSWER_DROP.to_owned()],
            role: Some(role),
            ..ApprovalSpec::default()
        }),
        ..TaskSpec::default()
    }
}

/// What an agent gets to do; `None` when the task's own limits do not let it have that.
fn follow_up(tx: &Tx<'_>, task: &Task, to: &EscalationStep, failure: &Failure) -> Option<TaskSpec> {
    let mut spec = TaskSpec {
        requirements: to.requirements.clone(),
        agent: to.agent.clone(),
        input: told(task, failure, TASK_DATA_MAX),
        priority: task.spec.priority,
        timeout_ms: task.spec.timeout_ms,
        retry: task.spec.retry.clone(),
        contract: task.spec.contract.clone(),
        trust: task.spec.trust,
        claims: task.spec.claims.clone(),
        parent: Some(task.id.clone()),
        escalates: Some(task.id.clone()),
        ..TaskSpec::default()
    };
    hold_within(tx, &mut spec, false).ok()?;
    Some(spec)
}

impl Tx<'_> {
    /// What follows a failure that would end a task: its escalation, where there is anybody to take it up.
    pub(crate) fn or_escalate(
        &self,
        id: &TaskId,
        then: AfterFailure,
        failure: &Failure,
    ) -> AfterFailure {
        match given_up(&then) {
            Some(otherwise) if next_step(self, id, 0, failure).is_some() => {
                AfterFailure::Escalate { otherwise }
            }
            _ => then,
        }
    }

    /// Whether there is anybody to take a task up that fails for good.
    pub(crate) fn would_escalate(&self, id: &TaskId, failure: &Failure) -> bool {
        next_step(self, id, 0, failure).is_some()
    }

    /// Takes the next step of an escalation, from this one on; false when there is none.
    pub(crate) fn escalate(
        &mut self,
        id: &TaskId,
        from: usize,
        otherwise: GivenUp,
        failure: &Failure,
    ) -> bool {
        let Some(taken) = next_step(self, id, from, failure) else {
            return false;
        };
        let Some(entry) = self.tasks.live(id) else {
            return false;
        };
        let (at, by) = (self.ctx.now, entry.task().submitted_by.clone());
        let (round, depth) = (entry.record.round, entry.record.depth + 1);
        let Taken {
            step,
            to,
            until,
            spec,
            ruling,
        } = taken;
        self.end_children_of_escalated(id);
        let told = json_len(&spec.input);
        let apart = told > PAYLOAD_INLINE_MAX;
        // The failure stands in three records.
        self.grow(3 * failure.message.len() + if apart { 0 } else { told });
        // No agent can write such a request, so none can have asked for this child.
        let asked = child_id(id, round, &format!("escalation\n{step}"));
        let retry: RetryPolicy = self.ctx.config.retry.completed(spec.retry.as_ref());
        let escalation = Escalation {
            step,
            to,
            task: asked.clone(),
            at,
            until,
            otherwise,
            error: failure.clone(),
            end: None,
            by: None,
        };
        self.escalation(id, EscalationMove::Asked(Box::new(escalation)));
        let event = TaskEvent::Submitted {
            digest: digest_of(&spec),
            spec: Box::new(spec),
            by,
            at,
            deadline_at: until,
            retry: retry.to_spec(),
            depth,
            ruling: ruling
                .filter(|ruling| *ruling != Ruling::default())
                .map(Box::new),
            envelope: None,
        };
        self.emit(&asked, event);
        true
    }

    /// What a task delegated ends with its last attempt: another round delegates anew, and nobody else waits for it.
    pub(crate) fn end_children_of_escalated(&mut self, id: &TaskId) {
        let children = self.tasks.index().children.get(id).cloned();
        for child in children.unwrap_or_default() {
            let of_it = |child: &Entry| !is_step(&child.task().spec);
            if !self.tasks.live(&child).is_some_and(of_it) {
                continue;
            }
            if self.is_full() {
                return;
            }
            self.cancel(&child, format!("its parent {id} has failed for good"));
        }
    }

    fn escalation(&mut self, id: &TaskId, step: EscalationMove) {
        let at = self.ctx.now;
        self.emit(id, TaskEvent::Escalation { at, step });
    }

    /// The question or the follow-up of an escalated task has ended: in the same group, so does the wait for it.
    pub(crate) fn take_up(&mut self, asked: &TaskId) {
        let Some(id) = self.tasks.index().escalated.get(asked).cloned() else {
            return;
        };
        let Some(record) = self.tasks.record(asked) else {
            return;
        };
        let answered = record.answered.as_deref();
        let by = answered.map(|answered| answered.by.clone());
        let text = answered.and_then(|answered| answered.answer.as_deref());
        let word = verdict(record, text).and_then(Result::ok);
        let word = word.filter(|_| by.is_some());
        let output = record.task.output.clone();
        let agent = record.task.attempts.last();
        let agent = agent.map(|attempt| attempt.agent_id.clone());
        let is_done = record.task.state == TaskState::Succeeded;
        match (word, agent, output) {
            (Some(Verdict::Retry), ..) => self.another_round(&id, by),
            (Some(Verdict::Drop), ..) => {
                let why = format!("{} gave it up", by.as_deref().unwrap_or("a person"));
                self.escalation(&id, EscalationMove::Dropped { by, why });
            }
            (Some(Verdict::Output(output)), ..) => {
                let by = by.unwrap_or_default();
                self.escalation(&id, EscalationMove::Done { by, output });
            }
            (None, Some(agent), Some(output)) if is_done => {
                let by = by_agent(&agent);
                self.escalation(&id, EscalationMove::Done { by, output });
            }
            (None, ..) => {
                let why = unanswered(self.tasks, asked);
                self.step_on(&id, why);
            }
        }
    }

    /// Nobody took it up: the next in turn is asked, or it is given up.
    fn step_on(&mut self, id: &TaskId, why: String) {
        let latest = self.tasks.get(id).and_then(|task| task.escalation.clone());
        let Some(latest) = latest else {
            return;
        };
        if !self.escalate(id, latest.step + 1, latest.otherwise, &latest.error) {
            self.escalation(id, EscalationMove::Dropped { by: None, why });
        }
    }

    /// Gives an escalated task another round of attempts, and takes back what was asked.
    pub(crate) fn another_round(&mut self, id: &TaskId, by: Option<String>) {
        let Some(entry) = self.tasks.live(id) else {
            return;
        };
        let task = entry.task();
        let span = task.spec.deadline_ms.unwrap_or(DEADLINE_DEFAULT_MS);
        let deadline_at = latest(self, task, Duration::from_millis(span));
        let asked = escalated_to(entry).cloned();
        self.escalation(id, EscalationMove::Retried { by, deadline_at });
        if let Some(asked) = asked.filter(|asked| self.tasks.live(asked).is_some()) {
            self.cancel(&asked, format!("task {id} is retried"));
        }
    }

    /// A task's time is up: it is escalated, or dead-lettered.
    pub(crate) fn deadline_passed(&mut self, id: &TaskId) {
        let Some(entry) = self.tasks.live(id) else {
            return;
        };
        let (deadline_at, in_flight) =
            (entry.task().deadline_at, entry.task().state.is_in_flight());
        let attempt = entry.record.last_attempt;
        match escalated_to(entry).cloned() {
            // The end of what was asked is what it goes on with.
            Some(asked) if self.tasks.live(&asked).is_some() => {
                return self.deadline_passed(&asked);
            }
            Some(asked) => {
                let why = unanswered(self.tasks, &asked);
                return self.step_on(id, why);
            }
            None => {}
        }
        let message = format!("its deadline {deadline_at} has passed");
        let failure = Failure {
            retryable: false,
            ..Failure::new(FailureClass::Timeout, message)
        };
        self.stop_attempt(id, &failure.message);
        let (at, otherwise) = (self.ctx.now, GivenUp::DeadLettered);
        if next_step(self, id, 0, &failure).is_none() {
            return self.emit(id, TaskEvent::DeadLettered { at, failure });
        }
        if in_flight {
            let event = TaskEvent::AttemptFailed {
                attempt,
                at,
                failure: failure.clone(),
                ended_instance: false,
                alone: false,
                then: AfterFailure::Escalate { otherwise },
            };
            self.emit(id, event);
        }
        self.escalate(id, 0, otherwise, &failure);
    }
}

fn by_agent(agent: &AgentId) -> String {
    format!("agent:{agent}")
}

/// Why nobody took a task up.
fn unanswered(tasks: &Tasks, asked: &TaskId) -> String {
    let Some(task) = tasks.get(asked) else {
        return "whoever was asked to take it up is not known any more".to_owned();
    };
    match (task.state, &task.error) {
        (TaskState::DeadLettered, _) if task.spec.approval.is_some() => {
            format!("nobody answered question {asked} in time")
        }
        (state, Some(error)) => format!("follow-up {asked} {state}: {}", short(error)),
        (state, None) => format!("follow-up {asked} {state}"),
    }
}

/// Another round by a person's word for a task that is escalated; `None` when it is not.
pub(crate) fn retry(tx: &mut Tx<'_>, id: &TaskId) -> Option<Answer> {
    tx.tasks.live(id).and_then(escalated_to)?;
    tx.another_round(id, None);
    tx.settle();
    let task = tx.view(id);
    Some(task.map_or(Answer::Done, |task| Answer::Task(Box::new(task))))
}
