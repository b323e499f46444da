//! Who uses the mesh: clients that submit, cancel and retry tasks, and an operator who gives orders.

use std::collections::BTreeMap;

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::task::{Answerer, AttemptRef, Command, NewTask, TaskConfig};
use mesh_messages::agent::{FaultState, Lifecycle};
use mesh_messages::claim::{ClaimMode, TaskClaim};
use mesh_messages::escalation::{ANSWER_DROP, ANSWER_RETRY, EscalationStep};
use mesh_messages::inbox::{AnswerRole, InboxAnswer};
use mesh_messages::task::{DelayStrategy, Priority, RetrySpec, TaskContract, TaskSpec, TaskState};
use mesh_messages::{AttemptNo, Failure, FailureClass, TaskId};
use serde_json::json;

use super::agents::{CAPABILITIES, ToAgent};
use super::orchestrator::{Reply, ToOrchestrator};
use super::{Event, World};
use crate::checkers::Verdict;
use crate::checkers::tasks::Holder;
use crate::random::Random;

/// The label of tasks that end whoever works on them.
pub(crate) const POISON: &str = "poison";
/// Milliseconds between two submissions in a storm, and when all is calm.
const PAUSE: (u64, u64) = (150, 20_000);
/// Tasks that have not ended beyond which clients hold back: a mesh in which nothing runs would only collect them.
const BACKLOG: usize = 120;

/// What clients know.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) config: TaskConfig,
    /// Idempotency keys, and the task that each stands for.
    pub(crate) keys: BTreeMap<String, TaskId>,
    submitted: u64,
    pub(crate) next_sync_fails: bool,
}

impl Clients {
    pub(crate) fn new(random: &mut Random) -> Self {
        let config = TaskConfig {
            max_parallel_tasks: u32::try_from(random.between(4, 40)).unwrap_or(5),
            fallback_on_error: random.percent(80),
            allow_cross_agent: random.percent(90),
            ..TaskConfig::default()
        };
        Self {
            config,
            keys: BTreeMap::new(),
            submitted: 0,
            next_sync_fails: false,
        }
    }
}

impl World {
    /// A client's turn.
    pub(crate) fn submit(&mut self) {
        if self.faults_left == 0 {
            return;
        }
        let pause = if self.calm { PAUSE.1 } else { PAUSE.0 };
        let next = self.now + self.random.between(1, 2 * pause);
        self.queue.at(next, Event::Submit);
        if self.seats.iter().all(|seat| seat.published.records == 0) {
            return;
        }
        let command = match self.random.between(0, 19) {
            0 => self.known_task().map(|task| Command::Cancel {
                task,
                reason: "somebody changed their mind".to_owned(),
            }),
            1 => self.known_task().map(|task| Command::Retry { task }),
            2 => self.some_answer(),
            _ => None,
        };
        if let Some(command) = command {
            self.ask(command, Vec::new());
            return;
        }
        let held = self
            .orchestrator
            .as_ref()
            .map_or(BACKLOG, |o| o.owned.state.live_count());
        if held >= BACKLOG {
            return;
        }
        let count = if self.random.percent(80) {
            1
        } else {
            self.random.between(2, 5)
        };
        let tasks: Vec<_> = (0..count).filter_map(|_| self.some_task()).collect();
        let keys = tasks
            .iter()
            .map(|task| task.spec.idempotency_key.clone())
            .collect();
        let by = "user:sim".to_owned();
        self.ask(Command::Submit { by, tasks }, keys);
    }

    fn ask(&mut self, command: Command, keys: Vec<Option<String>>) {
        let message = ToOrchestrator::Command {
            command: Box::new(command),
            reply: Some(Reply::Client(keys)),
        };
        let lane = 5000 + self.random.between(0, 9);
        self.send_orchestrator(lane, message);
    }

    /// Somebody says from outside how an attempt ended, as the HTTP surface lets operators do.
    pub(crate) fn report_outside(&mut self) {
        const CLASSES: [FailureClass; 5] = [
            FailureClass::Declined,
            FailureClass::Cancelled,
            FailureClass::Start,
            FailureClass::Hang,
            FailureClass::Unavailable,
        ];
        let Some((task, attempt, (_, _, epoch))) = self.attempt_under_way() else {
            return;
        };
        let result = if self.random.percent(40) {
            Ok(json!({"done": "by hand"}))
        } else {
            let class = CLASSES[self.random.index(CLASSES.len())];
            Err(Failure::new(class, "somebody says so"))
        };
        self.tell_orchestrator(Command::AttemptEnded {
            attempt: AttemptRef {
                task,
                attempt,
                epoch,
            },
            key: None,
            result,
        });
    }

