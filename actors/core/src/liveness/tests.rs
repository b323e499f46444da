//! Stories of agents that get nowhere, of honest ones that are only slow, and random histories of both.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn id(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

fn call(id: &str, asked: &str, bound: Option<u64>) -> Call {
    Call {
        id: id.to_owned(),
        name: "call".to_owned(),
        what: Fingerprint::of("call", asked.as_bytes()),
        bound: bound.map(Duration::from_millis),
        moves: true,
        waits: false,
    }
}

/// A watch with a clock that the story sets.
struct Story {
    watch: Watch,
    now: u64,
    found: Vec<Finding>,
}

impl Story {
    fn new(limits: Limits) -> Self {
        Self::beating(limits, None)
    }

    fn beating(limits: Limits, ttl: Option<u64>) -> Self {
        let ttl = ttl.map(Duration::from_millis);
        let mut story = Self {
            watch: Watch::new(limits, ttl, Timestamp::ZERO),
            now: 0,
            found: Vec::new(),
        };
        story.at(0, Input::Ready);
        story
    }

    /// With one attempt in hand, `t`.
    fn at_work(limits: Limits) -> Self {
        let mut story = Self::new(limits);
        story.begin("t", 1);
        story
    }

    fn begin(&mut self, task: &str, attempt: u32) {
        let (task, attempt) = (id(task), AttemptNo(attempt));
        self.at(self.now, Input::Begun { task, attempt });
    }

    /// Lets time pass up to `now`, looking whenever the watch wants to be looked at; then `input`.
    fn at(&mut self, now: u64, input: Input) {
        while let Some(due) = self.watch.due().filter(|due| due.as_millis() < now) {
            let due = due.max(Timestamp::from_millis(self.now));
            self.watch.step(due, Input::Due, &mut self.found);
            assert!(
                self.watch.due().is_none_or(|next| next > due),
                "it wants to be looked at again and again"
            );
        }
        self.now = now;
        let now = Timestamp::from_millis(now);
        self.watch.step(now, input, &mut self.found);
    }

    fn line(&mut self, now: u64) {
        self.at(now, Input::Line);
    }

    fn calls(&mut self, now: u64, call: Call) {
        let task = Some(id("t"));
        self.at(now, Input::Called { task, call });
        self.line(now);
    }

    fn answered(&mut self, now: u64, call: &str) {
        let (task, id) = (Some(id("t")), call.to_owned());
        self.at(now, Input::Answered { task, id });
    }

    fn progress(&mut self, now: u64, fraction: f64) {
        let task = id("t");
        self.at(now, Input::Progress { task, fraction });
        self.line(now);
    }

    #[track_caller]
    fn found(&self, expected: &[(FindingKind, FindingAction)]) {
        let found: Vec<_> = self.found.iter().map(|f| (f.finding, f.action)).collect();
        assert_eq!(found, expected, "{:?}", self.found);
    }
}

fn silence(limit: u64) -> Limits {
    Limits {
        silence: Some(Duration::from_millis(limit)),
        ..Limits::default()
    }
}

use FindingAction::{Alert, Cancel, End, Off};
use FindingKind::{HealthCheck, Heartbeat, Overrun, Repetition, Silence, Stall};

// ---- honest and slow ----

#[test]
fn ten_minutes_of_silence_inside_one_announced_call_are_left_alone() {
    let mut story = Story::at_work(silence(15_000));
    story.calls(1000, call("llm", "a long story", Some(15 * MINUTE)));
    story.at(601_000, Input::Due);
    story.found(&[]);
    story.answered(601_000, "llm");
    story.line(601_000);
    story.at(615_000, Input::Due);
    story.found(&[]);
    // Then it may be silent for as long as any other.
    story.at(616_001, Input::Due);
    story.found(&[(Silence, End)]);
}

#[test]
fn who_waits_for_a_delegated_task_may_be_silent() {
    let mut story = Story::at_work(silence(1000));
    story.calls(0, call("child", "x", None));
    story.at(60 * MINUTE, Input::Due);
    story.found(&[]);
}

#[test]
fn silence_in_a_task_is_nothing_unless_declared() {
    let mut story = Story::beating(Limits::default(), Some(15_000));
    story.begin("t", 1);
    story.at(24 * 60 * MINUTE, Input::Due);
    story.found(&[]);
}

#[test]
fn a_hundred_equal_calls_at_once_are_a_fan_out_and_no_loop() {
    let mut story = Story::at_work(Limits {
        repetition: 2,
        repetition_over: Duration::ZERO,
        ..Limits::default()
    });
    for n in 0..100 {
        story.calls(n, call(&format!("c{n}"), "the same", None));
    }
    story.found(&[]);
}

