//! The account notices a supervisor that does not do what it was told to: each test tells the two of them different
//! things.

use std::time::Duration;

use mesh_supervision_core::supervisor::{Effect, Reply};

use super::*;
use crate::Breach;

/// A supervisor, and an account of it that may have been told something else.
struct Pair {
    machine: Supervisor,
    check: SupervisionCheck,
    edges: Edges,
    last: u64,
}

impl Pair {
    fn new(real: (Flags, Vec<ChildSpec>), told: (Flags, Vec<ChildSpec>)) -> Self {
        Self {
            machine: Supervisor::new(real.0, real.1).unwrap(),
            check: SupervisionCheck::new(told.0, &told.1),
            edges: Edges::default(),
            last: 0,
        }
    }

    /// Gives both an input, and has every start succeed at once.
    fn step(&mut self, at: u64, input: Input) -> Verdict {
        let now = Timestamp::from_millis(at);
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.check.before(now, &input, &mut self.edges);
            let mut effects = Vec::new();
            self.machine.step(now, input, &mut effects);
            for effect in effects {
                self.check.effect(&effect, &mut self.edges)?;
                if let Effect::Start { child, incarnation } = effect {
                    self.last = incarnation.number();
                    inputs.push(Input::Started { child, incarnation });
                }
            }
            self.check.after(&self.machine)?;
        }
        Ok(())
    }

    /// The current incarnation of a child ends.
    fn exit(&mut self, at: u64, child: &str, reason: ExitReason) -> Verdict {
        let child = ChildId::from(child);
        let incarnation = self.machine.child(&child).unwrap().incarnation.unwrap();
        let input = Input::Exited {
            child,
            incarnation,
            reason,
        };
        self.step(at, input)
    }
}

fn flags(intensity: u32, period: u64) -> Flags {
    Flags {
        intensity,
        period: Duration::from_millis(period),
        ..Flags::default()
    }
}

fn workers(names: [&str; 2]) -> Vec<ChildSpec> {
    names.map(ChildSpec::worker).to_vec()
}

fn failed() -> ExitReason {
    ExitReason::Failed("test".to_owned())
}

fn promise(verdict: Verdict) -> &'static str {
    let Breach { promise, .. } = verdict.unwrap_err();
    promise
}

#[test]
fn a_supervisor_that_does_as_it_was_told_keeps_every_promise() {
    let like = || (flags(1, 1000), workers(["a", "b"]));
    let mut pair = Pair::new(like(), like());
    pair.step(0, Input::Boot).unwrap();
    pair.exit(0, "a", failed()).unwrap();
    pair.exit(1001, "a", failed()).unwrap();
    // One more is too many: it stops the other one, and ends.
    pair.exit(1001, "a", failed()).unwrap();
    pair.exit(1002, "b", ExitReason::Shutdown(None)).unwrap();
    assert!(pair.machine.has_ended());
}

#[test]
fn an_intensity_that_is_off_by_one_is_noticed() {
    let of = |intensity| (flags(intensity, 1000), workers(["a", "b"]));
    for (real, told) in [(2, 1), (1, 2)] {
        let mut pair = Pair::new(of(real), of(told));
        pair.step(0, Input::Boot).unwrap();
        pair.exit(10, "a", failed()).unwrap();
        assert_eq!(promise(pair.exit(20, "a", failed())), WINDOW);
    }
}

#[test]
fn a_period_that_is_short_by_a_millisecond_is_noticed() {
    let of = |period| (flags(1, period), workers(["a", "b"]));
    let mut pair = Pair::new(of(999), of(1000));
    pair.step(0, Input::Boot).unwrap();
    pair.exit(0, "a", failed()).unwrap();
    assert_eq!(promise(pair.exit(1000, "a", failed())), WINDOW);
}

#[test]
fn a_start_before_those_that_go_first_is_noticed() {
    let of = |names| (flags(1, 1000), workers(names));
    let mut pair = Pair::new(of(["b", "a"]), of(["a", "b"]));
    assert_eq!(promise(pair.step(0, Input::Boot)), ORDER);
}

#[test]
fn a_group_that_is_not_restarted_as_a_group_is_noticed() {
    let of = |strategy| {
        let flags = Flags {
            strategy,
            ..flags(3, 1000)
        };
        (flags, workers(["a", "b"]))
    };
    let mut pair = Pair::new(of(Strategy::OneForOne), of(Strategy::OneForAll));
    pair.step(0, Input::Boot).unwrap();
    assert_eq!(promise(pair.exit(0, "b", failed())), ORDER);
    let mut pair = Pair::new(of(Strategy::OneForAll), of(Strategy::OneForOne));
    pair.step(0, Input::Boot).unwrap();
    assert_eq!(promise(pair.exit(0, "b", failed())), SCOPE);
}

