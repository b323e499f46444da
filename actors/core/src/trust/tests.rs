use std::time::Duration;

use mesh_messages::Severity;
use proptest::prelude::*;

use super::*;

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn needs(of: &[&str]) -> Vec<String> {
    of.iter().map(|n| (*n).to_owned()).collect()
}

fn level(millionths: u32) -> TrustLevel {
    TrustLevel::from_millionths(millionths)
}

/// One agent, seen doing things.
struct Scene {
    trust: Trust,
    now: Timestamp,
    log: Vec<TrustChange>,
}

impl Scene {
    fn new() -> Self {
        Self {
            trust: Trust::default(),
            now: AT,
            log: Vec::new(),
        }
    }

    fn note(&mut self, change: Option<TrustChange>) {
        if let Some(change) = change {
            self.trust.apply(&change);
            self.log.push(change);
        }
    }

    fn verified(&mut self, of: &[&str], by: TrustEvidence) {
        let (agent, needs, task) = (id("a"), needs(of), TaskId::new("t").unwrap());
        let deed = deed(&agent, &needs, &task);
        self.note(self.trust.verified(deed, by, self.now));
    }

    fn failed(&mut self, of: &[&str], class: FailureClass) {
        let (agent, needs, task) = (id("a"), needs(of), TaskId::new("t").unwrap());
        let deed = deed(&agent, &needs, &task);
        self.note(self.trust.failed(deed, class, self.now));
    }

    fn misdeed(&mut self, record: u64, severity: Severity) {
        let misdeed = Misdeed {
            record: Position(record),
            what: "forged its sender".to_owned(),
            severity,
        };
        self.note(self.trust.misdeed(&id("a"), None, &misdeed, self.now));
    }

    fn reset(&mut self, score: Option<u32>, capability: Option<&str>) {
        let reset = TrustReset {
            reason: "looked at it".to_owned(),
            score: score.map(level),
            capability: capability.map(str::to_owned),
        };
        let change = self
            .trust
            .reset((&id("a"), &[]), None, "user:ada", &reset, self.now);
        self.note(change);
    }

    fn level(&self, of: &[&str]) -> TrustLevel {
        self.trust.level(&id("a"), &needs(of), self.now)
    }
}

fn deed<'a>(agent: &'a AgentId, needs: &'a [String], task: &'a TaskId) -> Deed<'a> {
    Deed {
        agent,
        digest: Some("blake3:1"),
        needs,
        task,
        attempt: AttemptNo(1),
    }
}

#[test]
fn an_unknown_agent_meets_the_default_threshold_and_one_broken_contract_is_too_much() {
    let mut scene = Scene::new();
    assert_eq!(scene.level(&["x"]), START);
    assert!(START >= level(700_000));
    scene.failed(&["x"], FailureClass::Contract);
    assert_eq!(scene.level(&["x"]), level(562_500));
}

#[test]
fn it_takes_several_verified_results_to_make_good_for_one_broken_contract() {
    for (by, wanted) in [
        (TrustEvidence::Agent, 6),
        (TrustEvidence::Command, 12),
        (TrustEvidence::Schema, 24),
    ] {
        let mut scene = Scene::new();
        scene.failed(&["x"], FailureClass::Contract);
        let mut count = 0;
        while scene.level(&["x"]) < level(700_000) {
            scene.verified(&["x"], by);
            count += 1;
        }
        assert_eq!(count, wanted, "{by:?}");
    }
}

#[test]
fn scores_differ_by_capability_and_a_task_counts_for_all_that_it_needed() {
    let mut scene = Scene::new();
    scene.failed(&["x", "y"], FailureClass::Contract);
    scene.verified(&["z"], TrustEvidence::Agent);
    assert_eq!(scene.level(&["x"]), scene.level(&["y"]));
    assert!(scene.level(&["z"]) > START);
    assert_eq!(scene.level(&["z", "x"]), scene.level(&["x"]));
    assert_eq!(scene.level(&["never"]), START);
}

#[test]
fn a_misdeed_counts_once_and_bounds_every_capability() {
    let mut scene = Scene::new();
    scene.misdeed(7, Severity::High);
    let once = scene.trust.clone();
    scene.misdeed(7, Severity::High);
    scene.misdeed(6, Severity::High);
    assert_eq!(scene.trust, once);
    assert_eq!(scene.level(&["never seen"]), level(250_000));
    scene.misdeed(8, Severity::Critical);
    assert_eq!(scene.level(&["x"]), TrustLevel::NONE);
}