#[test]
fn a_quick_loop_is_only_quick() {
    let mut story = Story::at_work(Limits::default());
    for n in 0..10_000 {
        story.calls(n, call("c", "the same", None));
        story.answered(n, "c");
    }
    story.found(&[]);
}

#[test]
fn a_loop_with_something_new_in_each_round_is_work() {
    let mut story = Story::at_work(Limits::default());
    for n in 0..1000 {
        let now = n * 10_000;
        story.calls(now, call("c", "read the settings", None));
        story.answered(now, "c");
        story.calls(now, call("w", &format!("write {n}"), None));
        story.answered(now, "w");
    }
    story.found(&[]);
}

#[test]
fn talk_during_calls_is_no_stall_and_their_time_does_not_count() {
    let mut story = Story::at_work(Limits::default());
    // Every call looks like the last, so none is a step forward; 29 of 30 minutes are spent within them.
    for round in 0..20 {
        let now = round * 30 * MINUTE;
        story.calls(now, call("c", "think", Some(60 * MINUTE)));
        for minute in 1..29 {
            story.line(now + minute * MINUTE);
        }
        story.answered(now + 29 * MINUTE, "c");
    }
    story.found(&[]);
    // What is left is a minute each.
    for minute in 0..12 {
        story.line((600 + minute) * MINUTE);
    }
    story.found(&[(Stall, Alert)]);
}

#[test]
fn a_sign_of_life_now_and_then_is_no_talk() {
    let mut story = Story::at_work(Limits::default());
    story.progress(0, 0.1);
    story.line(40 * MINUTE);
    story.line(80 * MINUTE);
    story.found(&[]);
    story.line(120 * MINUTE);
    story.found(&[(Stall, Alert)]);
}

// ---- getting nowhere ----

#[test]
fn a_loop_of_identical_calls_is_found_once_with_what_shows_it() {
    let mut story = Story::at_work(Limits::default());
    // As it happened elsewhere: 613 in 94 minutes.
    for n in 0..613 {
        let now = n * 9200;
        story.calls(now, call("c", "the same", None));
        story.answered(now + 100, "c");
    }
    story.found(&[(Repetition, Cancel)]);
    let finding = &story.found[0];
    assert_eq!((finding.count, finding.limit_count), (250, Some(250)));
    assert_eq!(finding.lasted_ms, 249 * 9200);
    assert_eq!(finding.limit_ms, 2 * MINUTE);
    assert_eq!(finding.task, Some(id("t")));
    assert_eq!(finding.attempt, Some(AttemptNo(1)));
    let shown = finding.call.as_deref().unwrap();
    assert!(shown.starts_with("call ") && shown.len() == "call ".len() + 16);
    assert!(
        finding.detail.contains("250 times in 38 min"),
        "{finding:?}"
    );
}

#[test]
fn waiting_for_its_turn_in_between_hides_no_loop_and_is_none() {
    let mut story = Story::at_work(Limits::default());
    for n in 0..300 {
        let now = n * 9200;
        let turn = format!("claim {n}");
        let wait = Call {
            moves: false,
            waits: true,
            ..call(&turn, &turn, None)
        };
        story.calls(now, wait);
        story.answered(now + 50, &turn);
        story.calls(now + 50, call("c", "the same", None));
        story.answered(now + 100, "c");
    }
    story.found(&[(Repetition, Cancel)]);
    let mut story = Story::at_work(Limits::default());
    for n in 0..300 {
        let wait = Call {
            moves: false,
            waits: true,
            ..call("c", "the turn", None)
        };
        story.calls(n * 9200, wait);
        story.answered(n * 9200 + 100, "c");
    }
    story.found(&[]);
}

#[test]
fn a_loop_over_a_few_calls_is_a_loop_and_progress_ends_it() {
    let rounds = |story: &mut Story, from: u64, count: u64| {
        for n in 0..count {
            let now = from + n * 1000;
            for name in ["a", "b", "c"] {
                story.calls(now, call(name, name, None));
                story.answered(now, name);
            }
        }
    };
    let mut story = Story::at_work(Limits::default());
    rounds(&mut story, 0, 249);
    story.progress(249_000, 0.5);
    rounds(&mut story, 249_000, 249);
    story.found(&[]);
    story.progress(498_000, 0.4); // Less than before is no progress.
    rounds(&mut story, 498_000, 2);
    story.found(&[(Repetition, Cancel)]);
}

