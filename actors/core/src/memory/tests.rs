use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use mesh_messages::manifest::{MemoryConfig, MemoryType};
use mesh_messages::units::ByteCount;
use mesh_messages::{PartitionId, Position};

use super::*;

fn agent() -> AgentId {
    AgentId::new("echo").unwrap()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn all() -> Range {
    range(None, 100)
}

fn range(after: Option<&str>, limit: usize) -> Range {
    Range {
        prefix: String::new(),
        after: after.map(str::to_owned),
        limit,
    }
}

fn rules(kind: MemoryType) -> MemoryConfig {
    MemoryConfig {
        kind,
        ..MemoryConfig::default()
    }
}

/// Both halves, driven as the shell drives them.
#[derive(Default)]
struct Memory {
    state: MemoryState,
    working: Volatile,
    events: Vec<MemoryEvent>,
}

impl Memory {
    fn journal(&mut self, event: MemoryEvent) {
        let header = RecordHeader {
            v: 1,
            ns: "default".into(),
            log: String::new(),
            position: Position(0),
            partition: PartitionId::from_static("memory"),
            seq: 0,
            time: Timestamp::ZERO,
            lc: 0,
            kind: event.kind().into(),
            kv: 1,
            agent: None,
            task: None,
            actor: "meshd".into(),
            cause: None,
            correlation: None,
            payload: String::new(),
        };
        self.state.apply(&header, &event);
        self.events.push(event);
    }

    fn set(
        &mut self,
        rules: &MemoryConfig,
        now: u64,
        (key, value): (&str, Value),
        ttl: Option<Duration>,
    ) -> Result<Place, MemoryRefusal> {
        let request = SetRequest {
            agent: agent(),
            key: key.to_owned(),
            value,
            ttl,
        };
        let write = self.state.set(&self.working, rules, at(now), request)?;
        for event in write.events {
            self.journal(event);
        }
        match write.place {
            Place::Working => self.working.put(&agent(), key.to_owned(), write.item),
            Place::Journal => self.working.remove(&agent(), key),
        }
        Ok(write.place)
    }

    fn get(&self, now: u64, key: &str) -> Option<Value> {
        let read = self
            .state
            .get(&self.working, at(now), &agent(), key)
            .unwrap();
        read.map(|read| read.item.value)
    }

    fn delete(&mut self, now: u64, key: &str) -> bool {
        let events = self
            .state
            .delete(&self.working, at(now), &agent(), key)
            .unwrap();
        let there = events.is_some();
        for event in events.into_iter().flatten() {
            self.journal(event);
        }
        if there {
            self.working.remove(&agent(), key);
        }
        there
    }
}

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

#[test]
fn type_and_ttl_decide_where_an_entry_lies() {
    let cases = [
        (MemoryType::Volatile, None, Place::Working),
        (MemoryType::Volatile, SECOND, Place::Working),
        (MemoryType::Persistent, None, Place::Journal),
        (MemoryType::Persistent, SECOND, Place::Journal),
        (MemoryType::Hybrid, None, Place::Journal),
        (MemoryType::Hybrid, SECOND, Place::Working),
    ];
    for (kind, ttl, place) in cases {
        let mut memory = Memory::default();
        assert_eq!(
            memory.set(&rules(kind), 0, ("k", json!(1)), ttl),
            Ok(place),
            "{kind:?} {ttl:?}"
        );
        assert_eq!(memory.get(0, "k"), Some(json!(1)));
        memory.working.clear(&agent());
        assert_eq!(memory.get(0, "k").is_some(), place == Place::Journal);
    }
}

#[test]
fn a_hybrid_key_has_one_value_wherever_it_was_written_last() {
    let mut memory = Memory::default();
    let hybrid = rules(MemoryType::Hybrid);
    memory.set(&hybrid, 0, ("k", json!("kept")), None).unwrap();
    memory
        .set(&hybrid, 0, ("k", json!("passing")), SECOND)
        .unwrap();
    assert_eq!(memory.get(1, "k"), Some(json!("passing")));
    assert_eq!(
        memory.get(1000, "k"),
        None,
        "what it replaced does not come back"
    );
    memory
        .set(&hybrid, 0, ("k", json!("passing")), SECOND)
        .unwrap();
    memory.set(&hybrid, 0, ("k", json!("kept")), None).unwrap();
    assert_eq!(memory.get(2000, "k"), Some(json!("kept")));
}

#[test]
fn entry_is_unreadable_from_the_moment_it_expires_and_then_cleared() {
    for kind in [MemoryType::Persistent, MemoryType::Volatile] {
        let mut memory = Memory::default();
        memory
            .set(&rules(kind), 0, ("k", json!(1)), SECOND)
            .unwrap();
        assert_eq!(memory.get(999, "k"), Some(json!(1)));
        assert_eq!(memory.get(1000, "k"), None);
        assert!(
            !memory.delete(1000, "k"),
            "what cannot be read cannot be deleted"
        );
        let next = memory.state.next_expiry().or(memory.working.next_expiry());
        assert_eq!(next, Some(at(1000)));
        memory.working.clear_expired(at(1000));
        for (_, event) in memory.state.clear_expired(at(1000)) {
            memory.journal(event);
        }
        assert_eq!(memory.state, MemoryState::default());
        assert!(memory.working.shelves.is_empty());
    }
}

#[test]
fn the_manifests_ttl_is_default_and_upper_bound() {
    let rules = MemoryConfig {
        ttl: Some(10),
        ..rules(MemoryType::Persistent)
    };
    let mut memory = Memory::default();
    let life = |secs| Some(Duration::from_secs(secs));
    for (key, ttl, end) in [
        ("a", None, 10_000),
        ("b", life(3), 3_000),
        ("c", life(99), 10_000),
    ] {
        memory.set(&rules, 0, (key, json!(1)), ttl).unwrap();
        assert!(memory.get(end - 1, key).is_some());
        assert!(memory.get(end, key).is_none());
    }
}

#[test]
fn max_size_counts_keys_and_values_and_frees_what_is_replaced_or_expired() {
    // A key of one byte and a value of `"aa"` count five.
    let rules = MemoryConfig {
        max_size: Some(ByteCount::from_bytes(10)),
        ..rules(MemoryType::Persistent)
    };
    let mut memory = Memory::default();
    memory.set(&rules, 0, ("a", json!("aa")), SECOND).unwrap();
    memory.set(&rules, 0, ("b", json!("aa")), None).unwrap();
    assert_eq!(
        memory.set(&rules, 0, ("c", json!("aa")), None),
        Err(MemoryRefusal::Size {
            agent: agent(),
            held: 10,
            limit: 10,
            wanted: 5
        })
    );
    memory
        .set(&rules, 0, ("b", json!("bb")), None)
        .expect("replacing needs no more room");
    memory
        .set(&rules, 1000, ("c", json!("aa")), None)
        .expect("what has expired does not count");
    let stats = memory.state.stats(&memory.working, at(1000), &agent());
    assert_eq!((stats.bytes, stats.entries), (10, 2));
}

#[test]
fn keys_values_times_and_counts_are_bounded() {
    let mut memory = Memory::default();
    let rules = rules(MemoryType::Persistent);
    for key in ["", " a", "a\n", &"k".repeat(KEY_BYTES_MAX + 1)] {
        assert_eq!(
            memory.set(&rules, 0, (key, json!(1)), None),
            Err(MemoryRefusal::Key),
            "{key:?}"
        );
    }
    for ttl in [Duration::ZERO, TTL_MAX + Duration::from_millis(1)] {
        assert_eq!(
            memory.set(&rules, 0, ("k", json!(1)), Some(ttl)),
            Err(MemoryRefusal::Ttl)
        );
    }
    let largest = usize::try_from(VALUE_BYTES_MAX).unwrap() - 2;
    memory
        .set(&rules, 0, ("k", json!("x".repeat(largest))), None)
        .unwrap();
    assert!(matches!(
        memory.set(&rules, 0, ("k", json!("x".repeat(largest + 1))), None),
        Err(MemoryRefusal::Value { .. })
    ));
    for n in 1..ENTRIES_MAX {
        memory
            .set(&rules, 0, (&n.to_string(), json!(1)), None)
            .unwrap();
    }
    assert!(matches!(
        memory.set(&rules, 0, ("one more", json!(1)), None),
        Err(MemoryRefusal::Count { .. })
    ));
    memory
        .set(&rules, 0, ("k", json!(2)), None)
        .expect("an existing key can be written");
}

#[test]
fn sealed_memory_is_closed_until_unsealed_and_purge_empties_it() {
    let mut memory = Memory::default();
    let rules = rules(MemoryType::Persistent);
    memory.set(&rules, 0, ("k", json!(1)), None).unwrap();
    let seal = memory.state.seal(&agent(), true).unwrap();
    memory.journal(seal);
    assert_eq!(memory.state.seal(&agent(), true), None);
    let refusal = MemoryRefusal::Sealed(agent());
    assert_eq!(
        memory.set(&rules, 0, ("k", json!(2)), None),
        Err(refusal.clone())
    );
    assert_eq!(
        memory.state.get(&memory.working, at(0), &agent(), "k"),
        Err(refusal.clone())
    );
    assert_eq!(
        memory.state.list(&memory.working, at(0), &agent(), &all()),
        Err(refusal)
    );
    let open = memory.state.seal(&agent(), false).unwrap();
    memory.journal(open);
    assert_eq!(memory.get(0, "k"), Some(json!(1)));
    let purge = memory.state.purge(&agent()).unwrap();
    memory.journal(purge);
    assert_eq!(memory.get(0, "k"), None);
    assert_eq!(memory.state.purge(&agent()), None);
}

#[test]
fn other_agents_read_what_is_shared_and_write_nothing() {
    let other = AgentId::new("other").unwrap();
    let shared = MemoryConfig {
        shared_access: true,
        ..MemoryConfig::default()
    };
    let closed = MemoryConfig::default();
    for access in [Access::Read, Access::Write] {
        assert_eq!(check_access(&agent(), &agent(), &closed, access), Ok(()));
    }
    assert_eq!(
        check_access(&other, &agent(), &shared, Access::Read),
        Ok(())
    );
    assert_eq!(
        check_access(&other, &agent(), &closed, Access::Read),
        Err(MemoryRefusal::NotShared {
            owner: agent(),
            reader: other.clone()
        })
    );
    assert_eq!(
        check_access(&other, &agent(), &shared, Access::Write),
        Err(MemoryRefusal::NotYours {
            owner: agent(),
            writer: other
        })
    );
}

#[test]
fn listing_pages_through_both_places_in_the_order_of_the_keys() {
    let mut memory = Memory::default();
    let hybrid = rules(MemoryType::Hybrid);
    for (n, key) in ["d", "a", "c", "b", "e"].into_iter().enumerate() {
        memory
            .set(
                &hybrid,
                0,
                (key, json!(n)),
                if n % 2 == 0 { None } else { SECOND },
            )
            .unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = memory.state.list(
            &memory.working,
            at(0),
            &agent(),
            &range(after.as_deref(), 2),
        );
        let page = page.unwrap();
        assert!(page.rows.len() <= 2);
        seen.extend(page.rows.iter().map(|(key, _)| key.clone()));
        after = seen.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    let only = Range {
        prefix: "c".to_owned(),
        ..all()
    };
    let only = memory
        .state
        .list(&memory.working, at(0), &agent(), &only)
        .unwrap();
    assert_eq!(
        (only.rows.len(), only.rows[0].0.as_str(), only.more),
        (1, "c", false)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8, Option<u64>),
    Delete(u8),
    Sweep,
    EndOfRun,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, 0u8..4, prop::option::of(1u64..50)).prop_map(|(k, v, t)| Step::Set(k, v, t)),
        1 => (0u8..6).prop_map(Step::Delete),
        1 => Just(Step::Sweep),
        1 => Just(Step::EndOfRun),
    ]
}

