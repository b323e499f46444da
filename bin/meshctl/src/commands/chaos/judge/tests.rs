//! Each promise is shown evidence that keeps it and evidence that breaks it: a check that cannot fail would be none.

use std::time::Duration;

use mesh_messages::agent::{
    FaultState, FaultView, QuarantineKind, QuarantineReason, QuarantineRecord,
};
use mesh_messages::chaos::{ChaosAction, ChaosAnswer, ChaosBlow, ChaosOrder, ChaosTarget};
use mesh_messages::events::{AfterFailure, AgentEvent, TaskEvent};
use mesh_messages::task::{TaskAssignment, TaskState};
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, Position, Severity, TaskId,
    Timestamp,
};
use serde_json::Value;

use super::super::evidence::{
    Answers, Before, Dealt, Evidence, Fact, Log, Outcome, Policy, Processes, Watched, What,
};
use super::{Verdict, judge};

const ADMIN: &str = "user:admin";
const ALL: [&str; 9] = [
    "tasks-end-once",
    "results-are-fenced",
    "epochs-rise",
    "starts-within-policy",
    "quarantine-is-complete",
    "blows-are-audited",
    "nothing-survives",
    "log-verifies",
    "mesh-answers",
];

fn a() -> AgentId {
    AgentId::new("a").unwrap()
}
fn task() -> TaskId {
    TaskId::new("t1").unwrap()
}
fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + ms)
}

fn view(state: FaultState, due: Option<u64>) -> AgentEvent {
    AgentEvent::FaultChanged {
        view: FaultView {
            state,
            score: 1,
            crashes_in_window: 1,
            next_attempt_at: due.map(at),
            reason: None,
            quarantine: None,
        },
        record: Value::Null,
        decision: None,
    }
}

fn activated(epoch: u64) -> AgentEvent {
    AgentEvent::Activated {
        instance: InstanceNo(0),
        epoch: Epoch(epoch),
        version: "1.0.0".into(),
        sandbox: None,
    }
}

fn failed(epoch: u64) -> AgentEvent {
    AgentEvent::InstanceFailed {
        instance: InstanceNo(0),
        epoch: Epoch(epoch),
        failure: Failure::new(FailureClass::Crash, "ended by signal 9"),
    }
}

fn quarantined() -> AgentEvent {
    AgentEvent::Quarantined {
        record: QuarantineRecord {
            agent_id: a(),
            quarantined_at: at(0),
            reason: QuarantineReason {
                kind: QuarantineKind::Crash,
                description: String::new(),
                timestamp: at(0),
                severity: Severity::Medium,
            },
            retry_count: 0,
            max_retries: 3,
            manifest_digest: String::new(),
        },
    }
}

fn assigned(attempt: u32, epoch: u64) -> TaskEvent {
    TaskEvent::Assigned {
        assignment: TaskAssignment {
            task_id: task(),
            agent_id: a(),
            instance: InstanceNo(0),
            epoch: Epoch(epoch),
            attempt: AttemptNo(attempt),
            confidence: 0.5,
            reasoning: Vec::new(),
            estimated_duration: None,
            risk_factors: Vec::new(),
            assigned_at: at(0),
            expected_completion: None,
        },
        candidates: Vec::new(),
        limit_ms: None,
    }
}

fn begun(attempt: u32) -> TaskEvent {
    TaskEvent::Started {
        attempt: AttemptNo(attempt),
        at: at(0),
    }
}

fn lost(attempt: u32, then: AfterFailure) -> TaskEvent {
    TaskEvent::AttemptFailed {
        attempt: AttemptNo(attempt),
        at: at(0),
        failure: Failure::new(FailureClass::Crash, "ended by signal 9"),
        ended_instance: true,
        alone: true,
        then,
    }
}

fn succeeded(attempt: u32) -> TaskEvent {
    TaskEvent::Succeeded {
        attempt: AttemptNo(attempt),
        at: at(0),
        output: Value::Null,
    }
}

fn blow() -> ChaosBlow {
    ChaosBlow {
        id: "blow-1".into(),
        action: ChaosAction::Kill,
        target: ChaosTarget {
            agent: Some(a()),
            instance: Some(InstanceNo(0)),
            epoch: Some(Epoch(1)),
            pid: Some(7),
            part: None,
            actor: None,
        },
        duration_ms: None,
        lines: None,
        bytes: None,
        at: at(0),
    }
}

/// A story in the making: every event 100 ms after the one before.
struct Told(Evidence);

