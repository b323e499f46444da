//! Random histories of a supervisor, with what must hold after every single step.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that gives up fails its test"
)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mesh_supervision_core::{
    Timestamp,
    supervisor::{self, *},
};
use proptest::{prelude::*, strategy::Strategy as Generator};

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Starting,
    Alive,
    Asked,
}

#[derive(Debug, Clone)]
enum Action {
    /// Finish the n-th process that is starting; whether it works.
    Finish(usize, bool),
    /// End the n-th process that is alive or asked to stop; whether it crashes.
    Exit(usize, bool),
    /// Let the n-th armed limit pass.
    Limit(usize),
    Retry,
    Request(usize, u8),
    /// The n-th process that is starting has nothing to supervise.
    Ignore(usize),
    /// Other flags, and specs of these children, of one restart type.
    Change([u8; 3], u32, u8),
    Pass(u64),
    /// Repeat an exit of an incarnation that is over.
    Stale(usize),
    Stop,
}

fn action() -> impl Generator<Value = Action> {
    prop_oneof![
        6 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(n, ok)| Action::Finish(n, ok)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, crash)| Action::Exit(n, crash)),
        2 => any::<usize>().prop_map(Action::Limit),
        3 => Just(Action::Retry),
        4 => (any::<usize>(), 0..5_u8).prop_map(|(n, what)| Action::Request(n, what)),
        1 => any::<usize>().prop_map(Action::Ignore),
        1 => (any::<[u8; 3]>(), 0..4_u32, 0..3_u8)
            .prop_map(|(ids, intensity, restart)| Action::Change(ids, intensity, restart)),
        2 => (0..4_000_u64).prop_map(Action::Pass),
        1 => any::<usize>().prop_map(Action::Stale),
        1 => prop::bool::weighted(0.1).prop_map(|stop| if stop { Action::Stop } else { Action::Retry }),
    ]
}

struct World {
    supervisor: Supervisor,
    now: Timestamp,
    processes: BTreeMap<(ChildId, Incarnation), Process>,
    limits: Vec<(ChildId, Incarnation, Limit)>,
    inputs: VecDeque<Input>,
    retries: VecDeque<(ChildId, Incarnation)>,
    over: Vec<(ChildId, Incarnation)>,
    pending: BTreeSet<u64>,
    restarts: Vec<Timestamp>,
    /// In force at the beginning of the step.
    flags: Flags,
    request_last: u64,
    ended: bool,
}

