//! Every view equals what the log says, whatever order things happened in.

use std::collections::BTreeMap;
use std::convert::Infallible;

use mesh_messages::events::{AfterFailure, KIND_VERSION};
use mesh_messages::record::{PartitionId, RECORD_FORMAT};
use mesh_messages::task::{RetrySpec, TaskAssignment, TaskSpec, TaskState};
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, Position, RecordHeader, TaskId,
    Timestamp,
};
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Default, Clone, PartialEq)]
struct Store(BTreeMap<(String, Vec<u8>), Vec<u8>>);

impl View for Store {
    type Error = Infallible;
    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(&(tree.to_owned(), key.to_vec())).cloned())
    }
    fn put(&mut self, tree: &'static str, key: &[u8], value: Vec<u8>) {
        self.0.insert((tree.to_owned(), key.to_vec()), value);
    }
    fn delete(&mut self, tree: &'static str, key: &[u8]) {
        self.0.remove(&(tree.to_owned(), key.to_vec()));
    }
}

impl Reader for Store {
    type Error = Infallible;
    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        View::get(self, tree, key)
    }
    fn scan(
        &self,
        tree: &'static str,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Slice, Infallible> {
        let from = from.unwrap_or(prefix).max(prefix).to_vec();
        let mut found = self
            .0
            .range((tree.to_owned(), from)..)
            .take_while(|((of, key), _)| of == tree && key.starts_with(prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()));
        let entries = found.by_ref().take(limit).collect();
        Ok(Slice {
            entries,
            next: found.next().map(|(key, _)| key),
        })
    }
}

#[derive(Default)]
struct Log {
    store: Store,
    next: u64,
    records: Vec<(RecordHeader, Option<Vec<u8>>)>,
}

/// However many records are taken in together, the view is the same.
impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for together in [2, 3, 7, usize::MAX] {
            let mut store = Store::default();
            for records in self.records.chunks(together) {
                let mut pass = Pass::default();
                for (header, payload) in records {
                    pass.project(header, payload.as_deref(), &mut store)
                        .unwrap();
                }
                pass.finish(&mut store).unwrap();
            }
            for (key, row) in &self.store.0 {
                let text = |row: &[u8]| String::from_utf8_lossy(row).into_owned();
                let other = store.0.remove(key);
                assert_eq!(
                    other.as_deref().map(text),
                    Some(text(row)),
                    "{key:?}, {together} records together"
                );
            }
            assert_eq!(store, Store::default(), "{together} records together");
        }
    }
}

impl Log {
    fn record(&mut self, task: &str, event: Option<&TaskEvent>) -> Position {
        self.caused(task, event, None)
    }

    fn caused(
        &mut self,
        task: &str,
        event: Option<&TaskEvent>,
        cause: Option<Position>,
    ) -> Position {
        let position = Position(self.next);
        self.next += 1;
        let header = RecordHeader {
            v: RECORD_FORMAT,
            ns: "default".into(),
            log: "did:key:test".to_owned(),
            position,
            partition: partition::TASKS,
            seq: position.0,
            time: Timestamp::from_millis(1000 + position.0),
            lc: 0,
            kind: event.map_or("erased", TaskEvent::kind).into(),
            kv: KIND_VERSION,
            agent: None,
            task: Some(id(task)),
            actor: "user:test".to_owned(),
            cause,
            correlation: None,
            payload: String::new(),
        };
        let payload = event.map(|event| serde_json::to_vec(event).unwrap());
        let mut pass = Pass::default();
        pass.project(&header, payload.as_deref(), &mut self.store)
            .unwrap();
        pass.finish(&mut self.store).unwrap();
        self.records.push((header, payload));
        position
    }

    fn submit(&mut self, task: &str, spec: Value) -> Position {
        self.record(task, Some(&submitted(spec)))
    }

    fn assign(&mut self, task: &str, agent: &str) {
        self.record(task, Some(&assigned(task, agent)));
    }

    fn finish(&mut self, task: &str, output: Value) {
        let at = Timestamp::from_millis(5000);
        self.record(
            task,
            Some(&TaskEvent::Succeeded {
                attempt: AttemptNo(1),
                at,
                output,
            }),
        );
    }

