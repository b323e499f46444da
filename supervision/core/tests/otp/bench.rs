//! A world of scripted children around one supervisor, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mesh_supervision_core::{Timestamp, supervisor::*};

/// Children start at once, stop when asked and keep quiet, unless scripted otherwise.
pub(crate) struct Bench {
    pub(crate) supervisor: Supervisor,
    pub(crate) now: Timestamp,
    /// What happened since the last [`Bench::take_log`], such as `start a`, `stop b`, `report exited a`.
    log: Vec<String>,
    pub(crate) reports: Vec<Report>,
    pub(crate) replies: BTreeMap<u64, Result<Reply, Refusal>>,
    pub(crate) end: Option<End>,
    pub(crate) ready: bool,
    /// How many of the next starts of a child fail.
    pub(crate) failing: BTreeMap<ChildId, u32>,
    /// Children that have nothing to supervise.
    pub(crate) ignoring: BTreeSet<ChildId>,
    /// Children that do not stop when asked.
    pub(crate) deaf: BTreeSet<ChildId>,
    /// Children that do not even go when killed.
    pub(crate) immortal: BTreeSet<ChildId>,
    /// Children whose starts take until [`Bench::finish_start`].
    pub(crate) slow: BTreeSet<ChildId>,
    /// Whether retries wait until [`Bench::release_retries`].
    pub(crate) hold_retries: bool,
    retries: VecDeque<Input>,
    running: BTreeMap<ChildId, Incarnation>,
    timers: BTreeSet<(Timestamp, Limit, ChildId, Incarnation)>,
    inputs: VecDeque<Input>,
    request_last: u64,
}

pub(crate) fn flags(strategy: Strategy, intensity: u32, period: Duration) -> Flags {
    Flags {
        strategy,
        intensity,
        period,
        ..Flags::default()
    }
}

pub(crate) fn workers(ids: &str) -> Vec<ChildSpec> {
    ids.split(' ')
        .filter(|id| !id.is_empty())
        .map(ChildSpec::worker)
        .collect()
}

pub(crate) fn with(mut spec: ChildSpec, change: impl FnOnce(&mut ChildSpec)) -> ChildSpec {
    change(&mut spec);
    spec
}

pub(crate) fn crash() -> ExitReason {
    ExitReason::Failed("boom".to_owned())
}

impl Bench {
    pub(crate) fn new(flags: Flags, specs: Vec<ChildSpec>) -> Self {
        Self {
            supervisor: Supervisor::new(flags, specs).unwrap(),
            now: Timestamp::from_millis(1_000_000),
            log: Vec::new(),
            reports: Vec::new(),
            replies: BTreeMap::new(),
            end: None,
            ready: false,
            failing: BTreeMap::new(),
            ignoring: BTreeSet::new(),
            deaf: BTreeSet::new(),
            immortal: BTreeSet::new(),
            slow: BTreeSet::new(),
            hold_retries: false,
            retries: VecDeque::new(),
            running: BTreeMap::new(),
            timers: BTreeSet::new(),
            inputs: VecDeque::new(),
            request_last: 0,
        }
    }

    /// A booted supervisor of permanent workers.
    pub(crate) fn running(strategy: Strategy, intensity: u32, ids: &str) -> Self {
        Self::booted(
            flags(strategy, intensity, Duration::from_secs(5)),
            workers(ids),
        )
    }

    pub(crate) fn booted(flags: Flags, specs: Vec<ChildSpec>) -> Self {
        let mut bench = Self::new(flags, specs);
        bench.boot();
        assert!(bench.ready);
        bench.take_log();
        bench
    }

    pub(crate) fn boot(&mut self) {
        self.input(Input::Boot);
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    pub(crate) fn incarnation(&self, id: &str) -> Incarnation {
        self.running[&ChildId::from(id)]
    }

    pub(crate) fn exit(&mut self, id: &str, reason: ExitReason) {
        self.exit_together(&[id], reason);
    }

    pub(crate) fn crash(&mut self, id: &str) {
        self.exit(id, crash());
    }

    /// All of them end before the supervisor learns of the first.
    pub(crate) fn exit_together(&mut self, ids: &[&str], reason: ExitReason) {
        for id in ids {
            let child = ChildId::from(*id);
            let incarnation = self.running.remove(&child).unwrap();
            self.log.push(format!("exit {child}"));
            self.inputs.push_back(Input::Exited {
                child,
                incarnation,
                reason: reason.clone(),
            });
        }
        self.settle();
    }

    pub(crate) fn finish_start(&mut self, id: &str) {
        let child = ChildId::from(id);
        let incarnation = self.supervisor.child(&child).unwrap().incarnation.unwrap();
        self.running.insert(child.clone(), incarnation);
        self.input(Input::Started { child, incarnation });
    }

    pub(crate) fn request(&mut self, request: Request) -> u64 {
        self.request_last += 1;
        let id = RequestId(self.request_last);
        self.input(Input::Request { id, request });
        self.request_last
    }

    /// A request that is answered at once.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, Refusal> {
        let id = self.request(request);
        self.replies.remove(&id).unwrap()
    }