#[test]
fn one_that_heartbeats_and_does_not_move_stalls() {
    let limits = Limits {
        stall: secs(60),
        on_stall: Cancel,
        ..Limits::default()
    };
    let mut story = Story::at_work(limits);
    story.progress(0, 0.5);
    for n in 1..100 {
        story.progress(n * 5000, 0.5);
    }
    story.found(&[(Stall, Cancel)]);
    assert_eq!(
        story.found[0].lasted_ms, 60_000,
        "at its first word after it"
    );
    assert_eq!(story.found[0].count, 12);
}

#[test]
fn a_call_beyond_its_bound_is_found_and_excuses_nothing_any_more() {
    let limits = Limits {
        on_overrun: Alert,
        ..silence(1000)
    };
    let mut story = Story::at_work(limits);
    story.calls(0, call("c", "x", Some(5000)));
    story.at(5000, Input::Due);
    story.found(&[(Overrun, Alert)]);
    story.at(6001, Input::Due);
    story.found(&[(Overrun, Alert), (Silence, End)]);
}

#[test]
fn saying_it_again_prolongs_a_call_but_not_for_ever() {
    let limits = Limits {
        call_max: secs(60),
        ..Limits::default()
    };
    let mut story = Story::at_work(limits);
    for n in 0..59 {
        story.calls(n * 1000, call("c", "x", Some(2000)));
    }
    story.found(&[]);
    for n in 59..120 {
        story.calls(n * 1000, call("c", "x", Some(2000)));
    }
    story.found(&[(Overrun, Cancel)]);
    assert_eq!(story.found[0].limit_ms, 60_000);
}

#[test]
fn a_declared_heartbeat_counts_while_nothing_is_in_hand_or_in_flight() {
    let mut story = Story::beating(Limits::default(), Some(15_000));
    story.line(10_000);
    let thinks = call("c", "think", Some(MINUTE));
    story.at(
        11_000,
        Input::Called {
            task: None,
            call: thinks,
        },
    );
    story.at(70_000, Input::Due);
    story.found(&[]);
    let id = "c".to_owned();
    story.at(70_000, Input::Answered { task: None, id });
    story.at(84_999, Input::Due);
    story.found(&[]);
    story.at(85_000, Input::Due);
    story.found(&[(Heartbeat, End)]);
    assert_eq!(story.watch.due(), None, "that was all");
}

#[test]
fn nobody_is_expected_to_speak_before_it_serves() {
    let ttl = Some(Duration::from_secs(1));
    let watch = Watch::new(silence(1000), ttl, Timestamp::ZERO);
    assert_eq!(watch.due(), None);
}

#[test]
fn a_health_check_that_hangs_ends_the_instance_once() {
    let mut story = Story::new(Limits::default());
    story.at(15_000, Input::Unanswered { limit: secs(15) });
    story.at(30_000, Input::Unanswered { limit: secs(15) });
    story.found(&[(HealthCheck, End)]);
}

#[test]
fn without_a_task_there_is_nothing_to_give_up_but_the_instance() {
    let mut story = Story::new(Limits::default());
    let call = call("c", "x", Some(1000));
    story.at(0, Input::Called { task: None, call });
    story.at(1001, Input::Due);
    story.found(&[(Overrun, End)]);
}

#[test]
fn what_is_switched_off_is_not_looked_for() {
    let limits = Limits {
        on_silence: Off,
        on_stall: Off,
        on_repetition: Off,
        on_overrun: Off,
        stall: secs(1),
        repetition: 2,
        repetition_over: Duration::ZERO,
        ..silence(1000)
    };
    let mut story = Story::at_work(limits);
    for n in 0..1000 {
        story.calls(n * 5000, call(&format!("c{n}"), "same", Some(10)));
    }
    story.found(&[]);
}

#[test]
fn a_new_attempt_begins_with_nothing_found() {
    let mut story = Story::at_work(silence(1000));
    let limits = Limits {
        on_silence: Cancel,
        ..silence(1000)
    };
    story.watch = Watch::new(limits, None, Timestamp::ZERO);
    for attempt in 1..=3 {
        story.begin("t", attempt);
        story.at(story.now + 5000, Input::Due);
        story.at(story.now, Input::Ended { task: id("t") });
    }
    story.found(&[(Silence, Cancel); 3]);
    let attempts: Vec<_> = story.found.iter().map(|f| f.attempt).collect();
    assert_eq!(attempts, [1, 2, 3].map(|n| Some(AttemptNo(n))));
}

#[test]
fn the_end_of_an_instance_is_the_last_that_is_found_of_it() {
    let mut story = Story::at_work(silence(1000));
    story.begin("u", 1);
    story.at(2000, Input::Due);
    story.line(9_000_000);
    story.found(&[(Silence, End)]);
}

