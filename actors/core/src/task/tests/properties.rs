//! Random histories; [`World::check`] looks at every promise after every step.

use std::sync::Arc;

use mesh_messages::policy::PolicyDocument;
use proptest::prelude::*;

use super::*;

/// A step, its operands being indexes into what is there when it comes.
#[derive(Debug, Clone)]
enum Step {
    Submit {
        kind: u8,
        flavour: u8,
        count: usize,
    },
    Delegate {
        parent: usize,
        kind: u8,
        flavour: u8,
        request: u8,
    },
    Told {
        task: usize,
        tokens: u64,
        last: bool,
    },
    /// Nothing ends what is short.
    Answer {
        question: usize,
        by: u64,
    },
    Start(usize),
    End {
        task: usize,
        class: Option<FailureClass>,
        outside: bool,
    },
    EndStale(usize),
    InstanceDown {
        agent: usize,
        class: FailureClass,
    },
    Drop(usize),
    Cancel(usize),
    Retry(usize),
    Pass(u64),
    Fleet {
        agent: usize,
        fault: usize,
        slots: Vec<u32>,
        closed: bool,
    },
    Gone(usize),
    /// What several agents tell, taken in at once.
    News(Vec<Step>),
    Restart,
    Reconcile {
        agent: usize,
        forget: bool,
    },
    Evict,
}

const AGENTS: [(&str, &[&str]); 3] = [
    ("a", &["x", "y"]),
    ("b", &["x", "lead"]),
    ("c", &["y", "z"]),
];
const KINDS: [&str; 4] = ["x", "y", "z", "nobody"];
const FAULTS: [FaultState; 6] = [
    FaultState::Running,
    FaultState::Running,
    FaultState::Backoff,
    FaultState::Open,
    FaultState::HalfOpen,
    FaultState::Quarantined,
];

fn class() -> impl Strategy<Value = FailureClass> {
    prop::sample::select(FailureClass::ALL.to_vec())
}

fn fleet() -> impl Strategy<Value = Step> {
    let slots = prop::collection::vec(0..4_u32, 0..3);
    (0..3_usize, 0..6_usize, slots, any::<bool>()).prop_map(|(agent, fault, slots, closed)| {
        Step::Fleet {
            agent,
            fault,
            slots,
            closed,
        }
    })
}

fn down() -> impl Strategy<Value = Step> {
    (0..3_usize, class()).prop_map(|(agent, class)| Step::InstanceDown { agent, class })
}

fn step() -> impl Strategy<Value = Step> {
    let news = prop_oneof![3 => down(), 3 => fleet(), 1 => (0..3_usize).prop_map(Step::Gone)];
    let index = 0..64_usize;
    prop_oneof![
        6 => (0..4_u8, 0..18_u8, 1..4_usize)
            .prop_map(|(kind, flavour, count)| Step::Submit { kind, flavour, count }),
        4 => (index.clone(), 0..4_u8, 0..18_u8, 0..3_u8)
            .prop_map(|(parent, kind, flavour, request)| Step::Delegate { parent, kind, flavour, request }),
        3 => (index.clone(), 0..60_u64, any::<bool>())
            .prop_map(|(task, tokens, last)| Step::Told { task, tokens, last }),
        2 => (index.clone(), 0..4_u64).prop_map(|(question, by)| Step::Answer { question, by }),
        3 => index.clone().prop_map(Step::Start),
        8 => (index.clone(), prop::option::of(class()), any::<bool>())
            .prop_map(|(task, class, outside)| Step::End { task, class, outside }),
        1 => index.clone().prop_map(Step::EndStale),
        2 => down(),
        3 => index.clone().prop_map(Step::Drop),
        1 => index.clone().prop_map(Step::Cancel),
        1 => index.clone().prop_map(Step::Retry),
        4 => prop::sample::select(vec![1, 250, 1000, 60_000, 700_000, 4_000_000]).prop_map(Step::Pass),
        5 => fleet(),
        2 => prop::collection::vec(news, 1..6).prop_map(Step::News),
        1 => (0..3_usize).prop_map(Step::Gone),
        1 => Just(Step::Restart),
        1 => (0..3_usize, any::<bool>()).prop_map(|(agent, forget)| Step::Reconcile { agent, forget }),
        1 => Just(Step::Evict),
    ]
}

