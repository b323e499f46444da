//! Schedules: what becomes of planned times, by hand and at random.

use mesh_messages::ScheduleId;
use mesh_messages::schedule::{Firing, FiringOutcome, Missed, Overlap, Schedule, ScheduleTerms};

use super::*;
use crate::workflow::decide::LIVE_RUNS_MAX;

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn id() -> ScheduleId {
    ScheduleId::new("nightly").unwrap()
}

fn new(cron: &str, missed: Missed, overlap: Overlap) -> NewSchedule {
    let document = json!({"name": "work", "steps": [{"id": "a", "requirements": ["x"]}]});
    NewSchedule {
        id: id(),
        terms: ScheduleTerms {
            cron: cron.to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            input: json!({"n": 1}),
            missed,
            overlap,
        },
        plan: Arc::new(plan(&document).unwrap()),
        by: "ann".to_owned(),
        paused: false,
    }
}

impl World {
    fn at(now: &str, new: NewSchedule) -> Self {
        let mut world = Self::new();
        world.now = moment(now);
        world.run(Command::Schedule(ScheduleCommand::Create(Box::new(new))));
        world
    }

    fn tick_at(&mut self, now: &str) {
        self.now = moment(now);
        self.run(Command::Tick);
    }

    fn shown(&self) -> Schedule {
        self.state.schedule(&id()).unwrap()
    }

    /// What became of planned times, oldest first.
    fn outcomes(&self) -> Vec<(String, FiringOutcome)> {
        let recent = self.shown().recent;
        let told = |firing: &Firing| (firing.planned.to_string(), firing.outcome);
        recent.iter().rev().map(told).collect()
    }

    fn finish_one(&mut self) {
        let task = self.open.first().cloned().unwrap();
        self.end(&task, good(json!(1)));
    }
}

fn told(times: &[(&str, FiringOutcome)]) -> Vec<(String, FiringOutcome)> {
    let told = times.iter();
    told.map(|(at, outcome)| (moment(at).to_string(), *outcome))
        .collect()
}

#[test]
fn a_run_begins_at_its_planned_time_and_not_before() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 9 * * *", Missed::Once, Overlap::Skip),
    );
    assert_eq!(
        world.state.next_timer(),
        Some(moment("2026-06-01T07:00:00Z"))
    );
    world.tick_at("2026-06-01T06:59:59.999Z");
    assert!(world.open.is_empty());
    world.tick_at("2026-06-01T07:00:00.001Z");
    assert_eq!(world.open.len(), 1);
    let run = world.shown().running[0].clone();
    let view = world.view(&run);
    let scheduled = view.scheduled.unwrap();
    assert_eq!(scheduled.planned, moment("2026-06-01T07:00:00Z"));
    assert_eq!(
        (view.input, view.submitted_by),
        (json!({"n": 1}), "ann".to_owned())
    );
    world.tick_at("2026-06-01T07:00:00.002Z");
    assert_eq!(world.submitted.len(), 1, "once");
    let local = &world.shown().upcoming[0].local;
    assert_eq!(local, "2026-06-02T09:00:00+02:00[Europe/Berlin]");
}

#[test]
fn missed_times_are_skipped_made_up_for_once_or_all_as_the_rule_says() {
    use FiringOutcome::{Missed as Passed, Started, Waiting};
    let cases = [
        (
            Missed::Skip,
            Overlap::Skip,
            told(&[("2026-06-04T07:00:00Z", Passed)]),
        ),
        (
            Missed::Once,
            Overlap::Skip,
            told(&[
                ("2026-06-03T07:00:00Z", Passed),
                ("2026-06-04T07:00:00Z", Started),
            ]),
        ),
        (
            Missed::All,
            Overlap::Queue,
            told(&[
                ("2026-06-02T07:00:00Z", Started),
                ("2026-06-03T07:00:00Z", Waiting),
                ("2026-06-04T07:00:00Z", Waiting),
            ]),
        ),
    ];
    for (missed, overlap, expected) in cases {
        let mut world = World::at("2026-06-01T08:00:00Z", new("0 9 * * *", missed, overlap));
        // meshd was down for three days, and comes back in the afternoon.
        world.now = moment("2026-06-04T15:00:00Z");
        world.restart();
        assert_eq!(world.outcomes(), expected, "{missed:?}");
        assert_eq!(
            world.state.next_timer(),
            Some(moment("2026-06-05T07:00:00Z"))
        );
    }
}

