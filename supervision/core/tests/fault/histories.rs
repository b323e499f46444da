//! Random histories, with what must hold after every single step.

use std::time::Duration;

use mesh_supervision_core::{Timestamp, fault::*};
use proptest::{prelude::*, strategy::Strategy as Generator};

#[derive(Debug, Clone)]
enum Action {
    Input(FaultInput),
    /// The armed timer is delivered, as late as given; or one that is not armed.
    Timer {
        late_ms: u64,
        stale: bool,
    },
    /// The last start comes up.
    Up,
    /// The probe under way ends.
    TaskEnded(TaskEnd),
    Pass(u64),
    /// The owner is killed and comes back.
    Restore,
}

fn severity() -> impl Generator<Value = Severity> {
    prop_oneof![
        5 => Just(Severity::Low),
        10 => Just(Severity::Medium),
        2 => Just(Severity::High),
        1 => Just(Severity::Critical),
    ]
}

fn kind() -> impl Generator<Value = ReasonKind> {
    prop_oneof![
        4 => Just(ReasonKind::Crash),
        1 => Just(ReasonKind::ResourceAbuse),
        1 => Just(ReasonKind::SecurityViolation),
    ]
}

fn order() -> impl Generator<Value = Order> {
    prop_oneof![
        4 => Just(Order::Start),
        1 => Just(Order::Stop),
        1 => Just(Order::Restart),
        1 => Just(Order::Resume),
        2 => any::<bool>().prop_map(|force| Order::Recover { force }),
        1 => (prop_oneof![kind(), Just(ReasonKind::Manual)], severity()).prop_map(|(kind, severity)| {
            Order::Quarantine { kind, severity, description: String::new() }
        }),
    ]
}

fn action() -> impl Generator<Value = Action> {
    prop_oneof![
        8 => (severity(), kind(), prop::bool::weighted(0.9)).prop_map(|(severity, kind, scored)| {
            let description = String::new();
            Action::Input(FaultInput::Failure(Failure { severity, kind, description, scored }))
        }),
        8 => (0..2_000_u64, prop::bool::weighted(0.1))
            .prop_map(|(late_ms, stale)| Action::Timer { late_ms, stale }),
        5 => Just(Action::Up),
        3 => Just(Action::Input(FaultInput::TaskOffered)),
        3 => prop_oneof![Just(TaskEnd::Ok), Just(TaskEnd::Unscored)].prop_map(Action::TaskEnded),
        4 => order().prop_map(|order| Action::Input(FaultInput::Order(order))),
        2 => (0..200_000_u64).prop_map(Action::Pass),
        1 => (0..4_000_000_u64).prop_map(Action::Pass),
        1 => (0..3_u32).prop_map(|failures| Action::Input(FaultInput::Refund { failures })),
        1 => Just(Action::Restore),
    ]
}

struct World {
    policy: FaultPolicy,
    config: FaultConfig,
    now: Timestamp,
    /// Whether the step under way may start the agent.
    probe: Option<Token>,
}

impl World {
    fn act(&mut self, action: Action, random: u64) {
        let before = self.policy.record().clone();
        let was_exhausted = self.policy.is_exhausted();
        let input = match action {
            Action::Pass(ms) => {
                self.now = self.now.plus(Duration::from_millis(ms));
                return;
            }
            Action::Restore => return self.restore(&before),
            Action::Input(input) => input,
            Action::Up => FaultInput::Up {
                epoch: before.epoch,
            },
            Action::TaskEnded(end) => match self.probe.take() {
                Some(token) => FaultInput::TaskEnded { token, end },
                None => return,
            },
            Action::Timer { late_ms, stale } => match before.timer {
                Some(timer) if stale => FaultInput::Timer {
                    token: Token(timer.token.0 - 1),
                },
                Some(timer) => {
                    self.now = self.now.max(timer.at).plus(Duration::from_millis(late_ms));
                    FaultInput::Timer { token: timer.token }
                }
                None => return,
            },
        };
        let mut effects = Vec::new();
        let result = self
            .policy
            .step(self.now, random, input.clone(), &mut effects);
        if result.is_err() {
            assert!(effects.is_empty());
            assert_eq!(self.policy.record(), &before, "a refusal changes nothing");
        }
        self.check_starts(&before, was_exhausted, &input, &effects);
        self.check_failure(&before, &input);
        self.check_record();
        for effect in effects {
            if let FaultEffect::Admission(Admission::Probe { token }) = effect {
                assert!(
                    !matches!(before.permit, Some(Permit::Taken(_))),
                    "a second permit"
                );
                self.probe = Some(token);
            }
        }
    }