impl World {
    fn pick(&self, index: usize, of: impl Fn(&Task) -> bool) -> Option<TaskId> {
        let ids: Vec<_> = self
            .tasks
            .ids()
            .filter(|id| of(self.tasks.get(id).unwrap()))
            .collect();
        (!ids.is_empty()).then(|| ids[index % ids.len()].clone())
    }

    fn spec(&self, kind: u8, flavour: u8) -> Value {
        let mut spec = json!({"requirements": [KINDS[usize::from(kind) % 4]]});
        match flavour {
            1 => spec["priority"] = json!("critical"),
            2 => spec["deadlineMs"] = json!(90_000),
            3 => spec["timeoutMs"] = json!(500),
            4 => spec["idempotencyKey"] = json!(format!("key-{kind}")),
            5 => {
                let dependency = self.pick(usize::from(kind), |_| true);
                spec["dependsOn"] = json!(dependency.into_iter().collect::<Vec<_>>());
            }
            6 => spec["retry"] = json!({"maxAttempts": 1}),
            7 => {
                spec["budget"] =
                    json!({"calls": 3, "attempts": 2, "tokens": 50, "reserve": {"tokens": 20}});
            }
            8 => spec["budget"] = json!({"wallTimeMs": 900, "money": "1.5"}),
            9 => spec["budget"] = json!({"calls": 1, "restarts": 1}),
            10 => spec["escalate"] = json!([{"person": "operator"}]),
            11 => {
                spec["retry"] = json!({"maxAttempts": 1});
                spec["escalate"] =
                    json!([{"agent": "b", "withinMs": 900_000}, {"person": "admin"}]);
            }
            12 => {
                spec["deadlineMs"] = json!(90_000);
                spec["escalate"] = json!([{"requirements": ["z"]}, {"agent": "nobody"}]);
            }
            // Nobody has both.
            13..=17 => {
                spec["requirements"] = json!(["x", "z"]);
                match flavour {
                    14 => spec["team"] = json!("cross_functional"),
                    15 => {
                        spec["team"] = json!("cross_functional");
                        spec["claims"] = json!([{"resource": "r"}]);
                    }
                    16 => {
                        spec["retry"] = json!({"maxAttempts": 1});
                        spec["escalate"] = json!([{"person": "operator"}]);
                    }
                    17 => spec["budget"] = json!({"attempts": 4}),
                    _ => {}
                }
            }
            _ => {}
        }
        spec
    }

    /// What the read side would know, as the shell asks it.
    fn ask_and_decide(&mut self, archive: &BTreeMap<TaskId, TaskRecord>, command: Command) {
        let wanted = self.tasks.lookups(&command);
        self.known = Known::default();
        for id in &wanted.tasks {
            self.known
                .tasks
                .extend(archive.get(id).map(|record| (id.clone(), record.clone())));
        }
        for (by, key) in &wanted.keys {
            let found = archive.values().find(|record| {
                record.task.submitted_by == *by
                    && record.task.spec.idempotency_key.as_ref() == Some(key)
            });
            self.known
                .keys
                .extend(found.map(|record| ((by.clone(), key.clone()), record.clone())));
        }
        let mut decision = self.decide(command);
        while decision.is_ok_and(|decision| decision.more) {
            decision = self.decide(Command::Tick);
        }
    }