#[test]
fn what_tells_nothing_of_the_agent_changes_nothing() {
    for class in FailureClass::ALL {
        let mut scene = Scene::new();
        scene.failed(&["x"], class);
        let falls = matches!(
            class,
            FailureClass::Contract
                | FailureClass::Crash
                | FailureClass::Hang
                | FailureClass::Resource
                | FailureClass::Timeout
        );
        assert_eq!(scene.level(&["x"]) < START, falls, "{class}");
        assert_eq!(scene.log.is_empty(), !falls, "{class}");
    }
}

#[test]
fn half_of_the_way_is_gone_after_a_week_and_all_of_it_after_half_a_year() {
    let mut scene = Scene::new();
    scene.reset(Some(0), None);
    scene.reset(Some(0), Some("x"));
    scene.now = scene.now.plus(HALF_LIFE);
    let half = i64::from(scene.level(&["x"]).millionths());
    assert!((half - 375_000).abs() < 20, "{half}");
    scene.now = scene.now.plus(24 * HALF_LIFE);
    assert_eq!(scene.level(&["x"]), START);
}

#[test]
fn time_passes_in_whole_steps_and_loses_none_of_them() {
    let mut scene = Scene::new();
    scene.reset(Some(699_999), Some("x"));
    scene.now = scene.now.plus(Duration::from_millis(3_599_999));
    assert_eq!(scene.level(&["x"]), level(699_999));
    // Half a step before something else happens counts with the half step after it.
    let mut often = Scene::new();
    often.failed(&["x"], FailureClass::Contract);
    for _ in 0..4 {
        often.now = often.now.plus(HOUR / 2);
        often.verified(&["x"], TrustEvidence::Schema);
    }
    let since = often.log.last().unwrap().moves[0].since;
    assert_eq!(since, AT.plus(2 * HOUR));
}

#[test]
fn the_time_named_for_a_level_is_the_first_at_which_it_is_there() {
    let mut scene = Scene::new();
    let (agent, x) = (id("a"), needs(&["x"]));
    scene.failed(&["x"], FailureClass::Contract);
    scene.now = scene.now.plus(HOUR / 3);
    let least = level(700_000);
    let at = scene.trust.reaches(&agent, &x, least, scene.now).unwrap();
    let before = at.minus(Duration::from_millis(1));
    assert!(scene.trust.level(&agent, &x, before) < least);
    assert!(scene.trust.level(&agent, &x, at) >= least);
    // Time alone leads nobody above where unknown agents stand.
    assert_eq!(
        scene.trust.reaches(&agent, &x, level(750_001), scene.now),
        None
    );
    assert_eq!(
        scene.trust.reaches(&agent, &x, level(100), scene.now),
        Some(scene.now)
    );
}

#[test]
fn other_code_keeps_the_faults_of_the_former_and_not_its_merits() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.verified(&["good"], TrustEvidence::Agent);
    }
    scene.failed(&["bad"], FailureClass::Contract);
    assert_eq!(scene.trust.recoded(&id("a"), "blake3:1", scene.now), None);
    assert_eq!(scene.trust.recoded(&id("b"), "blake3:2", scene.now), None);
    scene.note(scene.trust.recoded(&id("a"), "blake3:2", scene.now));
    assert_eq!(scene.level(&["good"]), START);
    assert_eq!(scene.level(&["bad"]), level(562_500));
    assert_eq!(scene.trust.recoded(&id("a"), "blake3:2", scene.now), None);
}

#[test]
fn a_reset_sets_what_it_names_and_is_on_record() {
    let mut scene = Scene::new();
    scene.misdeed(1, Severity::Critical);
    scene.failed(&["x"], FailureClass::Contract);
    scene.reset(None, None);
    assert_eq!(scene.level(&["x"]), START);
    scene.reset(Some(700_000), Some("x"));
    assert_eq!(scene.level(&["x"]), level(700_000));
    assert_eq!(scene.level(&["y"]), START);
    scene.reset(Some(600_000), None);
    assert_eq!(scene.level(&["y"]), level(600_000));
    let shown = scene
        .trust
        .view(&id("a"), &[], level(700_000), scene.now, true);
    assert!(matches!(&shown.history[0].cause, TrustCause::Reset { by, .. } if by == "user:ada"));
}

