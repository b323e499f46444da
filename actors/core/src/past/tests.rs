use mesh_messages::{AttemptNo, PartitionId, Position};
use serde_json::{Value, json};

use super::*;

fn header(position: u64, partition: PartitionId, task: Option<&TaskId>) -> RecordHeader {
    RecordHeader {
        v: 1,
        ns: "default".into(),
        log: String::new(),
        position: Position(position),
        partition,
        seq: position,
        time: Timestamp::from_millis(1_000 + position),
        lc: 0,
        kind: "test".into(),
        kv: KIND_VERSION,
        agent: None,
        task: task.cloned(),
        actor: "user:ada".into(),
        cause: None,
        correlation: None,
        payload: String::new(),
    }
}

fn submitted(input: &Value) -> Vec<u8> {
    let event = TaskEvent::Submitted {
        spec: Box::new(
            serde_json::from_value(json!({"requirements": ["x"], "input": input})).unwrap(),
        ),
        by: "user:ada".into(),
        at: Timestamp::from_millis(1),
        deadline_at: Timestamp::from_millis(9_000),
        retry: serde_json::from_value(json!({})).unwrap(),
        depth: 0,
        digest: "d".into(),
        ruling: None,
        envelope: None,
    };
    serde_json::to_vec(&event).unwrap()
}

#[test]
fn a_task_stands_as_its_records_up_to_there_say() {
    let id = TaskId::new("t1").unwrap();
    let other = TaskId::new("t2").unwrap();
    let mut past = TaskPast::new(id.clone());
    past.take(
        &header(0, partition::TASKS, Some(&other)),
        Some(&submitted(&json!(0))),
    )
    .unwrap();
    assert!(!past.is_known());
    past.take(
        &header(1, partition::TASKS, Some(&id)),
        Some(&submitted(&json!(1))),
    )
    .unwrap();
    // What other partitions say of it is not its state.
    past.take(&header(2, partition::BUS, Some(&id)), Some(b"no event"))
        .unwrap();
    let cancelled = TaskEvent::Cancelled {
        at: Timestamp::from_millis(5),
        reason: "r".into(),
    };
    let before = {
        let mut early = TaskPast::new(id.clone());
        early
            .take(
                &header(1, partition::TASKS, Some(&id)),
                Some(&submitted(&json!(1))),
            )
            .unwrap();
        early.task().0.unwrap()
    };
    assert_eq!(
        (before.state.name(), &before.spec.input),
        ("queued", &json!(1))
    );
    past.take(
        &header(3, partition::TASKS, Some(&id)),
        Some(&serde_json::to_vec(&cancelled).unwrap()),
    )
    .unwrap();
    let (task, gaps) = past.task();
    assert_eq!(
        (task.unwrap().state.name(), gaps),
        ("cancelled", Gaps::default())
    );
}

#[test]
fn what_is_erased_or_elsewhere_is_counted_and_what_is_unreadable_is_told() {
    let id = TaskId::new("t1").unwrap();
    let head = |position| header(position, partition::TASKS, Some(&id));
    let mut past = TaskPast::new(id.clone());
    past.take(&head(0), None).unwrap();
    let started = TaskEvent::Started {
        attempt: AttemptNo(1),
        at: Timestamp::from_millis(2),
    };
    past.take(&head(1), Some(&serde_json::to_vec(&started).unwrap()))
        .unwrap();
    past.take(&head(2), Some(br#"{"$content":"blake3:00","size":1}"#))
        .unwrap();
    let wrong = past.take(&head(3), Some(b"{}")).unwrap_err();
    assert_eq!(wrong.position, 3);
    assert!(past.is_known());
    assert_eq!(
        past.task(),
        (
            None,
            Gaps {
                erased: 1,
                elsewhere: 1
            }
        )
    );
}

#[test]
fn an_agent_stands_as_its_records_up_to_there_say() {
    let id = AgentId::new("echo").unwrap();
    let mut past = AgentPast::new(id.clone());
    let manifest = json!({"id": "echo", "version": "1.0.0", "capabilities": ["echo"], "entry": "builtin:echo"});
    let events = [
        json!({"created": {"name": "echo"}}),
        json!({"registered": {"manifest": manifest, "digest": "blake3:00"}}),
        json!({"activated": {"instance": 0, "epoch": 3, "version": "1.0.0", "sandbox": null}}),
    ];
    for (position, event) in (0..).zip(&events) {
        let head = header(position, partition::agent(&id), None);
        past.take(&head, Some(&serde_json::to_vec(event).unwrap()))
            .unwrap();
    }
    let (agent, _) = past.agent();
    let agent = agent.unwrap();
    assert_eq!(
        (agent.lifecycle.name(), agent.epoch.0, agent.instances.len()),
        ("activated", 3, 1)
    );
    assert_eq!(agent.owner, "user:ada");
}
