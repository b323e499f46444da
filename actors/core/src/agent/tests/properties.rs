//! Random lives: [`World`] checks every step of them.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Move {
    Order(u8),
    Scale(u32),
    /// A replica gets on: shakes hands, then serves.
    GetOn(u32),
    End(u32, FailureClass),
    /// Whatever is told to stop stops.
    Settle,
    Timer,
    Rested,
    Offer(u32),
    Answer(bool),
    Pass(u64),
    Reboot,
    Close,
}

fn class() -> impl Strategy<Value = FailureClass> {
    prop::sample::select(vec![
        FailureClass::Crash,
        FailureClass::Start,
        FailureClass::Hang,
        FailureClass::Resource,
        FailureClass::Policy,
        FailureClass::Lost,
        FailureClass::Timeout,
        FailureClass::Cancelled,
    ])
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (0_u8..12).prop_map(Move::Order),
        1 => (0_u32..4).prop_map(Move::Scale),
        8 => (0_u32..3).prop_map(Move::GetOn),
        6 => (0_u32..3, class()).prop_map(|(no, class)| Move::End(no, class)),
        4 => Just(Move::Settle),
        4 => Just(Move::Timer),
        2 => Just(Move::Rested),
        2 => (0_u32..3).prop_map(Move::Offer),
        2 => any::<bool>().prop_map(Move::Answer),
        2 => (0_u64..100_000).prop_map(Move::Pass),
        1 => Just(Move::Reboot),
        1 => Just(Move::Close),
    ]
}

fn order(which: u8) -> AgentCommand {
    let upgrade = |rollback| AgentCommand::Upgrade {
        target: None,
        forceful: true,
        rollback,
        kind: "hard".to_owned(),
    };
    match which {
        0..=2 => AgentCommand::Start,
        3 => AgentCommand::Stop,
        4 => AgentCommand::Restart,
        5 => AgentCommand::Pause,
        6 => AgentCommand::Resume,
        7 => isolate(Severity::Medium),
        8 => AgentCommand::Recover { force: true },
        9 => upgrade(false),
        10 => upgrade(true),
        _ => AgentCommand::Terminate {
            reason: "test".to_owned(),
        },
    }
}

impl World {
    fn play(&mut self, a_move: Move) {
        match a_move {
            // A refusal changes nothing; what it did not refuse was checked.
            Move::Order(which) => drop(self.try_run(order(which))),
            Move::Scale(replicas) => drop(self.try_run(AgentCommand::Scale { replicas })),
            Move::GetOn(no) => match self.processes.get(&InstanceNo(no)) {
                Some(p) if !p.shook => drop(self.shake(no)),
                Some(p) if !p.ready => drop(self.ready(no)),
                _ => {}
            },
            Move::End(no, class) => {
                if self.processes.contains_key(&InstanceNo(no)) {
                    self.end(no, Some(class));
                }
            }
            Move::Settle => self.all_stopped(),
            Move::Timer => {
                if self.timer.is_some() {
                    self.fire();
                }
            }
            Move::Rested => {
                if self.rest.is_some() {
                    self.wake();
                }
            }
            Move::Offer(no) => {
                if let Some(epoch) = self.processes.get(&InstanceNo(no)).map(|p| p.epoch) {
                    let task = task("t1");
                    self.run(AgentCommand::Offered { task, epoch });
                }
            }
            Move::Answer(ok) => {
                let task = task("t1");
                self.run(AgentCommand::AttemptEnded { task, ok });
            }
            Move::Pass(millis) => self.pass(Duration::from_millis(millis)),
            Move::Reboot => drop(self.reboot()),
            Move::Close => {
                self.closed = true;
                self.run(AgentCommand::Close);
            }
        }
    }

    /// In no window are there more starts after unscored ends than the limit, for any replica.
    fn check_rests(&self) {
        let limit = usize::try_from(self.config.max_crashes.max(1)).unwrap();
        for no in 0..3 {
            let times: Vec<_> = self
                .starts
                .iter()
                .filter(|(_, instance, why)| instance.0 == no && *why == Why::Unscored)
                .map(|(at, ..)| *at)
                .collect();
            for some in times.windows(limit + 1) {
                let span = some[limit].since(some[0]);
                assert!(span > self.config.crash_window, "{span:?}: {times:?}");
            }
        }
    }
}

fn life(replicas: u32, moves: Vec<Move>) -> World {
    let mut world = World::new(replicas);
    world.register("1.1.0", replicas);
    for a_move in moves {
        world.play(a_move);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_a_promise(
        replicas in 1_u32..4,
        moves in prop::collection::vec(a_move(), 1..120),
    ) {
        life(replicas, moves);
    }

}

proptest! {
    // Each case is as many lives as it has moves.
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_death_at_every_step_leads_to_a_sane_state(
        replicas in 1_u32..3,
        moves in prop::collection::vec(a_move(), 1..40),
    ) {
        for upto in 0..=moves.len() {
            let mut world = life(replicas, moves[..upto].to_vec());
            let stood = world.fault();
            let boot = world.reboot();
            let started = boot.effects.iter().filter(|e| matches!(e, AgentEffect::Spawn { .. }));
            let wanted = if stood.is_started() { world.state.replicas } else { 0 };
            prop_assert_eq!(started.count(), wanted as usize, "policy {}", stood);
            prop_assert_eq!(world.fault(), stood);
            // A second death right away loses and adds nothing.
            let events = world.state.records;
            world.reboot();
            prop_assert_eq!(world.fault(), stood);
            prop_assert!(world.state.records <= events + 1 + 2 * u64::from(world.state.replicas));
        }
    }

    /// An agent that does nothing but end, as soon as it can and in whatever way, for an hour.
    #[test]
    fn an_agent_that_only_ends_is_started_no_more_often_than_its_limits_allow(
        classes in prop::collection::vec(class(), 1..60),
        ready in any::<bool>(),
    ) {
        let mut world = World::new(1);
        world.run(AgentCommand::Start);
        let until = world.now.plus(Duration::from_hours(1));
        let mut next = classes.iter().cycle();
        let mut scored = 0;
        while world.now < until {
            if world.processes.contains_key(&InstanceNo(0)) {
                if ready {
                    world.all_ready();
                }
                let class = *next.next().unwrap();
                scored += u32::from(class.is_scored());
                world.end(0, Some(class));
                continue;
            }
            let rest = world.rest.filter(|_| world.fault().is_started());
            match (rest, world.timer) {
                (Some(rest), Some((_, at))) if rest <= at => drop(world.wake()),
                (Some(_), None) => drop(world.wake()),
                (_, Some(_)) => drop(world.fire()),
                (None, None) => break, // Isolated for good.
            }
        }
        world.check_rests();
        let unscored = world.starts.iter().filter(|(.., why)| *why == Why::Unscored).count();
        // Every other start answers a scored failure, and an hour bears so many before it quarantines, and tries to
        // recover at most thrice.
        prop_assert!(scored <= world.config.hourly_max + 1 + 3);
        prop_assert!(world.starts.len() - unscored <= 1 + scored as usize);
        prop_assert!(unscored <= 3 * 61);
    }
}