impl World {
    fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            // A change that has waited is served at the end of a step, after what the step itself granted.
            self.flags = *self.supervisor.flags();
            let mut effects = Vec::new();
            self.supervisor.step(self.now, input, &mut effects);
            for effect in effects {
                self.perform(effect);
            }
            self.check();
        }
    }

    fn perform(&mut self, effect: Effect) {
        assert!(
            !self.ended || matches!(effect, Effect::Reply { .. }),
            "{effect:?} after the end"
        );
        match effect {
            Effect::Start { child, incarnation } => {
                let twin = self.processes.keys().any(|(other, _)| *other == child);
                assert!(
                    !twin,
                    "{child} was started while an earlier incarnation was there"
                );
                self.processes
                    .insert((child, incarnation), Process::Starting);
            }
            Effect::Stop {
                child, incarnation, ..
            } => {
                if let Some(process) = self.processes.get_mut(&(child, incarnation))
                    && *process == Process::Alive
                {
                    *process = Process::Asked;
                }
            }
            Effect::Kill { child, incarnation } => {
                if self
                    .processes
                    .remove(&(child.clone(), incarnation))
                    .is_some()
                {
                    self.over.push((child.clone(), incarnation));
                    self.limits.retain(|limit| limit.1 != incarnation);
                    let reason = ExitReason::Killed;
                    self.inputs.push_back(Input::Exited {
                        child,
                        incarnation,
                        reason,
                    });
                }
            }
            Effect::ArmLimit {
                child,
                incarnation,
                limit,
                ..
            } => {
                if self.processes.contains_key(&(child.clone(), incarnation)) {
                    self.limits.push((child, incarnation, limit));
                }
            }
            Effect::RetryStart { child, incarnation } => {
                self.retries.push_back((child, incarnation));
            }
            Effect::Reply { id, .. } => {
                assert!(
                    self.pending.remove(&id.0),
                    "request {} was answered twice",
                    id.0
                );
            }
            Effect::Report(Report::Restarting { .. }) => self.restarted(),
            Effect::End(_) => {
                assert!(
                    self.processes.is_empty(),
                    "left {:?} behind",
                    self.processes
                );
                self.ended = true;
            }
            Effect::Report(_) | Effect::Adopt { .. } | Effect::Forget { .. } | Effect::Ready => {}
        }
    }

    /// A restart was granted, which the window must have allowed.
    fn restarted(&mut self) {
        self.restarts.push(self.now);
        let recent = self
            .restarts
            .iter()
            .filter(|&&at| self.now.since(at) <= self.flags.period)
            .count();
        assert!(
            recent <= usize::try_from(self.flags.intensity).unwrap(),
            "too many restarts"
        );
    }

    fn check(&self) {
        for view in self.supervisor.children() {
            if view.status == ChildStatus::Running {
                let key = (view.spec.id.clone(), view.incarnation.unwrap());
                assert!(self.processes.contains_key(&key), "{key:?} is said to run");
            }
        }
        assert_eq!(self.ended, self.supervisor.has_ended());
        if self.ended {
            assert!(
                self.pending.is_empty(),
                "the end left {:?} unanswered",
                self.pending
            );
        }
    }

    fn nth(&self, n: usize, wanted: impl Fn(Process) -> bool) -> Option<(ChildId, Incarnation)> {
        let matching: Vec<_> = self
            .processes
            .iter()
            .filter(|entry| wanted(*entry.1))
            .map(|entry| entry.0.clone())
            .collect();
        (!matching.is_empty()).then(|| matching[n % matching.len()].clone())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Finish(n, ok) => self.finish(n, ok),
            Action::Exit(n, crash) => {
                if let Some((child, incarnation)) =
                    self.nth(n, |process| process != Process::Starting)
                {
                    self.gone(&child, incarnation);
                    let reason = if crash {
                        ExitReason::Failed("x".to_owned())
                    } else {
                        ExitReason::Normal
                    };
                    self.input(Input::Exited {
                        child,
                        incarnation,
                        reason,
                    });
                }
            }
            Action::Limit(n) => {
                if !self.limits.is_empty() {
                    let (child, incarnation, limit) = self.limits.remove(n % self.limits.len());
                    self.input(Input::LimitReached {
                        child,
                        incarnation,
                        limit,
                    });
                }
            }
            Action::Retry => {
                if let Some((child, incarnation)) = self.retries.pop_front() {
                    self.input(Input::RetryStart { child, incarnation });
                }
            }
            Action::Request(n, what) => {
                let child = ChildId::from(IDS[n % IDS.len()]);
                let request = match what {
                    0 => Request::Add {
                        spec: ChildSpec::worker(child),
                    },
                    1 => Request::Start { child },
                    2 => Request::Restart { child },
                    3 => Request::Terminate { child },
                    _ => Request::Delete { child },
                };
                self.request(request);
            }
            Action::Ignore(n) => {
                if let Some((child, incarnation)) =
                    self.nth(n, |process| process == Process::Starting)
                {
                    self.gone(&child, incarnation);
                    self.input(Input::Ignored { child, incarnation });
                }
            }
            Action::Change(ids, intensity, restart) => {
                let flags = Flags {
                    intensity,
                    ..*self.supervisor.flags()
                };
                let specs = ids.map(|id| spec(usize::from(id) % IDS.len(), restart, false));
                self.request(Request::Change {
                    flags,
                    specs: specs.to_vec(),
                });
            }
            Action::Pass(ms) => self.now = self.now.plus(Duration::from_millis(ms)),
            Action::Stale(n) => self.stale(n),
            Action::Stop => self.input(Input::Stop { deadline: None }),
        }
    }

    fn finish(&mut self, n: usize, ok: bool) {
        let Some((child, incarnation)) = self.nth(n, |process| process == Process::Starting) else {
            return;
        };
        if ok {
            self.processes
                .insert((child.clone(), incarnation), Process::Alive);
            self.input(Input::Started { child, incarnation });
        } else {
            self.gone(&child, incarnation);
            self.input(Input::StartFailed {
                child,
                incarnation,
                reason: "no".to_owned(),
            });
        }
    }

    fn stale(&mut self, n: usize) {
        if self.over.is_empty() {
            return;
        }
        let (child, incarnation) = self.over[n % self.over.len()].clone();
        let statuses = |supervisor: &Supervisor| {
            let views = supervisor.children();
            views.map(|view| view.status).collect::<Vec<_>>()
        };
        let before = statuses(&self.supervisor);
        self.input(Input::Exited {
            child,
            incarnation,
            reason: ExitReason::Unknown,
        });
        let after = statuses(&self.supervisor);
        assert_eq!(before, after, "a stale exit changed something");
    }

    fn request(&mut self, request: Request) {
        self.request_last += 1;
        self.pending.insert(self.request_last);
        self.input(Input::Request {
            id: RequestId(self.request_last),
            request,
        });
    }

    fn gone(&mut self, child: &ChildId, incarnation: Incarnation) {
        self.processes.remove(&(child.clone(), incarnation));
        self.limits.retain(|limit| limit.1 != incarnation);
        self.over.push((child.clone(), incarnation));
    }

    /// Everything that can happen by itself does, until nothing is left to happen.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self
                .nth(0, |process| process == Process::Starting)
                .is_some()
            {
                self.act(Action::Finish(0, true));
            } else if self.nth(0, |process| process == Process::Asked).is_some() {
                let (child, incarnation) =
                    self.nth(0, |process| process == Process::Asked).unwrap();
                self.gone(&child, incarnation);
                let reason = ExitReason::Shutdown(None);
                self.input(Input::Exited {
                    child,
                    incarnation,
                    reason,
                });
            } else if self.retries.is_empty() {
                return;
            } else {
                self.act(Action::Retry);
            }
        }
        panic!("it never settles");
    }
}