#[test]
fn fingerprints_tell_kinds_and_contents_apart() {
    let all: BTreeSet<_> = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "c")]
        .map(|(kind, asked)| Fingerprint::of(kind, asked.as_bytes()))
        .into();
    assert_eq!(all.len(), 4);
}

#[test]
fn times_are_said_as_people_say_them() {
    for (ms, text) in [
        (5, "5 ms"),
        (15_000, "15 s"),
        (1500, "1.5 s"),
        (120_000, "2 min"),
        (131_000, "2 min 11 s"),
    ] {
        assert_eq!(spoken(Duration::from_millis(ms)), text);
    }
}

#[test]
fn what_is_kept_is_bounded_whatever_is_called() {
    let (mut watch, mut found) = (Story::at_work(Limits::default()).watch, Vec::new());
    let task = Some(id("t"));
    for n in 0..2 * CALLS_MAX {
        let (task, call) = (task.clone(), call(&n.to_string(), &n.to_string(), None));
        watch.step(Timestamp::ZERO, Input::Called { task, call }, &mut found);
    }
    let sizes = watch.attempts[&id("t")].sizes();
    assert_eq!(sizes, (CALLS_MAX, RECENT_MAX));
    assert!(!watch.takes_call(task.as_ref(), "one more"));
    assert!(watch.takes_call(task.as_ref(), "0"), "one that is known");
}

// ---- random histories ----

fn action() -> impl Strategy<Value = FindingAction> {
    prop::sample::select(vec![End, Cancel, Alert, Off])
}

prop_compose! {
    fn limits()(
        silence in prop::option::of(1_u64..5000), stall in 1_u64..5000,
        repetition in 2_u32..6, over in 0_u64..2000, max in 1_u64..5000,
        actions in [action(), action(), action(), action()],
    ) -> Limits {
        Limits {
            silence: silence.map(Duration::from_millis),
            on_silence: actions[0],
            stall: Duration::from_millis(stall),
            on_stall: actions[1],
            repetition,
            repetition_over: Duration::from_millis(over),
            on_repetition: actions[2],
            call_max: Duration::from_millis(max),
            on_overrun: actions[3],
        }
    }
}

fn input() -> impl Strategy<Value = Input> {
    let task = || prop::sample::select(vec![id("a"), id("b")]);
    let of = || prop::option::weighted(0.9, task());
    let named = prop::sample::select(vec!["1", "2", "3"]);
    prop_oneof![
        1 => (task(), 1_u32..9).prop_map(|(task, n)| Input::Begun { task, attempt: AttemptNo(n) }),
        1 => task().prop_map(|task| Input::Ended { task }),
        1 => (task(), 0.0..1.0).prop_map(|(task, fraction)| Input::Progress { task, fraction }),
        4 => (of(), named.clone(), 0_u8..12, prop::option::of(0_u64..9000)).prop_map(
            |(task, name, asked, bound)| Input::Called { task, call: call(name, &asked.to_string(), bound) }
        ),
        3 => (of(), named).prop_map(|(task, id)| Input::Answered { task, id: id.to_owned() }),
        6 => Just(Input::Line),
        3 => Just(Input::Due),
    ]
}