impl Told {
    fn push(&mut self, agent: Option<AgentId>, task: Option<TaskId>, what: What, actor: &str) {
        let n = self.0.facts.len() as u64;
        self.0.facts.push(Fact {
            position: Position(100 + n),
            time: at(n * 100),
            agent,
            task,
            actor: actor.to_owned(),
            what,
        });
    }
    fn life(mut self, event: AgentEvent) -> Self {
        self.push(Some(a()), None, What::Agent(Box::new(event)), "meshd");
        self
    }
    fn work(mut self, event: TaskEvent) -> Self {
        self.push(None, Some(task()), What::Task(Box::new(event)), "meshd");
        self
    }
    fn struck(mut self, blow: ChaosBlow) -> Self {
        let what = What::Struck {
            user: ADMIN.into(),
            blow: Box::new(blow),
        };
        self.push(Some(a()), None, what, ADMIN);
        self
    }
}

/// Nothing has happened yet.
fn nothing() -> Told {
    Told(Evidence {
        scope: [a()].into(),
        parts: ["bus".to_owned()].into(),
        ended: at(60_000),
        dealt: Vec::new(),
        facts: Vec::new(),
        agents: [(
            a(),
            Before {
                state: FaultState::Running,
                due: None,
                policy: Policy {
                    max_crashes: 3,
                    window: Duration::from_mins(1),
                    per_hour: 12,
                },
                failures: Vec::new(),
            },
        )]
        .into(),
        tasks: [(
            task(),
            Watched {
                state: Some(TaskState::Succeeded),
                deadline: at(50_000),
            },
        )]
        .into(),
        processes: Processes::Looked {
            ended: 1,
            left: Vec::new(),
        },
        log: Log::Verified {
            records: 9,
            root: "r".into(),
            witnessed: Some(3),
        },
        answers: Answers {
            after: Some(Ok(())),
            ..Answers::default()
        },
        unsettled: Vec::new(),
    })
}

/// One kill, survived as it should be: a retry, a restart, a quarantine that declines what crosses with it, a recovery.
fn healthy() -> Evidence {
    let mut told = nothing()
        .work(assigned(1, 1))
        .work(begun(1))
        .struck(blow())
        .life(view(FaultState::Backoff, Some(500)))
        .life(failed(1))
        .work(lost(1, AfterFailure::Retry { at: at(600) }))
        .life(view(FaultState::Running, None))
        .life(activated(2))
        .work(assigned(2, 2))
        .work(begun(2))
        .life(view(FaultState::Quarantined, Some(1400)))
        .life(quarantined())
        .work(lost(2, AfterFailure::Retry { at: at(1200) }))
        .work(assigned(3, 2))
        .work(lost(3, AfterFailure::Retry { at: at(1400) }))
        .life(view(FaultState::Recovering, None))
        .life(activated(3))
        .work(assigned(4, 3))
        .work(begun(4))
        .work(succeeded(4))
        .0;
    told.dealt.push(Dealt {
        at_ms: 200,
        order: ChaosOrder::at_agent(ChaosAction::Kill, a(), None),
        outcome: Outcome::Struck(Box::new(ChaosAnswer {
            blow: blow(),
            effect: "SIGKILL".into(),
        })),
    });
    told
}

/// Exactly these promises are broken.
#[track_caller]
fn breaks(evidence: &Evidence, expected: &[&str]) {
    let findings = judge(evidence);
    let names: Vec<_> = findings.iter().map(|finding| finding.invariant).collect();
    assert_eq!(names, ALL);
    let broken = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Broken);
    let broken: Vec<_> = broken.map(|finding| finding.invariant).collect();
    assert_eq!(broken, expected, "{findings:#?}");
    let bare = findings
        .iter()
        .find(|f| f.verdict == Verdict::Broken && f.ids.is_empty());
    assert_eq!(bare, None, "what is broken names what broke it");
}

#[track_caller]
fn verdict(evidence: &Evidence, invariant: &str) -> Verdict {
    let findings = judge(evidence);
    findings
        .iter()
        .find(|finding| finding.invariant == invariant)
        .unwrap()
        .verdict
}

/// The healthy story with one event put in after that many.
fn with(after: usize, event: What, agent: Option<AgentId>, task: Option<TaskId>) -> Evidence {
    let mut evidence = healthy();
    let (before, time) = (
        evidence.facts[after - 1].position,
        evidence.facts[after - 1].time,
    );
    // Later records move up.
    for fact in &mut evidence.facts[after..] {
        fact.position = fact.position.next();
    }
    let actor = "meshd".to_owned();
    let fact = Fact {
        position: before.next(),
        time,
        agent,
        task,
        actor,
        what: event,
    };
    evidence.facts.insert(after, fact);
    evidence
}

fn with_life(after: usize, event: AgentEvent) -> Evidence {
    with(after, What::Agent(Box::new(event)), Some(a()), None)
}

fn with_work(after: usize, event: TaskEvent) -> Evidence {
    with(after, What::Task(Box::new(event)), None, Some(task()))
}