    /// One of the attempts that are under way, and who has it.
    pub(crate) fn attempt_under_way(&mut self) -> Option<(TaskId, AttemptNo, Holder)> {
        let held = &self.ledger.decided.held;
        let all: Vec<_> = held
            .iter()
            .flat_map(|(holder, tasks)| tasks.iter().map(move |task| (holder, task)))
            .collect();
        // What is assigned and has not begun is so for a moment only, and so is sought.
        let lines = &self.ledger.decided.lines;
        let is_new = |task: &TaskId| {
            let line = lines.get(task);
            line.is_some_and(|line| line.state == TaskState::Assigned)
        };
        let new: Vec<_> = all
            .iter()
            .filter(|(_, task)| is_new(task))
            .copied()
            .collect();
        let sought = self.random.percent(60) && !new.is_empty();
        let (holder, task) = *self.random.pick(if sought { &new } else { &all })?;
        let attempt = self.ledger.decided.lines.get(task)?.attempt;
        Some((task.clone(), attempt, holder.clone()))
    }

    /// One of the latest tasks.
    pub(crate) fn known_task(&mut self) -> Option<TaskId> {
        let back = self.random.between(0, 40.min(self.clients.submitted));
        TaskId::new(format!("t{}", self.clients.submitted - back)).ok()
    }

    /// A person answers what is asked about a task that was escalated.
    fn some_answer(&mut self) -> Option<Command> {
        let tasks = &self.orchestrator.as_ref()?.owned.state;
        let asks = |id: &&TaskId| {
            let task = tasks.get(id);
            task.is_some_and(|task| {
                task.state == TaskState::Blocked && task.spec.approval.is_some()
            })
        };
        let open: Vec<_> = tasks.ids().filter(asks).cloned().collect();
        let asking = self.random.pick(&open).cloned();
        // Now and then the answer is to a task that asks nobody.
        let stray = self.random.percent(10);
        let task = match asking.filter(|_| !stray) {
            Some(task) => task,
            None => self.known_task()?,
        };
        let words = [ANSWER_RETRY, ANSWER_DROP, "output: 1", "what?"];
        let answer = words[self.random.index(words.len())].to_owned();
        Some(Command::Approve {
            task,
            by: Answerer {
                name: "user:sim".to_owned(),
                role: AnswerRole::Operator,
            },
            answer: InboxAnswer {
                approve: true,
                answer: Some(answer),
                comment: None,
            },
        })
    }