fn task_of(input: &Input) -> Option<&TaskId> {
    match input {
        Input::Begun { task, .. } | Input::Ended { task } | Input::Progress { task, .. } => {
            Some(task)
        }
        Input::Called { task, .. } | Input::Answered { task, .. } => task.as_ref(),
        Input::Ready | Input::Line | Input::Unanswered { .. } | Input::Due => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_found_twice_or_late_or_without_its_limit(
        limits in limits(), ttl in prop::option::of(1_u64..5000),
        history in prop::collection::vec((0_u64..1500, input()), 1..200),
    ) {
        let ttl = ttl.map(Duration::from_millis);
        let mut watch = Watch::new(limits, ttl, Timestamp::ZERO);
        let (mut now, mut ended) = (0, false);
        // What was found of the attempt in hand of each task, and whether it is being given up.
        let mut told: BTreeMap<Option<TaskId>, (BTreeSet<FindingKind>, bool)> = BTreeMap::new();
        watch.step(Timestamp::ZERO, Input::Ready, &mut Vec::new());
        for (passed, input) in history {
            now += passed;
            if let Input::Begun { task, .. } = &input {
                told.remove(&Some(task.clone()));
            }
            let mut found = Vec::new();
            watch.step(Timestamp::from_millis(now), input, &mut found);
            for finding in found {
                prop_assert!(!ended, "found after the end: {finding:?}");
                let (kinds, given_up) = told.entry(finding.task.clone()).or_default();
                prop_assert!(!*given_up, "found in what is given up: {finding:?}");
                prop_assert!(kinds.insert(finding.finding), "found twice: {finding:?}");
                *given_up = finding.action == Cancel;
                ended = finding.action == End;
                let bound = limits.action(finding.finding);
                let idle = finding.task.is_none() && bound == Cancel && finding.action == End;
                prop_assert!(finding.action == bound || idle, "{finding:?}");
                prop_assert!(finding.action != Off);
                prop_assert!(finding.lasted_ms >= finding.limit_ms, "{finding:?}");
                prop_assert!(finding.limit_count.is_none_or(|limit| finding.count >= limit));
            }
            prop_assert!(watch.due().is_none_or(|due| due.as_millis() > now));
            prop_assert!(!ended || watch.due().is_none());
            for scope in watch.attempts.values().chain([&watch.idle]) {
                let (flying, recent) = scope.sizes();
                prop_assert!(flying <= CALLS_MAX && recent <= RECENT_MAX);
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_is_a_clock_that_stands_still(
        limits in limits(),
        history in prop::collection::vec((-2000_i64..2000, input()), 1..100),
    ) {
        let start = Timestamp::ZERO;
        let mut jumping = Watch::new(limits, Some(secs(1)), start);
        let mut standing = jumping.clone();
        let (mut now, mut latest) = (0_u64, 0_u64);
        for (by, input) in history {
            now = now.saturating_add_signed(by);
            latest = latest.max(now);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            jumping.step(Timestamp::from_millis(now), input.clone(), &mut a);
            standing.step(Timestamp::from_millis(latest), input, &mut b);
            prop_assert_eq!(a, b);
            prop_assert_eq!(jumping.due(), standing.due());
        }
    }

    #[test]
    fn at_one_moment_the_order_of_what_concerns_different_tasks_does_not_matter(
        limits in limits(),
        history in prop::collection::vec((0_u64..1500, input(), input()), 1..60),
    ) {
        let run = |swap: bool| {
            let mut watch = Watch::new(limits, None, Timestamp::ZERO);
            let (mut at, mut found) = (Timestamp::ZERO, Vec::new());
            for (passed, first, second) in &history {
                at = at.plus(Duration::from_millis(*passed));
                // What time alone shows comes first.
                watch.step(at, Input::Due, &mut found);
                let apart = match (task_of(first), task_of(second)) {
                    (Some(one), Some(other)) => one != other,
                    _ => false,
                };
                let (one, other) = if swap && apart { (second, first) } else { (first, second) };
                watch.step(at, one.clone(), &mut found);
                watch.step(at, other.clone(), &mut found);
            }
            // Which of two comes to light first at one moment is of no account, nor what an end leaves untold.
            let end = found.iter().any(|f| f.action == End);
            let mut shown: Vec<_> = found.into_iter().map(|f| format!("{f:?}")).collect();
            shown.sort();
            (!end).then_some(shown)
        };
        prop_assert_eq!(run(false), run(true));
    }

    /// Silent for as long as it likes, calls within their bounds, and a word of progress now and then.
    #[test]
    fn the_honest_and_slow_are_never_ended_or_cancelled(
        acts in prop::collection::vec((0_u8..3, 1_u64..50 * MINUTE), 1..100),
    ) {
        let mut story = Story::at_work(Limits::default());
        let mut now = 0;
        for (n, (act, time)) in acts.iter().enumerate() {
            match act {
                0 => now += time,
                1 => {
                    story.calls(now, call("c", "the same question", Some(*time)));
                    story.line(now + time / 2);
                    now += time - 1;
                    story.answered(now, "c");
                    story.line(now);
                }
                _ => {
                    #[expect(clippy::cast_precision_loss, reason = "a hundred steps")]
                    story.progress(now, (n + 1) as f64 / 101.0);
                }
            }
        }
        let bad: Vec<_> = story.found.iter().filter(|f| f.action != Alert).collect();
        prop_assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn time_for_which_it_stood_still_by_order_counts_for_nothing() {
    let mut story = Story::beating(Limits::default(), Some(15_000));
    story.line(1_000);
    // From two seconds on, for ten minutes.
    let thawed = 2_000 + 10 * MINUTE;
    let stood = Duration::from_millis(10 * MINUTE);
    story.watch.skip(Timestamp::from_millis(thawed), stood);
    story.now = thawed;
    story.at(thawed, Input::Due);
    assert_eq!(story.found, []);
    // What was left of its time then is left now.
    story.at(16_000 + 10 * MINUTE, Input::Due);
    assert_eq!(story.found.len(), 1);
}