#[test]
fn a_restart_that_the_type_forbids_is_noticed() {
    let of = |restart| {
        let mut specs = workers(["a", "b"]);
        specs[1].restart = restart;
        (flags(3, 1000), specs)
    };
    let mut pair = Pair::new(of(Restart::Permanent), of(Restart::Transient));
    pair.step(0, Input::Boot).unwrap();
    assert_eq!(promise(pair.exit(0, "b", ExitReason::Normal)), WINDOW);
    // Without the report of it, too.
    let mut pair = Pair::new(of(Restart::Transient), of(Restart::Transient));
    pair.step(0, Input::Boot).unwrap();
    pair.exit(0, "b", ExitReason::Normal).unwrap();
    let start = Effect::Start {
        child: ChildId::from("b"),
        incarnation: next_incarnation(&pair),
    };
    assert_eq!(promise(pair.check.effect(&start, &mut pair.edges)), TYPES);
}

/// An incarnation that the account has not seen yet: those of a larger supervisor have higher numbers.
fn next_incarnation(pair: &Pair) -> Incarnation {
    let specs = (0..=pair.last).map(|n| ChildSpec::worker(format!("w{n}")));
    let mut other = Supervisor::new(Flags::default(), specs.collect()).unwrap();
    let mut effects = Vec::new();
    let mut inputs = vec![Input::Boot];
    let mut last = None;
    while let Some(input) = inputs.pop() {
        other.step(Timestamp::ZERO, input, &mut effects);
        for effect in effects.drain(..) {
            if let Effect::Start { child, incarnation } = effect {
                last = Some(incarnation);
                inputs.push(Input::Started { child, incarnation });
            }
        }
    }
    last.unwrap()
}

#[test]
fn whoever_acts_on_an_old_incarnation_is_noticed() {
    let like = || (flags(3, 1000), workers(["a", "b"]));
    let mut pair = Pair::new(like(), like());
    pair.step(0, Input::Boot).unwrap();
    let (a, old) = {
        let view = pair.machine.child(&ChildId::from("a")).unwrap();
        (view.spec.id.clone(), view.incarnation.unwrap())
    };
    pair.exit(0, "a", failed()).unwrap();
    let stop = Effect::Kill {
        child: a.clone(),
        incarnation: old,
    };
    assert_eq!(promise(pair.check.effect(&stop, &mut pair.edges)), OLD);
    let stale = Input::Exited {
        child: a.clone(),
        incarnation: old,
        reason: failed(),
    };
    pair.check.before(Timestamp::ZERO, &stale, &mut pair.edges);
    let start = Effect::Start {
        child: a,
        incarnation: next_incarnation(&pair),
    };
    assert_eq!(promise(pair.check.effect(&start, &mut pair.edges)), OLD);
}

#[test]
fn an_answer_that_nobody_waits_for_and_one_that_never_comes_are_noticed() {
    let like = || (flags(3, 1000), workers(["a", "b"]));
    let mut pair = Pair::new(like(), like());
    pair.step(0, Input::Boot).unwrap();
    let reply = Effect::Reply {
        id: RequestId(7),
        result: Ok(Reply::Deleted),
    };
    assert_eq!(
        promise(pair.check.effect(&reply, &mut pair.edges)),
        REQUESTS
    );
    let request = Input::Request {
        id: RequestId(8),
        request: Request::Terminate {
            child: ChildId::from("a"),
        },
    };
    pair.check
        .before(Timestamp::ZERO, &request, &mut pair.edges);
    assert_eq!(promise(pair.check.after(&pair.machine)), STUCK);
}

#[test]
fn a_failure_that_the_supervisor_did_not_hear_of_is_noticed() {
    let like = || (flags(3, 1000), workers(["a", "b"]));
    let mut pair = Pair::new(like(), like());
    pair.step(0, Input::Boot).unwrap();
    let view = pair.machine.child(&ChildId::from("a")).unwrap();
    let lost = Input::Exited {
        child: view.spec.id.clone(),
        incarnation: view.incarnation.unwrap(),
        reason: failed(),
    };
    pair.check.before(Timestamp::ZERO, &lost, &mut pair.edges);
    assert_eq!(promise(pair.check.after(&pair.machine)), SCOPE);
}

#[test]
fn a_restart_by_order_that_the_group_overtakes_is_done_once() {
    let like = || {
        let flags = Flags {
            strategy: Strategy::OneForAll,
            ..flags(3, 1000)
        };
        (flags, workers(["a", "b"]))
    };
    let mut pair = Pair::new(like(), like());
    pair.step(0, Input::Boot).unwrap();
    let child = || ChildId::from("b");
    for (id, request) in [
        (RequestId(1), Request::Restart { child: child() }),
        (RequestId(2), Request::Terminate { child: child() }),
    ] {
        pair.step(0, Input::Request { id, request }).unwrap();
    }
    pair.exit(0, "a", failed()).unwrap();
    // It has stopped for both; the group starts it, and only then is the second order its own.
    pair.exit(0, "b", ExitReason::Shutdown(None)).unwrap();
    pair.exit(0, "b", ExitReason::Shutdown(None)).unwrap();
    let left = pair.machine.child(&child()).unwrap();
    assert_eq!(left.status, ChildStatus::Down);
}