#[test]
fn a_kill_that_was_survived_as_promised_breaks_nothing_and_tests_everything() {
    let findings = judge(&healthy());
    for finding in &findings {
        assert_eq!(finding.verdict, Verdict::Held, "{finding:#?}");
    }
}

#[test]
fn where_nothing_happened_nothing_was_tested() {
    let mut evidence = nothing().0;
    evidence.tasks.clear();
    evidence.processes = Processes::NotHere("elsewhere".into());
    evidence.log = Log::NotRead("no answer".into());
    evidence.answers.after = None;
    for finding in judge(&evidence) {
        assert_eq!(finding.verdict, Verdict::NotTested, "{finding:#?}");
    }
}

#[test]
fn a_task_that_ends_twice_is_found() {
    breaks(
        &with_work(20, lost(4, AfterFailure::DeadLetter)),
        &["tasks-end-once"],
    );
    let cancelled = TaskEvent::Cancelled {
        at: at(0),
        reason: String::new(),
    };
    breaks(&with_work(20, cancelled), &["tasks-end-once"]);
}

#[test]
fn a_task_that_is_lost_or_forgotten_or_late_is_found() {
    let state = |state, deadline| {
        let mut evidence = healthy();
        evidence.tasks.insert(
            task(),
            Watched {
                state,
                deadline: at(deadline),
            },
        );
        evidence
    };
    breaks(&state(None, 50_000), &["tasks-end-once"]);
    // It shows as running although its end is on record.
    breaks(
        &state(Some(TaskState::Running), 50_000),
        &["tasks-end-once"],
    );
    // It shows an end that nobody recorded.
    let mut unrecorded = healthy();
    unrecorded.facts.pop();
    breaks(&unrecorded, &["tasks-end-once"]);
    // It has not ended: after its deadline that breaks the promise, before it nobody can tell.
    let open = |deadline| {
        let mut evidence = state(Some(TaskState::Running), deadline);
        evidence.facts.pop();
        evidence
    };
    breaks(&open(29_000), &["tasks-end-once"]);
    breaks(&open(31_000), &[]);
    assert_eq!(verdict(&open(31_000), "tasks-end-once"), Verdict::Undecided);
}

#[test]
fn another_round_may_end_once_more() {
    let retried = TaskEvent::Retried {
        at: at(0),
        deadline_at: at(0),
        record: None,
    };
    let mut evidence = with_work(20, retried);
    let next = Position(evidence.facts.len() as u64 + 200);
    for (n, event) in [assigned(5, 3), begun(5), succeeded(5)]
        .into_iter()
        .enumerate()
    {
        evidence.facts.push(Fact {
            position: Position(next.0 + n as u64),
            time: at(5_000),
            agent: None,
            task: Some(task()),
            actor: "meshd".into(),
            what: What::Task(Box::new(event)),
        });
    }
    breaks(&evidence, &[]);
}

#[test]
fn a_result_of_an_attempt_that_had_failed_or_was_not_the_last_is_found() {
    let mut evidence = healthy();
    evidence.facts.pop();
    let mut told = Told(evidence);
    told = told.work(succeeded(1));
    breaks(&told.0, &["results-are-fenced"]);
}

#[test]
fn a_result_of_an_incarnation_that_had_been_replaced_is_found() {
    // The fourth attempt's incarnation is replaced before its result comes.
    let evidence = with_life(19, activated(4));
    breaks(&evidence, &["results-are-fenced"]);
}

#[test]
fn an_incarnation_number_that_is_given_out_twice_is_found() {
    breaks(&with_life(20, activated(3)), &["epochs-rise"]);
    breaks(&with_life(20, activated(1)), &["epochs-rise"]);
}

#[test]
fn a_start_before_its_time_is_found() {
    let mut evidence = healthy();
    // The wait was to last until 900; the start is at 700.
    evidence.facts[3].what = What::Agent(Box::new(view(FaultState::Backoff, Some(900))));
    breaks(&evidence, &["starts-within-policy"]);
    // A person may start it earlier.
    evidence.facts[6].actor = ADMIN.into();
    breaks(&evidence, &[]);
}

#[test]
fn a_start_past_the_policy_is_found() {
    for state in [
        FaultState::Backoff,
        FaultState::Open,
        FaultState::Stopped,
        FaultState::Terminated,
    ] {
        let mut evidence = healthy();
        evidence.facts[6].what = What::Agent(Box::new(view(state, None)));
        breaks(&evidence, &["starts-within-policy"]);
    }
}

#[test]
fn one_failure_too_many_in_the_window_is_found() {
    let failures = |times: &[u64]| {
        let mut evidence = healthy();
        let before = evidence.agents.get_mut(&a()).unwrap();
        before.failures = times
            .iter()
            .map(|ms| Timestamp::from_millis(10_000_000 - ms))
            .collect();
        evidence
    };
    // With its own, three in the window: the last that is answered by a restart.
    breaks(&failures(&[1_000, 2_000]), &[]);
    breaks(&failures(&[1_000, 2_000, 3_000]), &["starts-within-policy"]);
    // One that the window has forgotten does not count.
    breaks(&failures(&[1_000, 2_000, 61_000]), &[]);
}