#[test]
fn what_waits_begins_by_itself_when_any_run_has_ended_of_too_many() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 * * * *", Missed::Once, Overlap::Queue),
    );
    world.tick_at("2026-06-01T07:00:00Z");
    world.tick_at("2026-06-01T08:00:00Z");
    assert_eq!(world.shown().waiting.len(), 1);
    let first = world.open.clone();
    let document = json!({"name": "other", "steps": [{"id": "a", "requirements": ["x"]}]});
    world.start(&document, json!(null));
    let other = world.open.difference(&first).next().cloned().unwrap();
    // As if so many others had not ended that the end of the earlier run makes no room.
    for state in [&mut world.state, &mut world.replayed] {
        state.index.live = LIVE_RUNS_MAX + 1;
    }
    let earlier = first.first().cloned().unwrap();
    world.end(&earlier, good(json!(1)));
    let shown = world.shown();
    assert_eq!(
        (shown.running.len(), shown.waiting.len()),
        (0, 1),
        "it waits, and is not left out"
    );
    world.end(&other, good(json!(1)));
    let shown = world.shown();
    assert_eq!(
        (shown.running.len(), shown.waiting.len()),
        (1, 0),
        "it has begun"
    );
}

#[test]
fn a_clock_that_is_set_back_while_it_is_paused_repeats_no_planned_time() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 9 * * *", Missed::Once, Overlap::Allow),
    );
    world.tick_at("2026-06-01T07:00:00Z");
    assert_eq!(world.submitted.len(), 1);
    let pause = |paused| {
        let by = "ann".to_owned();
        Command::Schedule(ScheduleCommand::Pause {
            id: id(),
            paused,
            by,
        })
    };
    world.run(pause(true));
    world.now = moment("2026-06-01T05:00:00Z");
    world.run(pause(false));
    assert_eq!(
        world.state.next_timer(),
        Some(moment("2026-06-02T07:00:00Z"))
    );
    world.tick_at("2026-06-01T07:00:00Z");
    assert_eq!(world.submitted.len(), 1, "once");
    world.tick_at("2026-06-02T07:00:00Z");
    assert_eq!(world.submitted.len(), 2);
}

#[test]
fn a_time_that_is_seconds_late_is_not_missed() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 9 * * *", Missed::Skip, Overlap::Skip),
    );
    world.now = moment("2026-06-01T07:00:30Z");
    world.restart();
    assert_eq!(world.open.len(), 1);
}

#[test]
fn a_year_away_is_made_up_for_within_the_bound() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("* * * * *", Missed::All, Overlap::Queue),
    );
    world.tick_at("2027-06-01T06:00:01Z");
    let shown = world.shown();
    assert_eq!(shown.running.len() + shown.waiting.len(), CATCH_UP_MAX + 1);
    let counted = world.events.iter().find_map(|event| match event {
        WorkflowEvent::ScheduleFired { firing, .. } => firing.times,
        _ => None,
    });
    assert_eq!(
        counted,
        Some(949),
        "at least so many, one minute being in time"
    );
}

#[test]
fn while_a_run_has_not_ended_the_next_time_is_treated_as_the_rule_says() {
    use FiringOutcome::{Skipped, Started, Waiting};
    let cases = [
        (Overlap::Skip, Skipped, 1, 0),
        (Overlap::Queue, Waiting, 1, 0),
        (Overlap::Allow, Started, 2, 0),
        (Overlap::CancelPrevious, Waiting, 1, 1),
    ];
    for (overlap, second, open, cancelled) in cases {
        let mut world = World::at(
            "2026-06-01T06:00:00Z",
            new("0 * * * *", Missed::Once, overlap),
        );
        world.tick_at("2026-06-01T07:00:00Z");
        world.tick_at("2026-06-01T08:00:00Z");
        let expected = told(&[
            ("2026-06-01T07:00:00Z", Started),
            ("2026-06-01T08:00:00Z", second),
        ]);
        assert_eq!(world.outcomes(), expected, "{overlap:?}");
        assert_eq!(world.open.len(), open, "{overlap:?}");
        assert_eq!(world.to_cancel.len(), cancelled, "{overlap:?}");
        world.restart();
        world.finish_one();
        let began = world.submitted.len();
        let expected = if second == Skipped { 1 } else { 2 };
        assert_eq!(
            began, expected,
            "{overlap:?}: what waits begins when the earlier run has ended"
        );
    }
}

#[test]
fn a_paused_schedule_begins_nothing_and_makes_up_for_nothing_afterwards() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 * * * *", Missed::All, Overlap::Queue),
    );
    world.tick_at("2026-06-01T07:00:00Z");
    world.tick_at("2026-06-01T08:00:00Z");
    let pause = |paused| {
        Command::Schedule(ScheduleCommand::Pause {
            id: id(),
            paused,
            by: "ann".to_owned(),
        })
    };
    world.run(pause(true));
    assert_eq!(world.state.next_timer(), None);
    world.finish_one();
    assert!(
        world.open.is_empty(),
        "what waits does not begin while it is paused"
    );
    world.now = moment("2026-06-01T12:30:00Z");
    world.run(pause(false));
    assert_eq!(world.open.len(), 1, "what waited begins");
    assert_eq!(
        world.state.next_timer(),
        Some(moment("2026-06-01T13:00:00Z"))
    );
}