    fn restore(&mut self, before: &FaultRecord) {
        let mut effects = Vec::new();
        self.policy =
            FaultPolicy::restore(before.clone(), self.config.clone(), self.now, &mut effects)
                .unwrap();
        let starts = effects
            .iter()
            .filter(|effect| matches!(effect, FaultEffect::Start { .. }))
            .count();
        assert_eq!(starts, usize::from(before.state.is_started()));
        assert_eq!(
            (self.policy.record().state, self.policy.record().score),
            (before.state, before.score)
        );
        self.check_record();
    }

    /// An agent is started by a due timer or by an order that is legal where it stands, and by nothing else.
    fn check_starts(
        &self,
        before: &FaultRecord,
        was_exhausted: bool,
        input: &FaultInput,
        effects: &[FaultEffect],
    ) {
        let starts = effects.iter().filter(|effect| {
            matches!(
                effect,
                FaultEffect::Start { .. } | FaultEffect::Restart { .. }
            )
        });
        let starts = starts.count();
        let allowed = match input {
            FaultInput::Timer { token } => {
                let due = before
                    .timer
                    .filter(|timer| timer.token == *token && timer.at <= self.now);
                let waits = matches!(before.state, FaultState::Backoff | FaultState::Open);
                due.is_some()
                    && (waits || (before.state == FaultState::Quarantined && !was_exhausted))
            }
            FaultInput::Order(Order::Start) => before.state == FaultState::Stopped,
            FaultInput::Order(Order::Restart) => before.state == FaultState::Running,
            FaultInput::Order(Order::Recover { force }) => {
                before.state == FaultState::Quarantined && (*force || !was_exhausted)
            }
            FaultInput::Failure(_)
            | FaultInput::Up { .. }
            | FaultInput::TaskOffered
            | FaultInput::TaskEnded { .. }
            | FaultInput::Refund { .. }
            | FaultInput::Order(_)
            | FaultInput::Configure(_) => false,
        };
        assert_eq!(
            starts,
            usize::from(allowed),
            "{input:?} in {} gave {effects:?}",
            before.state
        );
        assert_eq!(
            self.policy.record().epoch,
            before.epoch + u64::from(allowed)
        );
    }

    fn check_failure(&self, before: &FaultRecord, input: &FaultInput) {
        let after = self.policy.record();
        if let FaultInput::Failure(failure) = input
            && failure.scored
        {
            assert_eq!(after.score, before.score + 1);
            assert!(after.hour.contains(&self.now));
            assert_ne!(
                after.state,
                FaultState::Running,
                "a scored failure ends Running and both trials"
            );
            let over = after.score >= self.config.quarantine_threshold
                || after.hour.len() > usize::try_from(self.config.hourly_max).unwrap();
            if before.state.is_live() && (over || failure.severity == Severity::Critical) {
                assert_eq!(after.state, FaultState::Quarantined);
            }
        } else {
            let closed = after.state == FaultState::Running && after.score == 0;
            let refunded = matches!(input, FaultInput::Refund { .. });
            assert!(after.score == before.score || closed || refunded);
        }
    }

    fn check_record(&self) {
        let record = self.policy.record();
        let on_trial = matches!(record.state, FaultState::HalfOpen | FaultState::Recovering);
        assert_eq!(record.permit.is_some(), on_trial);
        match record.state {
            FaultState::Backoff | FaultState::Open => {
                assert!(record.timer.is_some(), "it would wait for ever");
            }
            FaultState::Quarantined => {
                assert!(record.quarantine.is_some());
                assert!(!(self.policy.is_exhausted() && record.timer.is_some()));
            }
            FaultState::Stopped | FaultState::Terminated => assert_eq!(record.timer, None),
            FaultState::HalfOpen | FaultState::Recovering => {
                // Up and idle: something must end the trial.
                let idle = record.permit == Some(Permit::Free) && record.up_since.is_some();
                assert!(
                    !idle || record.timer.is_some(),
                    "the trial would last for ever: {record:?}"
                );
            }
            FaultState::Running => assert!(record.quarantine.is_none()),
        }
        if let (FaultState::Running, Some(_), true) =
            (record.state, record.up_since, record.score > 0)
        {
            assert!(
                record.timer.is_some(),
                "the score would last for ever: {record:?}"
            );
        }
        assert!(record.crashes.is_sorted() && record.hour.is_sorted());
        assert!(
            record
                .timer
                .is_none_or(|timer| timer.token.0 <= record.token_last)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_legal(
        essential in any::<bool>(),
        auto_restart in prop::bool::weighted(0.9),
        actions in prop::collection::vec((action(), any::<u64>()), 0..200),
    ) {
        let config = FaultConfig { essential, auto_restart, ..FaultConfig::default() };
        let now = Timestamp::from_millis(1_800_000_000_000);
        let policy = FaultPolicy::new(config.clone(), now).unwrap();
        let mut world = World { policy, config, now, probe: None };
        world.act(Action::Input(FaultInput::Order(Order::Start)), 0);
        for (action, random) in actions {
            world.act(action, random);
        }
    }
}