#[test]
fn one_failure_too_many_in_the_hour_is_found() {
    let failures = |count: u64| {
        let mut evidence = healthy();
        let before = evidence.agents.get_mut(&a()).unwrap();
        before.failures = (0..count)
            .map(|n| Timestamp::from_millis(10_000_000 - 120_000 - n))
            .collect();
        evidence
    };
    breaks(&failures(11), &[]);
    breaks(&failures(12), &["starts-within-policy"]);
}

#[test]
fn failures_that_were_a_tasks_fault_do_not_count() {
    let mut evidence = healthy();
    let before = evidence.agents.get_mut(&a()).unwrap();
    before.failures = [1, 2, 3]
        .map(|s| Timestamp::from_millis(10_000_000 - s * 1000))
        .into();
    breaks(&evidence, &["starts-within-policy"]);
    // The same task turns out to be poison.
    evidence.facts.truncate(18);
    let mut told = Told(evidence).work(lost(4, AfterFailure::DeadLetter));
    told.0.tasks.insert(
        task(),
        Watched {
            state: Some(TaskState::DeadLettered),
            deadline: at(50_000),
        },
    );
    breaks(&told.0, &[]);
}

#[test]
fn a_quarantined_agent_that_is_started_is_found() {
    let evidence = with_life(13, activated(3));
    assert_eq!(
        verdict(&evidence, "quarantine-is-complete"),
        Verdict::Broken
    );
    // It also is a start past the policy, and its number is given out again later.
    breaks(
        &evidence,
        &[
            "epochs-rise",
            "starts-within-policy",
            "quarantine-is-complete",
        ],
    );
}

#[test]
fn a_quarantined_agent_that_begins_a_task_is_found() {
    breaks(&with_work(14, begun(3)), &["quarantine-is-complete"]);
    // Also one that was quarantined before the first blow.
    let mut evidence = nothing()
        .work(assigned(1, 1))
        .work(begun(1))
        .work(succeeded(1))
        .0;
    breaks(&evidence, &[]);
    evidence.agents.get_mut(&a()).unwrap().state = FaultState::Quarantined;
    breaks(&evidence, &["quarantine-is-complete"]);
}

#[test]
fn a_blow_without_its_record_or_with_another_is_found() {
    let mut missing = healthy();
    missing.facts[2].what = What::Other;
    breaks(&missing, &["blows-are-audited"]);
    let mut other = healthy();
    other.facts[2].what = What::Struck {
        user: ADMIN.into(),
        blow: Box::new(ChaosBlow {
            action: ChaosAction::Pause,
            ..blow()
        }),
    };
    breaks(&other, &["blows-are-audited"]);
    let mut nameless = healthy();
    nameless.facts[2].actor = "meshd".into();
    breaks(&nameless, &["blows-are-audited"]);
}

#[test]
fn a_blow_outside_the_scope_is_found() {
    let mut evidence = healthy();
    evidence.scope = [AgentId::new("b").unwrap()].into();
    breaks(&evidence, &["blows-are-audited"]);
    let mut part = healthy();
    let at_part = ChaosBlow {
        target: ChaosTarget {
            part: Some("journal".into()),
            ..blow().target
        },
        ..blow()
    };
    let answer = ChaosAnswer {
        blow: at_part.clone(),
        effect: String::new(),
    };
    part.dealt[0].outcome = Outcome::Struck(Box::new(answer));
    part.facts[2].what = What::Struck {
        user: ADMIN.into(),
        blow: Box::new(at_part),
    };
    breaks(&part, &["blows-are-audited"]);
    part.parts.insert("journal".into());
    breaks(&part, &[]);
}

#[test]
fn a_process_that_outlives_its_incarnation_is_found() {
    let mut evidence = healthy();
    evidence.processes = Processes::Looked {
        ended: 1,
        left: vec!["process 7".into()],
    };
    breaks(&evidence, &["nothing-survives"]);
}

#[test]
fn a_log_that_does_not_verify_or_does_not_continue_is_found() {
    let mut evidence = healthy();
    evidence.log = Log::Wrong("record 17: its commitment does not match".into());
    breaks(&evidence, &["log-verifies"]);
    evidence.log = Log::Verified {
        records: 9,
        root: "r".into(),
        witnessed: None,
    };
    breaks(&evidence, &["log-verifies"]);
}

#[test]
fn a_mesh_that_takes_no_work_any_more_is_found() {
    let mut evidence = healthy();
    evidence.answers.after = Some(Err("cannot reach meshd".into()));
    breaks(&evidence, &["mesh-answers"]);
}