    fn list(&self, filter: &TaskFilter) -> Vec<String> {
        let TaskPage { rows, next } = task_page(&self.store, filter, None, 100).unwrap();
        assert_eq!(next, None);
        rows.iter()
            .map(|row| row.record.task.id.to_string())
            .collect()
    }
}

fn id(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

fn submitted(spec: Value) -> TaskEvent {
    let spec: TaskSpec = serde_json::from_value(spec).unwrap();
    TaskEvent::Submitted {
        spec: Box::new(spec),
        by: "user:test".to_owned(),
        at: Timestamp::from_millis(1000),
        deadline_at: Timestamp::from_millis(9000),
        retry: RetrySpec::default(),
        depth: 0,
        digest: "blake3:x".to_owned(),
        ruling: None,
        envelope: None,
    }
}

fn assigned(task: &str, agent: &str) -> TaskEvent {
    assigned_again(task, agent, 1)
}

fn assigned_again(task: &str, agent: &str, attempt: u32) -> TaskEvent {
    TaskEvent::Assigned {
        assignment: TaskAssignment {
            task_id: id(task),
            agent_id: AgentId::new(agent).unwrap(),
            instance: InstanceNo(0),
            epoch: Epoch(1),
            attempt: AttemptNo(attempt),
            confidence: 1.0 / 3.0,
            reasoning: vec!["it was there".to_owned()],
            estimated_duration: Some(3),
            risk_factors: Vec::new(),
            assigned_at: Timestamp::from_millis(2000),
            expected_completion: None,
        },
        candidates: Vec::new(),
        limit_ms: None,
    }
}

fn by_state(state: TaskState) -> TaskFilter {
    TaskFilter {
        state: Some(state),
        ..TaskFilter::default()
    }
}

#[test]
fn lists_follow_every_change_newest_first() {
    let mut log = Log::default();
    log.submit("a", json!({"type": "x"}));
    log.submit("b", json!({"type": "y"}));
    log.submit("c", json!({"type": "x"}));
    assert_eq!(log.list(&TaskFilter::default()), ["c", "b", "a"]);
    log.assign("a", "worker");
    log.finish("a", json!(1));
    log.assign("c", "worker");
    assert_eq!(log.list(&by_state(TaskState::Queued)), ["b"]);
    assert_eq!(log.list(&by_state(TaskState::Succeeded)), ["a"]);
    let column = |name: &str| TaskFilter {
        column: Some(name.to_owned()),
        ..TaskFilter::default()
    };
    assert_eq!(log.list(&column("In progress")), ["c"]);
    assert_eq!(log.list(&column("Done")), ["a"]);
    let worker = Some(AgentId::new("worker").unwrap());
    let mine = TaskFilter {
        agent: worker.clone(),
        ..TaskFilter::default()
    };
    assert_eq!(log.list(&mine), ["c", "a"]);
    let both = TaskFilter {
        agent: worker,
        kind: Some("x".to_owned()),
        ..by_state(TaskState::Assigned)
    };
    assert_eq!(log.list(&both), ["c"]);
    let counts = task_counts(&log.store).unwrap();
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    assert_eq!(
        [TaskState::Queued, TaskState::Assigned, TaskState::Succeeded].map(count),
        [1, 1, 1]
    );
}

#[test]
fn pages_join_without_gap_or_overlap_while_tasks_are_added() {
    let mut log = Log::default();
    for n in 0..300 {
        log.submit(
            &format!("t{n}"),
            json!({"type": if n % 3 == 0 { "x" } else { "y" }}),
        );
    }
    let filter = TaskFilter {
        kind: Some("x".to_owned()),
        ..by_state(TaskState::Queued)
    };
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let TaskPage { rows, next } = task_page(&log.store, &filter, from.as_deref(), 7).unwrap();
        seen.extend(rows.iter().map(|row| row.record.task.id.to_string()));
        log.submit(&format!("new{}", seen.len()), json!({"type": "x"}));
        match next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    let expected: Vec<_> = (0..300)
        .rev()
        .filter(|n| n % 3 == 0)
        .map(|n| format!("t{n}"))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn large_inputs_and_outputs_lie_beside_the_row_and_come_back_whole() {
    let mut log = Log::default();
    let (input, output) = (
        json!({"text": "x".repeat(20_000)}),
        json!({"text": "y".repeat(30_000)}),
    );
    log.submit("a", json!({"type": "x", "input": input}));
    log.assign("a", "worker");
    log.finish("a", output.clone());
    let row = View::get(&log.store, tree::TASK, b"a").unwrap().unwrap();
    assert!(
        row.len() < 4096,
        "{} bytes are written with every event",
        row.len()
    );
    let task = task(&log.store, &id("a")).unwrap().unwrap().record.task;
    assert_eq!((task.spec.input, task.output), (input, Some(output)));
    let TaskPage { rows, .. } = task_page(&log.store, &TaskFilter::default(), None, 10).unwrap();
    assert_eq!(rows[0].record.task.output, task_output(&log));
}

fn task_output(log: &Log) -> Option<Value> {
    task(&log.store, &id("a"))
        .unwrap()
        .unwrap()
        .record
        .task
        .output
}

#[test]
fn a_page_of_large_tasks_ends_early_and_goes_on() {
    let mut log = Log::default();
    for n in 0..12 {
        log.submit(
            &format!("t{n}"),
            json!({"type": "x", "input": "x".repeat(1_000_000)}),
        );
    }
    let TaskPage { rows, next } = task_page(&log.store, &TaskFilter::default(), None, 100).unwrap();
    assert_eq!(rows.len(), 5);
    let TaskPage { rows: rest, .. } =
        task_page(&log.store, &TaskFilter::default(), next.as_deref(), 100).unwrap();
    assert_eq!(rest[0].record.task.id, id("t6"));
}

#[test]
fn idempotency_keys_find_their_task() {
    let mut log = Log::default();
    log.submit("a", json!({"type": "x", "idempotencyKey": "k"}));
    let found = |by: &str, key: &str| task_by_key(&log.store, by, key).unwrap().map(|r| r.task.id);
    assert_eq!(found("user:test", "k"), Some(id("a")));
    assert_eq!(found("user:other", "k"), None);
    assert_eq!(found("user:test", "other"), None);
}

#[test]
fn the_audit_finds_records_by_task_agent_and_kind() {
    let mut log = Log::default();
    let first = log.submit("a", json!({"type": "x"}));
    log.submit("b", json!({"type": "x"}));
    log.assign("a", "worker");
    let erased = log.record("a", None);
    let of = |index| audit_page(&log.store, index, None, 10).unwrap();
    let a = id("a");
    assert_eq!(of(AuditIndex::Task(&a)), [first, Position(2), erased]);
    assert_eq!(
        of(AuditIndex::Kind("task.submitted")),
        [Position(0), Position(1)]
    );
    let after = audit_page(&log.store, AuditIndex::Task(&a), Some(first), 1).unwrap();
    assert_eq!(after, [Position(2)]);
}

#[test]
fn pages_of_the_audit_join_over_any_length_of_the_log() {
    let mut log = Log::default();
    let mut sparse = Vec::new();
    for n in 0..70_000 {
        if n % 701 == 0 {
            sparse.push(log.record("a", None));
        } else {
            log.record(["b", "c"][n % 2], None);
        }
    }
    let a = id("a");
    for limit in [9, 1000] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = audit_page(&log.store, AuditIndex::Task(&a), after, limit).unwrap();
            assert!(page.len() <= limit);
            after = page.last().copied().or(after);
            found.extend(page.iter().copied());
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(found, sparse);
    }
}

#[test]
fn what_a_record_led_to_is_told_apart_from_what_its_neighbours_did() {
    let mut log = Log::default();
    let mut effects = BTreeMap::<_, Vec<Position>>::new();
    for n in 0..5000_u64 {
        // Some lead to the next few, one leads to many, far apart.
        let cause = match n {
            0 => None,
            _ if n % 10 == 0 => Some(Position(7.min(n - 1))),
            _ => Some(Position(n - 1 - n % 3 * u64::from(n > 3))),
        };
        let at = log.caused("a", None, cause);
        if let Some(cause) = cause {
            effects.entry(cause).or_default().push(at);
        }
    }
    for cause in (0..5000).map(Position) {
        let of =
            |after, limit| audit_page(&log.store, AuditIndex::Cause(cause), after, limit).unwrap();
        let all = effects.remove(&cause).unwrap_or_default();
        assert_eq!(of(None, 1000), all, "{cause}");
        let (half, after) = (all.len() / 2, all.get(all.len() / 2).copied());
        let rest = all.get(half + 1..).unwrap_or_default();
        assert_eq!(of(after, 3), rest[..rest.len().min(3)], "{cause}");
    }
}

#[test]
fn what_follows_an_erased_submission_is_passed_over() {
    let mut log = Log::default();
    log.record("a", None);
    log.assign("a", "worker");
    assert_eq!(log.list(&TaskFilter::default()), [""; 0]);
    log.submit("b", json!({"type": "x"}));
    assert_eq!(log.list(&TaskFilter::default()), ["b"]);
}

#[test]
fn a_record_of_a_newer_version_stops_the_projection() {
    let mut log = Log::default();
    log.submit("a", json!({"type": "x"}));
    let failed = TaskEvent::AttemptFailed {
        attempt: AttemptNo(1),
        at: Timestamp::ZERO,
        failure: Failure::new(FailureClass::Crash, "x"),
        ended_instance: false,
        alone: false,
        then: AfterFailure::Fail,
    };
    let mut header = RecordHeader {
        v: RECORD_FORMAT,
        ns: "default".into(),
        log: String::new(),
        position: Position(9),
        partition: PartitionId::from_static("tasks/0"),
        seq: 9,
        time: Timestamp::ZERO,
        lc: 0,
        kind: failed.kind().into(),
        kv: KIND_VERSION + 1,
        agent: None,
        task: Some(id("a")),
        actor: String::new(),
        cause: None,
        correlation: None,
        payload: String::new(),
    };
    let payload = serde_json::to_vec(&failed).unwrap();
    let newer = Pass::default().project(&header, Some(&payload), &mut log.store.clone());
    assert!(matches!(newer, Err(ProjectFailure::Unreadable(_))));
    header.kv = KIND_VERSION;
    let unknown = Pass::default().project(
        &header,
        Some(b"{\"task.nonsense\":{}}"),
        &mut log.store.clone(),
    );
    assert!(matches!(unknown, Err(ProjectFailure::Unreadable(_))));
}

fn script(store: &Store) -> String {
    let (mut script, mut text) = (SqlScript::default(), String::new());
    while let Some(chunk) = script.next_chunk(store).unwrap() {
        text.push_str(&chunk);
    }
    text
}

fn rows<'t>(text: &'t str, table: &str) -> Vec<&'t str> {
    let begin = format!("INSERT INTO {table} ");
    text.lines()
        .filter(|line| line.starts_with(&begin))
        .collect()
}