#[test]
fn the_same_schedule_again_is_the_one_that_is_there_and_another_is_refused() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 * * * *", Missed::Once, Overlap::Skip),
    );
    let mut create = |new: NewSchedule| {
        let command = Command::Schedule(ScheduleCommand::Create(Box::new(new)));
        world.state.decide(command, world.now)
    };
    let again = create(new("0 * * * *", Missed::Once, Overlap::Skip)).unwrap();
    assert_eq!(again.answer, Answer::Schedule { replayed: true });
    assert!(again.events.is_empty());
    let other = create(new("1 * * * *", Missed::Once, Overlap::Skip));
    assert_eq!(other.unwrap_err(), ScheduleRefusal::Exists(id()).into());
    let both = create(new("0 * * * *", Missed::All, Overlap::Skip));
    assert_eq!(both.unwrap_err(), ScheduleRefusal::AllNeedsRoom.into());
}

#[test]
fn a_removed_schedule_fires_no_more_and_leaves_its_run_alone() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 * * * *", Missed::Once, Overlap::Queue),
    );
    world.tick_at("2026-06-01T07:00:00Z");
    world.tick_at("2026-06-01T08:00:00Z");
    world.run(Command::Schedule(ScheduleCommand::Remove {
        id: id(),
        by: "ann".to_owned(),
    }));
    world.tick_at("2026-06-02T08:00:00Z");
    world.finish_one();
    assert_eq!((world.submitted.len(), world.ended.len()), (1, 1));
    assert!(world.state.schedules().is_empty());
}

#[test]
fn a_scheduled_document_does_not_become_the_newest_of_its_name() {
    let mut world = World::at(
        "2026-06-01T06:00:00Z",
        new("0 * * * *", Missed::Once, Overlap::Queue),
    );
    let newer =
        json!({"name": "work", "version": 2, "steps": [{"id": "b", "requirements": ["x"]}]});
    world.start(&newer, Value::Null);
    world.tick_at("2026-06-01T07:00:00Z");
    assert_eq!(world.state.named("work").unwrap().version.0, "2");
    let run = world.shown().running[0].clone();
    assert_eq!(world.view(&run).version, "1");
}

fn rule() -> impl Strategy<Value = (Missed, Overlap)> {
    prop_oneof![
        Just((Missed::Skip, Overlap::Skip)),
        Just((Missed::Once, Overlap::Skip)),
        Just((Missed::Once, Overlap::Queue)),
        Just((Missed::All, Overlap::Queue)),
        Just((Missed::All, Overlap::Allow)),
        Just((Missed::Once, Overlap::CancelPrevious)),
    ]
}

proptest! {
    /// Whenever meshd is killed and however the clock jumps: no planned time begins twice, and each is accounted for.
    #[test]
    fn every_planned_time_is_decided_on_once(
        rule in rule(),
        steps in prop::collection::vec((0_u8..6, 0_u64..90), 1..60),
    ) {
        let mut world = World::at("2026-03-28T20:00:00Z", new("*/10 * * * *", rule.0, rule.1));
        for (kind, minutes) in steps {
            match kind {
                0..=2 => world.now = world.now.plus(Duration::from_secs(minutes * 20)),
                3 => world.now = world.now.minus(Duration::from_secs(minutes)),
                4 if !world.open.is_empty() => {
                    let tasks: Vec<_> = world.open.iter().cloned().collect();
                    let task = tasks[usize::try_from(minutes).unwrap() % tasks.len()].clone();
                    world.end(&task, good(json!(1)));
                }
                _ => world.restart(),
            }
            world.run(Command::Tick);
        }
        let mut began = BTreeSet::new();
        let mut accounted = 0;
        let mut last = moment("2026-03-28T20:00:00Z");
        for event in &world.events {
            let WorkflowEvent::ScheduleFired { firing, .. } = event else { continue };
            if firing.outcome == FiringOutcome::Started {
                prop_assert!(began.insert(firing.planned), "{} began twice", firing.planned);
            }
            // What waited is told of again when it begins or is left out.
            if firing.planned > last {
                accounted += firing.times.unwrap_or(1);
                last = firing.planned;
            }
        }
        let timing = Timing::read("*/10 * * * *", "Europe/Berlin").unwrap();
        let planned = timing.between(moment("2026-03-28T20:00:01Z"), last, usize::MAX);
        prop_assert_eq!(usize::try_from(accounted).unwrap(), planned.len());
        prop_assert!(world.state.next_timer().is_some_and(|next| next > last));
        prop_assert!(world.submitted.values().all(|times| *times == 1));
    }
}