#[test]
fn a_reset_that_changes_nothing_is_none_and_one_with_a_score_reaches_what_was_never_scored() {
    let (agent, declared) = (id("a"), needs(&["x", "y"]));
    let to = |score: Option<u32>| TrustReset {
        reason: "looked at it".to_owned(),
        score: score.map(level),
        capability: None,
    };
    let mut trust = Trust::default();
    let reset = |trust: &Trust, score| {
        let of = (&agent, &declared[..]);
        trust.reset(of, None, "user:ada", &to(score), AT)
    };
    assert_eq!(reset(&trust, None), None);
    let set = reset(&trust, Some(900_000)).unwrap();
    trust.apply(&set);
    assert_eq!(trust.level(&agent, &declared, AT), level(900_000));
    assert_eq!(reset(&trust, Some(900_000)), None);
    trust.apply(&reset(&trust, None).unwrap());
    assert_eq!(trust.level(&agent, &declared, AT), START);
}

#[test]
fn evidence_is_what_could_have_refused() {
    let report = |passed, task: Option<&str>| CheckReport {
        name: "c".to_owned(),
        passed,
        evidence: String::new(),
        task: task.map(|t| TaskId::new(t).unwrap()),
    };
    assert_eq!(evidence(&[], false), None);
    assert_eq!(evidence(&[], true), Some(TrustEvidence::Schema));
    assert_eq!(
        evidence(&[report(true, None)], true),
        Some(TrustEvidence::Command)
    );
    assert_eq!(
        evidence(&[report(true, None), report(true, Some("v"))], false),
        Some(TrustEvidence::Agent)
    );
    assert_eq!(evidence(&[report(false, Some("v"))], false), None);
}

#[derive(Debug, Clone)]
enum Step {
    Verified(TrustEvidence),
    Failed(FailureClass),
    Misdeed(u64, Severity),
    Pass(u64),
    Reset(Option<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(vec![
            TrustEvidence::Agent,
            TrustEvidence::Command,
            TrustEvidence::Schema
        ])
        .prop_map(Step::Verified),
        prop::sample::select(FailureClass::ALL.to_vec()).prop_map(Step::Failed),
        (0..40_u64, 0..4_usize).prop_map(|(at, how)| {
            let all = [
                Severity::Low,
                Severity::Medium,
                Severity::High,
                Severity::Critical,
            ];
            Step::Misdeed(at, all[how])
        }),
        (0..2000_u64).prop_map(|minutes| Step::Pass(minutes * 60_000)),
        prop::option::of(0..=1_000_000_u32).prop_map(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn nothing_bad_raises_nothing_good_lowers_and_a_replay_is_the_same(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let mut scene = Scene::new();
        for step in steps {
            let before = scene.level(&["x"]);
            match step {
                Step::Verified(by) => {
                    scene.verified(&["x"], by);
                    prop_assert!(scene.level(&["x"]) >= before);
                }
                Step::Failed(class) => {
                    scene.failed(&["x"], class);
                    prop_assert!(scene.level(&["x"]) <= before);
                }
                Step::Misdeed(record, severity) => {
                    scene.misdeed(record, severity);
                    prop_assert!(scene.level(&["x"]) <= before);
                }
                Step::Pass(ms) => {
                    scene.now = scene.now.plus(Duration::from_millis(ms));
                    // Never away from where an unknown agent stands, and from above never past it.
                    let after = scene.level(&["x"]);
                    prop_assert!(after >= before.min(START));
                }
                Step::Reset(score) => scene.reset(score, None),
            }
            prop_assert!(scene.level(&["x"]) <= TrustLevel::FULL);
        }
        let mut replayed = Trust::default();
        for change in &scene.log {
            let text = serde_json::to_string(change).unwrap();
            replayed.apply(&serde_json::from_str(&text).unwrap());
        }
        prop_assert_eq!(&replayed, &scene.trust);
        let stored = serde_json::to_string(&scene.trust).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Trust>(&stored).unwrap(), &scene.trust);
        for agent in scene.trust.agents() {
            let shown = scene.trust.view(agent, &[], START, scene.now, true);
            prop_assert!(shown.history.len() <= HISTORY_MAX);
        }
    }
}