fn spec(index: usize, restart: u8, brutal: bool) -> ChildSpec {
    let mut spec = ChildSpec::worker(IDS[index]);
    spec.restart =
        [Restart::Permanent, Restart::Transient, Restart::Temporary][usize::from(restart)];
    if brutal {
        spec.shutdown = Shutdown::BrutalKill;
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_limits_and_ends_in_order(
        strategy in 0..4_usize,
        intensity in 0..4_u32,
        children in prop::collection::vec((0..3_u8, any::<bool>()), 0..4),
        actions in prop::collection::vec(action(), 0..120),
    ) {
        use supervisor::Strategy::{Dynamic, OneForAll, OneForOne, RestForOne};
        let strategies =
            [OneForOne, OneForAll, RestForOne, Dynamic];
        let flags = Flags { strategy: strategies[strategy], intensity, ..Flags::default() };
        let specs =
            children.iter().enumerate().map(|(n, &(restart, brutal))| spec(n, restart, brutal)).collect();
        let mut world = World {
            supervisor: Supervisor::new(flags, specs).unwrap(),
            now: Timestamp::ZERO,
            processes: BTreeMap::new(),
            limits: Vec::new(),
            inputs: VecDeque::new(),
            retries: VecDeque::new(),
            over: Vec::new(),
            pending: BTreeSet::new(),
            restarts: Vec::new(),
            flags,
            request_last: 0,
            ended: false,
        };
        world.input(Input::Boot);
        for action in actions {
            world.act(action);
        }
        world.settle();
        prop_assert!(world.pending.is_empty(), "unanswered once all is quiet: {:?}", world.pending);
        world.input(Input::Stop { deadline: None });
        world.settle();
        prop_assert!(world.ended, "a stop must end it: {:?}", world.supervisor);
    }
}