    fn command(&mut self, step: Step) -> Option<Command> {
        let in_flight = |task: &Task| task.state.is_in_flight();
        Some(match step {
            Step::Submit {
                kind,
                flavour,
                count,
            } => {
                let spec = self.spec(kind, flavour);
                self.submission(vec![spec; count])
            }
            Step::Delegate {
                parent,
                kind,
                flavour,
                request,
            } => self.delegation(parent, (kind, flavour), request)?,
            Step::Told { task, tokens, last } => {
                let (attempt, key) = self.attempt(&self.pick(task, in_flight)?);
                let usage = mesh_messages::budget::Usage {
                    tokens: Some(tokens),
                    ..Default::default()
                };
                Command::AttemptUsed {
                    attempt,
                    key,
                    usage,
                    last,
                }
            }
            Step::Answer { question, by } => {
                let open = |task: &Task| task.state == TaskState::Blocked;
                let task = self.pick(question, |t| open(t) && t.spec.approval.is_some())?;
                let about = self.tasks.get(&task)?.spec.escalates.is_some();
                let words = ["drop", "retry", "output:1", "1"];
                let text = words[usize::try_from(by).unwrap()];
                let text = if about { text } else { &by.to_string() };
                budgets::answer(task, text, by > 0)
            }
            Step::Start(task) => {
                let (attempt, key) = self.attempt(&self.pick(task, in_flight)?);
                Command::AttemptStarted { attempt, key }
            }
            Step::End {
                task,
                class,
                outside,
            } => {
                let (attempt, key) = self.attempt(&self.pick(task, in_flight)?);
                let result = match class {
                    None => Ok(json!(1)),
                    Some(class) => Err(Failure::new(class, "random")),
                };
                Command::AttemptEnded {
                    attempt,
                    key: (!outside).then_some(key),
                    result,
                }
            }
            Step::EndStale(task) => self.stale_report(task)?,
            Step::InstanceDown { agent, class } => {
                let id = agent_id(AGENTS[agent].0);
                let (no, instance) = self.live.fleet.agent(&id)?.instances.iter().next()?;
                let key = (id, *no, instance.epoch);
                Command::InstanceDown {
                    key,
                    failure: Failure::new(class, "gone"),
                }
            }
            Step::Drop(index) => self.drop_report(index)?,
            Step::Cancel(task) => Command::Cancel {
                task: self.pick(task, |_| true)?,
                reason: "random".to_owned(),
            },
            Step::Retry(task) => Command::Retry {
                task: self.pick(task, |_| true)?,
            },
            Step::Pass(ms) => {
                self.now = self.now.plus(Duration::from_millis(ms));
                Command::Tick
            }
            Step::Fleet {
                agent,
                fault,
                slots,
                closed,
            } => self.announce(agent, fault, &slots, closed),
            Step::Gone(agent) => Command::Fleet(FleetChange::Gone(agent_id(AGENTS[agent].0))),
            Step::News(steps) => self.news(steps),
            Step::Restart => {
                self.tasks = self.tasks.rebuilt();
                self.live = Live::default();
                Command::Recover
            }
            Step::Reconcile { agent, forget } => self.stock(agent, forget),
            Step::Evict => unreachable!("done by the caller"),
        })
    }

    fn delegation(&self, parent: usize, (kind, flavour): (u8, u8), request: u8) -> Option<Command> {
        let parent = self.pick(parent, |task| task.state.is_in_flight())?;
        let (attempt, key) = self.attempt(&parent);
        let spec: TaskSpec = serde_json::from_value(self.spec(kind, flavour)).unwrap();
        let request = format!("r{request}");
        let asker = Asker {
            parent: attempt,
            key,
            request,
        };
        Some(Command::Delegate {
            envelope: None,
            asker,
            spec: Box::new(spec),
        })
    }

    /// An agent says once in a batch how it stands: another incarnation would come after the news that the last one is gone.
    fn news(&mut self, steps: Vec<Step>) -> Command {
        let mut told = BTreeSet::new();
        let mut news = Vec::new();
        for step in steps {
            if let Step::Fleet { agent, .. } | Step::Gone(agent) = step
                && !told.insert(agent)
            {
                continue;
            }
            news.extend(match self.command(step) {
                Some(Command::Fleet(change)) => Some(FleetNews::Changed(change)),
                Some(Command::InstanceDown { key, failure }) => {
                    Some(FleetNews::Down { key, failure })
                }
                _ => None,
            });
        }
        Command::News(news)
    }

