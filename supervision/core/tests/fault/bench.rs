//! A policy with its clock.

use std::time::Duration;

use mesh_supervision_core::{Timestamp, fault::*};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const NANO: Duration = Duration::from_nanos(1);

/// The largest random number: jitter takes nothing away, so that delays are the ladder's.
pub(crate) const FULL: u64 = u64::MAX;

pub(crate) struct Bench {
    pub(crate) policy: FaultPolicy,
    pub(crate) now: Timestamp,
    /// All effects since the last [`Bench::take`].
    pub(crate) effects: Vec<FaultEffect>,
    pub(crate) starts: u64,
}

pub(crate) fn failure(severity: Severity) -> Failure {
    Failure {
        severity,
        kind: ReasonKind::Crash,
        description: "boom".to_owned(),
        scored: true,
    }
}

impl Bench {
    pub(crate) fn new(config: FaultConfig) -> Self {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let policy = FaultPolicy::new(config, now).unwrap();
        Self {
            policy,
            now,
            effects: Vec::new(),
            starts: 0,
        }
    }

    /// Started and up.
    pub(crate) fn running() -> Self {
        Self::running_with(FaultConfig::default())
    }

    pub(crate) fn running_with(config: FaultConfig) -> Self {
        let mut bench = Self::new(config);
        bench.order(Order::Start).unwrap();
        bench.up();
        bench.take();
        bench
    }

    /// In the given state, by way of legal inputs.
    pub(crate) fn in_state(state: FaultState) -> Self {
        let mut bench = Self::running();
        match state {
            FaultState::Running => {}
            FaultState::Backoff => bench.crash(),
            FaultState::Open => bench.crash_until(FaultState::Open),
            FaultState::HalfOpen => {
                bench.crash_until(FaultState::Open);
                bench.fire();
                bench.up();
            }
            FaultState::Quarantined => bench.crash_until(FaultState::Quarantined),
            FaultState::Recovering => {
                bench.crash_until(FaultState::Quarantined);
                bench.fire();
                bench.up();
            }
            FaultState::Stopped => bench.order(Order::Stop).unwrap(),
            FaultState::Terminated => bench.order(Order::Terminate).unwrap(),
        }
        assert_eq!(bench.state(), state);
        bench.take();
        bench
    }

    /// Crashes at once whenever it is started, until it stands there.
    pub(crate) fn crash_until(&mut self, state: FaultState) {
        for _ in 0..64 {
            if self.state() == state {
                return;
            }
            if self.state().is_started() {
                self.crash();
            } else {
                self.fire();
            }
        }
        panic!("never came to {state}");
    }

    pub(crate) fn try_input(&mut self, input: FaultInput) -> Result<(), FaultRefusal> {
        let before = self.effects.len();
        let result = self.policy.step(self.now, FULL, input, &mut self.effects);
        let started = self.effects[before..].iter().filter(|effect| {
            matches!(
                effect,
                FaultEffect::Start { .. } | FaultEffect::Restart { .. }
            )
        });
        self.starts += u64::try_from(started.count()).unwrap();
        result
    }

    pub(crate) fn input(&mut self, input: FaultInput) {
        self.try_input(input).unwrap();
    }

    pub(crate) fn order(&mut self, order: Order) -> Result<(), FaultRefusal> {
        self.try_input(FaultInput::Order(order))
    }

    pub(crate) fn fail(&mut self, severity: Severity) {
        self.input(FaultInput::Failure(failure(severity)));
    }

    pub(crate) fn crash(&mut self) {
        self.fail(Severity::Medium);
    }

    pub(crate) fn up(&mut self) {
        let epoch = self.record().epoch;
        self.input(FaultInput::Up { epoch });
    }

    /// Lets the armed timer become due.
    #[track_caller]
    pub(crate) fn fire(&mut self) {
        let timer = self.record().timer.unwrap();
        self.now = self.now.max(timer.at);
        self.input(FaultInput::Timer { token: timer.token });
    }

    /// Lets time pass, with every timer that becomes due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while self.record().timer.is_some_and(|timer| timer.at <= until) {
            self.fire();
        }
        self.now = until;
    }

    pub(crate) fn offer(&mut self) -> Admission {
        self.input(FaultInput::TaskOffered);
        match self.effects.pop() {
            Some(FaultEffect::Admission(admission)) => admission,
            other => panic!("an offer was answered by {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn probe(&mut self) -> Token {
        match self.offer() {
            Admission::Probe { token } => token,
            other => panic!("no permit but {other:?}"),
        }
    }

    pub(crate) fn task_ended(&mut self, token: Token, end: TaskEnd) {
        self.input(FaultInput::TaskEnded { token, end });
    }

    pub(crate) fn quarantine(&mut self, kind: ReasonKind, severity: Severity) {
        self.order(Order::Quarantine {
            kind,
            severity,
            description: "ordered".to_owned(),
        })
        .unwrap();
    }

    pub(crate) fn record(&self) -> &FaultRecord {
        self.policy.record()
    }

    pub(crate) fn state(&self) -> FaultState {
        self.record().state
    }

    /// How long until the timer is due.
    pub(crate) fn delay(&self) -> Option<Duration> {
        self.record().timer.map(|timer| timer.at.since(self.now))
    }

    pub(crate) fn take(&mut self) -> Vec<FaultEffect> {
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn has(&self, wanted: impl Fn(&FaultEffect) -> bool) -> bool {
        self.effects.iter().any(wanted)
    }
}