proptest! {
    #[test]
    fn any_history_reads_as_a_map_with_expiry_and_replays_to_the_same_state(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let hybrid = rules(MemoryType::Hybrid);
        let mut memory = Memory::default();
        // key → (value, end, durable)
        let mut model: BTreeMap<String, (Value, Option<u64>, bool)> = BTreeMap::new();
        for (step, now) in steps.into_iter().zip((0..).step_by(7)) {
            match step {
                Step::Set(k, v, ttl) => {
                    let (key, life) = (k.to_string(), ttl.map(Duration::from_millis));
                    memory.set(&hybrid, now, (&key, json!(v)), life).unwrap();
                    model.insert(key, (json!(v), ttl.map(|t| now + t), ttl.is_none()));
                }
                Step::Delete(k) => {
                    memory.delete(now, &k.to_string());
                    model.remove(&k.to_string());
                }
                Step::Sweep => {
                    memory.working.clear_expired(at(now));
                    for (_, event) in memory.state.clear_expired(at(now)) {
                        memory.journal(event);
                    }
                }
                Step::EndOfRun => {
                    memory.working.clear(&agent());
                    model.retain(|_, (_, _, durable)| *durable);
                }
            }
            model.retain(|_, (_, end, _)| end.is_none_or(|end| now < end));
            let rows = memory.state.list(&memory.working, at(now), &agent(), &all()).unwrap().rows;
            let read: BTreeMap<_, _> = rows.into_iter().map(|(k, r)| (k, r.item.value)).collect();
            let expected: BTreeMap<_, _> = model.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
            prop_assert_eq!(read, expected);
        }
        let mut replayed = Memory::default();
        for event in memory.events.clone() {
            replayed.journal(event);
        }
        prop_assert_eq!(&replayed.state, &memory.state);
        let text = serde_json::to_string(&memory.state).unwrap();
        prop_assert_eq!(&serde_json::from_str::<MemoryState>(&text).unwrap(), &memory.state);
    }
}