    /// What an old incarnation says of a first attempt.
    fn stale_report(&self, task: usize) -> Option<Command> {
        let id = self.pick(task, |task| !task.attempts.is_empty())?;
        let first = self.tasks.get(&id)?.attempts.first()?.clone();
        let attempt = AttemptRef {
            task: id,
            attempt: first.number,
            epoch: Epoch(0),
        };
        let key = Some((first.agent_id, first.instance, first.epoch));
        Some(Command::AttemptEnded {
            attempt,
            key,
            result: Ok(json!("stale")),
        })
    }

    /// An instance lets go of what it was told to drop.
    fn drop_report(&self, index: usize) -> Option<Command> {
        let releasing = self.live.releasing.iter();
        let all: Vec<_> = releasing
            .flat_map(|(key, held)| held.iter().map(move |(id, no)| (key, id, no)))
            .collect();
        let (key, task, number) = *all.get(index % all.len().max(1))?;
        let attempt = AttemptRef {
            task: task.clone(),
            attempt: *number,
            epoch: key.2,
        };
        Some(Command::AttemptEnded {
            attempt,
            key: Some(key.clone()),
            result: Ok(json!("late")),
        })
    }

    /// What an agent has in hand: all that it should, or nothing.
    fn stock(&self, agent: usize, forget: bool) -> Command {
        let agent = agent_id(AGENTS[agent].0);
        let ids = self.tasks.ids().filter(|id| self.state(id).is_in_flight());
        let present = ids
            .map(|id| self.attempt(id))
            .filter(|(_, key)| key.0 == agent && !forget)
            .map(|(at, key)| (key, at.task, at.attempt))
            .collect();
        Command::Reconcile {
            agent: Some(agent),
            present,
        }
    }

    /// An agent as its actor would announce it: an epoch per change of its instances.
    fn announce(&mut self, agent: usize, fault: usize, slots: &[u32], closed: bool) -> Command {
        let (name, capabilities) = AGENTS[agent];
        let known = self.live.fleet.agent(&agent_id(name)).cloned();
        self.ids += 1;
        let mut view = agent_view(
            FAULTS[fault],
            capabilities,
            slots,
            Epoch(u64::from(self.ids)),
        );
        // Two of them share an account.
        view.account = (agent < 2).then(|| "acme".to_owned());
        view.limits = (agent == 1)
            .then(|| budgets::account(json!({"calls": 4, "restarts": 2, "perMs": 30_000})));
        for (no, instance) in &mut view.instances {
            if let Some(before) = known.as_ref().and_then(|known| known.instances.get(no)) {
                // It is the same incarnation; only one that is gone makes way for another.
                *instance = before.clone();
            }
        }
        if let Some(known) = known {
            view.instances.extend(known.instances);
        }
        for instance in view.instances.values_mut() {
            instance.closed = closed.then(|| "draining".to_owned());
        }
        Command::Fleet(FleetChange::Agent(agent_id(name), Box::new(view)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_after_every_step_of_a_random_history(
        fallback in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let shared = budgets::account(json!({"tokens": 60, "attempts": 9, "perMs": 50_000}));
        let policy = PolicyDocument {
            budgets: [("provider:acme".to_owned(), Some(shared))].into(),
            agents: serde_json::from_value(json!({
                "c": {"escalate": [{"person": "operator", "withinMs": 60_000}]},
            }))
            .unwrap(),
            ..PolicyDocument::default()
        };
        let mut world = World::with(TaskConfig {
            fallback_on_error: fallback,
            policy: Arc::new(policy),
            ..TaskConfig::default()
        });
        let mut archive = BTreeMap::new();
        for step in steps {
            if matches!(step, Step::Evict) {
                for id in world.tasks.ids() {
                    archive.insert(id.clone(), world.tasks.record(id).unwrap().clone());
                }
                world.tasks.evict(world.tasks.applied());
                world.replayed.evict(world.replayed.applied());
            } else if let Some(command) = world.command(step) {
                world.ask_and_decide(&archive, command);
            }
        }
        // Whatever happened before, every task comes to its end.
        while let Some(at) = world.tasks.next_timer() {
            world.now = world.now.max(at);
            world.ask_and_decide(&archive, Command::Tick);
        }
        prop_assert_eq!(world.tasks.live_count(), 0);
    }
}