    pub(crate) fn terminate(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.ask(Request::Terminate { child: id.into() })
    }

    pub(crate) fn start(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.ask(Request::Start { child: id.into() })
    }

    pub(crate) fn delete(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.ask(Request::Delete { child: id.into() })
    }

    pub(crate) fn add(&mut self, spec: ChildSpec) -> Result<Reply, Refusal> {
        self.ask(Request::Add { spec })
    }

    pub(crate) fn stop(&mut self) {
        self.input(Input::Stop { deadline: None });
    }

    /// Lets time pass, firing limits when they are due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while let Some(timer) = self
            .timers
            .first()
            .cloned()
            .filter(|timer| timer.0 <= until)
        {
            self.timers.remove(&timer);
            let (at, limit, child, incarnation) = timer;
            self.now = self.now.max(at);
            self.input(Input::LimitReached {
                child,
                incarnation,
                limit,
            });
        }
        self.now = until;
    }

    pub(crate) fn release_retries(&mut self) {
        self.hold_retries = false;
        self.inputs.append(&mut self.retries);
        self.settle();
    }

    /// One held-back retry.
    pub(crate) fn release_retry(&mut self) {
        if let Some(retry) = self.retries.pop_front() {
            self.input(retry);
        }
    }

    pub(crate) fn status(&self, id: &str) -> Option<ChildStatus> {
        self.supervisor.child(&id.into()).map(|view| view.status)
    }

    pub(crate) fn listed(&self) -> Vec<String> {
        self.supervisor
            .children()
            .map(|view| view.spec.id.to_string())
            .collect()
    }

    pub(crate) fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join("; ")
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, log: &str) {
        assert_eq!(self.take_log(), log);
    }

    fn settle(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = Vec::new();
            self.supervisor.step(self.now, input, &mut effects);
            for effect in effects {
                assert!(
                    self.end.is_none() || matches!(effect, Effect::Reply { .. }),
                    "{effect:?} after the end"
                );
                self.perform(effect);
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Report(report) => self.reports.push(report),
            Effect::Adopt { .. } | Effect::Forget { .. } => {}
            Effect::Start { child, incarnation } => {
                let fails = self.failing.get_mut(&child).filter(|left| **left > 0);
                if let Some(left) = fails {
                    *left -= 1;
                    self.log.push(format!("fail {child}"));
                    let reason = "no luck".to_owned();
                    self.inputs.push_back(Input::StartFailed {
                        child,
                        incarnation,
                        reason,
                    });
                } else if self.ignoring.contains(&child) {
                    self.inputs.push_back(Input::Ignored { child, incarnation });
                } else {
                    self.log.push(format!("start {child}"));
                    if !self.slow.contains(&child) {
                        assert!(
                            self.running.insert(child.clone(), incarnation).is_none(),
                            "{child} runs twice"
                        );
                        self.inputs.push_back(Input::Started { child, incarnation });
                    }
                }
            }
            Effect::Stop {
                child, incarnation, ..
            } => {
                self.log.push(format!("stop {child}"));
                if !self.deaf.contains(&child) {
                    self.gone(child, incarnation, ExitReason::Shutdown(None));
                }
            }
            Effect::Kill { child, incarnation } => {
                self.log.push(format!("kill {child}"));
                if !self.immortal.contains(&child) {
                    self.gone(child, incarnation, ExitReason::Killed);
                }
            }
            Effect::ArmLimit {
                child,
                incarnation,
                limit,
                at,
            } => {
                self.timers.insert((at, limit, child, incarnation));
            }
            Effect::RetryStart { child, incarnation } => {
                let retry = Input::RetryStart { child, incarnation };
                if self.hold_retries {
                    &mut self.retries
                } else {
                    &mut self.inputs
                }
                .push_back(retry);
            }
            Effect::Ready => self.ready = true,
            Effect::Reply { id, result } => assert!(self.replies.insert(id.0, result).is_none()),
            Effect::End(end) => self.end = Some(end),
        }
    }

    fn gone(&mut self, child: ChildId, incarnation: Incarnation, reason: ExitReason) {
        if self.running.remove(&child).is_some() {
            self.inputs.push_back(Input::Exited {
                child,
                incarnation,
                reason,
            });
        } else {
            let reason = "given up".to_owned();
            self.inputs.push_back(Input::StartFailed {
                child,
                incarnation,
                reason,
            });
        }
    }
}
