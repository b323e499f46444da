//! The ledger notices every history that must not be: each test writes one down by hand.

use mesh_messages::claim::{ClaimMode, TaskClaim};
use mesh_messages::task::{RetrySpec, TaskAssignment};
use mesh_messages::{Failure, Timestamp};

use super::*;
use crate::Breach;

const AT: Timestamp = Timestamp::from_millis(1000);

fn id(name: &str) -> TaskId {
    TaskId::new(name).unwrap()
}

fn holder(epoch: u64) -> Holder {
    (AgentId::new("a").unwrap(), InstanceNo(0), Epoch(epoch))
}

fn submitted() -> TaskEvent {
    TaskEvent::Submitted {
        spec: Box::default(),
        by: "user:test".to_owned(),
        at: AT,
        deadline_at: AT,
        retry: RetrySpec {
            max_attempts: Some(2),
            ..RetrySpec::default()
        },
        depth: 0,
        digest: String::new(),
        ruling: None,
        envelope: None,
    }
}

fn assigned(task: &TaskId, attempt: u32) -> TaskEvent {
    let (agent_id, instance, epoch) = holder(1);
    TaskEvent::Assigned {
        assignment: TaskAssignment {
            task_id: task.clone(),
            agent_id,
            instance,
            epoch,
            attempt: AttemptNo(attempt),
            confidence: 1.0,
            reasoning: Vec::new(),
            estimated_duration: None,
            risk_factors: Vec::new(),
            assigned_at: AT,
            expected_completion: None,
        },
        candidates: Vec::new(),
        limit_ms: None,
    }
}

fn started(attempt: u32) -> TaskEvent {
    TaskEvent::Started {
        attempt: AttemptNo(attempt),
        at: AT,
    }
}

fn succeeded(attempt: u32) -> TaskEvent {
    TaskEvent::Succeeded {
        attempt: AttemptNo(attempt),
        at: AT,
        output: serde_json::Value::Null,
    }
}

fn failed(attempt: u32, class: FailureClass, then: AfterFailure) -> TaskEvent {
    TaskEvent::AttemptFailed {
        attempt: AttemptNo(attempt),
        at: AT,
        failure: Failure::new(class, "test"),
        ended_instance: false,
        alone: false,
        then,
    }
}

/// Folds a history of one task.
fn fold(events: impl IntoIterator<Item = TaskEvent>) -> (Book, Verdict) {
    let (mut book, mut edges) = (Book::default(), Edges::default());
    for event in events {
        let verdict = book.fold(&id("t"), &event, &mut edges);
        if verdict.is_err() {
            return (book, verdict);
        }
    }
    (book, Ok(()))
}

#[track_caller]
fn breaks(events: impl IntoIterator<Item = TaskEvent>, promise: &str) {
    let (_, verdict) = fold(events);
    let breach: Breach = verdict.unwrap_err();
    assert_eq!(breach.promise, promise, "{breach}");
}

#[test]
fn a_history_that_may_be_keeps_every_promise() {
    let t = id("t");
    let again = AfterFailure::Retry { at: AT };
    let queued = TaskEvent::Waiting {
        state: TaskState::Queued,
        waiting_for: None,
    };
    let (book, verdict) = fold([
        submitted(),
        assigned(&t, 1),
        started(1),
        failed(1, FailureClass::Crash, again),
        queued,
        assigned(&t, 2),
        started(2),
        succeeded(2),
    ]);
    assert_eq!(verdict, Ok(()));
    assert_eq!(book.lines[&t].state, TaskState::Succeeded);
}

#[test]
fn a_second_outcome_is_noticed() {
    let t = id("t");
    let cancelled = TaskEvent::Cancelled {
        at: AT,
        reason: String::new(),
    };
    breaks(
        [submitted(), assigned(&t, 1), succeeded(1), succeeded(1)],
        ONCE,
    );
    breaks([submitted(), cancelled.clone(), cancelled], ONCE);
    breaks([submitted(), submitted()], ONCE);
}

#[test]
fn a_result_of_an_attempt_that_is_not_under_way_is_noticed() {
    let t = id("t");
    breaks([submitted(), assigned(&t, 1), succeeded(2)], FENCE);
    breaks([submitted(), succeeded(0)], FENCE);
    breaks([submitted(), assigned(&t, 2)], FENCE);
    let again = AfterFailure::Retry { at: AT };
    let failure = failed(1, FailureClass::Crash, again);
    breaks([submitted(), assigned(&t, 1), failure, succeeded(1)], FENCE);
}