    fn some_task(&mut self) -> Option<NewTask> {
        self.clients.submitted += 1;
        let id = TaskId::new(format!("t{}", self.clients.submitted)).ok()?;
        let random = &mut self.random;
        let mut needs = vec![CAPABILITIES[random.index(CAPABILITIES.len())].to_owned()];
        if random.percent(3) {
            needs = vec!["fly".to_owned()];
        } else if random.percent(8) {
            // Mostly what no agent has alone.
            let first = random.index(CAPABILITIES.len());
            let all = CAPABILITIES.into_iter().cycle().skip(first).take(3);
            needs = all.map(str::to_owned).collect();
        }
        let priority = match random.between(0, 5) {
            0 => Priority::Critical,
            1 => Priority::High,
            2 => Priority::Low,
            _ => Priority::Normal,
        };
        let mut spec = TaskSpec {
            requirements: needs,
            priority,
            input: json!({"number": self.clients.submitted}),
            timeout_ms: Some(random.between(300, 8000)),
            ..TaskSpec::default()
        };
        if random.percent(80) {
            spec.deadline_ms = Some(random.between(2000, 300_000));
        }
        if random.percent(4) {
            spec.agent = self.ids.get(random.index(self.ids.len())).cloned();
        }
        if random.percent(12) {
            // Few keys, so that some come again: with the same content, or with another.
            let key = random.between(0, 40);
            spec.idempotency_key = Some(format!("key-{key}"));
            spec.requirements = vec![CAPABILITIES[(key % 5) as usize].to_owned()];
            spec.input = json!(u64::from(random.percent(10)));
            spec.priority = Priority::Normal;
            (spec.timeout_ms, spec.deadline_ms) = (Some(3000), Some(60_000));
            spec.agent = None;
        } else {
            if random.percent(10) {
                spec.retry = Some(RetrySpec {
                    max_attempts: Some(u32::try_from(random.between(1, 6)).unwrap_or(1)),
                    delay_strategy: Some(DelayStrategy::Fixed),
                    base_delay_ms: Some(random.between(0, 2000)),
                    jitter: Some(random.percent(50)),
                });
            }
            if random.percent(5) {
                let schema = json!({"type": "object"});
                spec.contract = Some(TaskContract {
                    output_schema: Some(schema),
                    checks: Vec::new(),
                });
            }
            if random.percent(8) && self.clients.submitted > 8 {
                let back = random.between(1, 6);
                let on = TaskId::new(format!("t{}", self.clients.submitted - back)).ok()?;
                spec.depends_on = vec![on];
            }
            if random.percent(15) {
                spec.claims = some_claims(random);
            }
            if random.percent(10) {
                let person = EscalationStep {
                    person: Some(AnswerRole::Operator),
                    within_ms: Some(random.between(1000, 90_000)),
                    ..EscalationStep::default()
                };
                let agent = EscalationStep {
                    requirements: vec![CAPABILITIES[random.index(CAPABILITIES.len())].to_owned()],
                    within_ms: Some(random.between(1000, 90_000)),
                    ..EscalationStep::default()
                };
                spec.escalate = Some(match random.between(0, 2) {
                    0 => vec![person],
                    1 => vec![agent],
                    _ => vec![agent, person],
                });
            }
            if random.percent(1) {
                spec.labels.insert(POISON.to_owned(), "yes".to_owned());
            }
        }
        Some(NewTask {
            id,
            fresh: false,
            envelope: None,
            spec,
        })
    }

    /// The operator gives an order.
    pub(crate) fn order(&mut self) {
        let moving = self.moving_processes();
        let agent = match self.random.pick(&moving) {
            // What is on its way in or out is there for a moment only, and so is sought.
            Some((agent, _)) if self.random.percent(30) => *agent,
            _ => self.random.index(self.seats.len()),
        };
        // Half of the time the operator wants what is down to be up, or there would soon be little left to disturb.
        let up = self.random.percent(50);
        let state = &self.seats[agent].published;
        let (stage, fault) = (state.stage(), state.fault_state());
        let message = match (stage, fault) {
            (Lifecycle::Defined | Lifecycle::Audited, _) if up => ToAgent::Register { version: 0 },
            (_, FaultState::Stopped) if up => ToAgent::Command(AgentCommand::Start),
            (_, FaultState::Quarantined) if up => {
                let force = self.random.percent(60);
                ToAgent::Command(AgentCommand::Recover { force })
            }
            // A trial is short, and a stop within it rare by itself.
            (_, FaultState::Recovering) if self.random.percent(50) => {
                ToAgent::Command(AgentCommand::Stop)
            }
            _ if self.random.percent(20) => ToAgent::Register {
                version: self.random.index(3),
            },
            _ => ToAgent::Command(self.some_order()),
        };
        self.tell_agent(agent, message);
    }

    /// After the last fault the operator puts right what can be put right, so that what is left of the work gets done.
    pub(crate) fn heal(&mut self) -> Verdict {
        for agent in 0..self.seats.len() {
            self.list(agent)?;
            self.tell_agent(agent, ToAgent::Register { version: 0 });
            for command in [
                AgentCommand::Recover { force: true },
                AgentCommand::Start,
                AgentCommand::Scale { replicas: 2 },
                AgentCommand::Resume,
            ] {
                self.tell_agent(agent, ToAgent::Command(command));
            }
        }
        Ok(())
    }
}

/// Claims on few resources, so that they are wanted by several at once.
fn some_claims(random: &mut Random) -> Vec<TaskClaim> {
    let names = ["disk", "port", "branch"];
    let first = random.index(names.len());
    let count = 1 + random.index(names.len() - 1);
    let wanted = names.into_iter().cycle().skip(first).take(count);
    let mode = if random.percent(40) {
        ClaimMode::Shared
    } else {
        ClaimMode::Exclusive
    };
    let claim = |name: &str| TaskClaim {
        resource: name.to_owned(),
        mode,
        token: None,
    };
    wanted.map(claim).collect()
}