#[test]
fn the_script_holds_a_row_for_every_assignment_with_its_outcome() {
    let mut log = Log::default();
    log.submit("a", json!({"type": "x"}));
    log.assign("a", "its");
    log.record(
        "a",
        Some(&TaskEvent::AttemptFailed {
            attempt: AttemptNo(1),
            at: Timestamp::from_millis(3000),
            failure: Failure::new(FailureClass::Crash, "it's 'gone'\0"),
            ended_instance: true,
            alone: true,
            then: AfterFailure::Retry {
                at: Timestamp::from_millis(3100),
            },
        }),
    );
    log.record(
        "a",
        Some(&TaskEvent::Waiting {
            state: TaskState::Queued,
            waiting_for: None,
        }),
    );
    log.record("a", Some(&assigned_again("a", "other", 2)));
    let under_way = script(&log.store);
    let assignments = rows(&under_way, "task_assignments");
    assert_eq!(assignments.len(), 2, "{under_way}");
    assert!(assignments[0].contains("'a/1', 'a', 'its'"));
    assert!(assignments[0].contains("\"message\":\"it''s ''gone''\u{fffd}\""));
    assert!(assignments[0].ends_with("'1970-01-01 00:00:03.000');"));
    assert!(assignments[1].contains("'a/2', 'a', 'other'"));
    assert!(assignments[1].ends_with("NULL);"), "it has not ended");

    log.record(
        "a",
        Some(&TaskEvent::Succeeded {
            attempt: AttemptNo(2),
            at: Timestamp::from_millis(2050),
            output: json!(1),
        }),
    );
    let ended = script(&log.store);
    let assignments = rows(&ended, "task_assignments");
    assert!(
        assignments[1].contains(r#"'{"durationMs":50,"error":null,"success":true}'"#),
        "{assignments:?}"
    );
    let insights = rows(&ended, "learning_insights");
    assert_eq!(insights.len(), 2, "{insights:?}");
    assert!(insights[0].contains(r#""attempts":1"#) && insights[0].contains(r#""succeeded":0"#));
    assert!(insights[1].contains("'other', 'x'") && insights[1].contains(r#""meanDurationMs":50"#));
    assert_eq!(rows(&ended, "agent_relationships"), [""; 0]);
    assert!(ended.contains("COMMIT;\n-- learning_insights: 2 rows\n"));
}

#[test]
fn a_lesson_counts_the_assignments_that_were_decided_with_it() {
    let mut log = Log::default();
    for task in ["a", "b", "c"] {
        log.submit(task, json!({"type": "x"}));
        log.assign(task, "worker");
        log.finish(task, json!(1));
    }
    let text = script(&log.store);
    let insights = rows(&text, "learning_insights");
    assert_eq!(insights.len(), 1);
    // The first was assigned when nothing was known yet.
    assert!(insights[0].contains("}', 2, '1970"), "{insights:?}");
}

#[test]
fn delegation_makes_a_relationship_between_the_two_agents() {
    let mut log = Log::default();
    log.submit("parent", json!({"type": "plan"}));
    log.assign("parent", "planner");
    let mut child = submitted(json!({"type": "x", "parent": "parent"}));
    if let TaskEvent::Submitted { by, .. } = &mut child {
        *by = "agent:planner".to_owned();
    }
    log.record("child", Some(&child));
    log.assign("child", "worker");
    log.finish("child", json!(1));
    let text = script(&log.store);
    let relations = rows(&text, "agent_relationships");
    assert_eq!(relations.len(), 1, "{text}");
    assert!(
        relations[0].contains(
            r#"'planner', 'worker', 'delegation', '{"assigned":1,"failed":0,"succeeded":1}'"#
        ),
        "{relations:?}"
    );
}

#[test]
fn a_long_script_comes_in_pieces_and_misses_nothing() {
    let mut log = Log::default();
    for n in 0..600 {
        let task = format!("t{n}");
        log.submit(&task, json!({"type": "x"}));
        log.assign(&task, "worker");
    }
    let (mut script, mut pieces, mut found) = (SqlScript::default(), 0, 0);
    while let Some(chunk) = script.next_chunk(&log.store).unwrap() {
        pieces += 1;
        let rows = rows(&chunk, "task_assignments").len();
        assert!(rows <= 256);
        found += rows;
    }
    assert_eq!(found, 600);
    assert!(pieces > 5);
}

#[test]
fn insights_are_the_numbers_that_routing_rests_on() {
    let mut log = Log::default();
    let mut machine = crate::task::Tasks::default();
    let classes = [
        None,
        Some(FailureClass::Crash),
        Some(FailureClass::Lost),
        Some(FailureClass::Quota),
        Some(FailureClass::Contract),
        None,
    ];
    for (n, class) in classes.into_iter().enumerate() {
        let task = format!("t{n}");
        let at = Timestamp::from_millis(2100 + 7 * n as u64);
        let end = match class {
            None => TaskEvent::Succeeded {
                attempt: AttemptNo(1),
                at,
                output: json!(1),
            },
            Some(class) => TaskEvent::AttemptFailed {
                attempt: AttemptNo(1),
                at,
                failure: Failure::new(class, "x"),
                ended_instance: false,
                alone: false,
                then: AfterFailure::Fail,
            },
        };
        for event in [
            submitted(json!({"type": "x"})),
            assigned(&task, "worker"),
            end,
        ] {
            log.record(&task, Some(&event));
            machine.apply(&id(&task), &event).unwrap();
        }
    }
    let worker = AgentId::new("worker").unwrap();
    let known = machine.stats().of(&worker, "x");
    assert_eq!((known.succeeded, known.failed), (2, 2));
    let bytes = View::get(&log.store, tree::LESSON, &key::prefix(&["worker", "x"]));
    let row: Value = serde_json::from_slice(&bytes.unwrap().unwrap()).unwrap();
    assert_eq!(row["record"], serde_json::to_value(known).unwrap());
}