#[test]
fn a_failure_that_leads_elsewhere_than_its_class_says_is_noticed() {
    let t = id("t");
    let once = |class, then| [submitted(), assigned(&t, 1), failed(1, class, then)];
    breaks(once(FailureClass::Crash, AfterFailure::Fail), RETRIES);
    let again = || AfterFailure::Retry { at: AT };
    breaks(once(FailureClass::Refusal, again()), RETRIES);
    breaks(once(FailureClass::Quota, again()), RETRIES);
    // Two attempts are all that it has.
    let queued = TaskEvent::Waiting {
        state: TaskState::Queued,
        waiting_for: None,
    };
    let mut events = once(FailureClass::Crash, again()).to_vec();
    events.extend([
        queued,
        assigned(&t, 2),
        failed(2, FailureClass::Crash, again()),
    ]);
    breaks(events, RETRIES);
}

#[test]
fn more_work_at_once_than_is_allowed_is_noticed() {
    let (mut book, mut edges) = (Book::default(), Edges::default());
    for name in ["t1", "t2"] {
        let t = id(name);
        book.fold(&t, &submitted(), &mut edges).unwrap();
        book.fold(&t, &assigned(&t, 1), &mut edges).unwrap();
    }
    assert_eq!(book.check_slots(&holder(1), 2, 2), Ok(()));
    let breach = book.check_slots(&holder(1), 1, 2).unwrap_err();
    assert_eq!(breach.promise, SLOTS);
    let breach = book.check_slots(&holder(1), 2, 1).unwrap_err();
    assert_eq!(breach.promise, SLOTS);
}

#[test]
fn a_promise_ahead_of_the_disk_and_a_task_that_is_gone_are_noticed() {
    let t = id("t");
    let mut ledger = Ledger::default();
    assert_eq!(ledger.acknowledge(&t).unwrap_err().promise, LOST);
    let mut edges = Edges::default();
    ledger.durable.fold(&t, &submitted(), &mut edges).unwrap();
    ledger.acknowledge(&t).unwrap();
    assert_eq!(ledger.reloaded(|_| Some(TaskState::Queued)), Ok(()));
    assert_eq!(ledger.reloaded(|_| None).unwrap_err().promise, LOST);
    assert_eq!(ledger.at_the_end().unwrap_err().promise, LOST);
}

#[test]
fn another_outcome_than_the_one_that_was_told_is_noticed() {
    let t = id("t");
    let (durable, verdict) = fold([submitted(), assigned(&t, 1), succeeded(1)]);
    verdict.unwrap();
    let mut ledger = Ledger {
        durable,
        ..Ledger::default()
    };
    ledger.outcome(&t).unwrap();
    ledger.durable.lines.get_mut(&t).unwrap().state = TaskState::Failed;
    assert_eq!(ledger.outcome(&t).unwrap_err().promise, ONCE);
}

#[test]
fn a_resource_that_two_have_and_an_attempt_without_its_own_are_noticed() {
    let granted = |token| TaskEvent::Claim {
        attempt: AttemptNo(1),
        at: AT,
        resource: "r".to_owned(),
        step: ClaimStep::Granted {
            token,
            until: AT,
            mode: ClaimMode::Exclusive,
        },
    };
    let (mut book, mut edges) = (Book::default(), Edges::default());
    for (name, token) in [("t1", 5), ("t2", 6)] {
        let t = id(name);
        book.fold(&t, &submitted(), &mut edges).unwrap();
        book.fold(&t, &assigned(&t, 1), &mut edges).unwrap();
        let verdict = book.fold(&t, &granted(token), &mut edges);
        assert_eq!(verdict.is_ok(), name == "t1", "one has it already");
    }
    // Given back with its attempt; but tokens never fall.
    let mut book = Book::default();
    for (name, token) in [("t1", 5), ("t2", 5)] {
        let t = id(name);
        book.fold(&t, &submitted(), &mut edges).unwrap();
        book.fold(&t, &assigned(&t, 1), &mut edges).unwrap();
        let verdict = book.fold(&t, &granted(token), &mut edges);
        assert_eq!(verdict.is_ok(), name == "t1", "{verdict:?}");
        book.fold(&t, &succeeded(1), &mut edges).unwrap();
    }
    let t = id("t3");
    let mut claims = submitted();
    if let TaskEvent::Submitted { spec, .. } = &mut claims {
        spec.claims = vec![TaskClaim {
            resource: "r".to_owned(),
            mode: ClaimMode::Exclusive,
            token: None,
        }];
    }
    book.fold(&t, &claims, &mut edges).unwrap();
    book.fold(&t, &assigned(&t, 1), &mut edges).unwrap();
    let breach = book.fold(&t, &started(1), &mut edges).unwrap_err();
    assert_eq!(breach.promise, CLAIMS);
}
