use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::json;

use mesh_messages::klp::{MemoryOp, MemoryOpKind};
use mesh_messages::manifest::MemoryType;
use mesh_messages::system::{Caller, Role};
use mesh_persistence::Journal as _;

use super::*;
use crate::operations::PageRequest;
use crate::sentinel::{Quota, SentinelHandle, SentinelSettings};
use crate::testing::{PATIENCE, Store, until};

#[derive(Debug)]
struct Manifests(BTreeMap<&'static str, MemoryConfig>);

impl MemoryRules for Manifests {
    fn rules(&self, agent: &AgentId) -> Option<MemoryConfig> {
        self.0.get(agent.as_str()).cloned()
    }
}

struct Fixture {
    store: Store,
    handle: MemoryHandle,
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

fn admin() -> Caller {
    Caller {
        name: "user:root".to_owned(),
        role: Role::Admin,
        loopback: true,
        narrowed: Vec::new(),
    }
}

impl Fixture {
    async fn new() -> Self {
        let config = |kind, shared_access| MemoryConfig {
            kind,
            shared_access,
            ..MemoryConfig::default()
        };
        let rules = Manifests(BTreeMap::from([
            ("keeper", config(MemoryType::Persistent, false)),
            ("hybrid", config(MemoryType::Hybrid, true)),
            ("forgetful", config(MemoryType::Volatile, false)),
        ]));
        let requests = Quota::per_second(NonZeroU32::new(1000).unwrap());
        let sentinel = SentinelHandle::new(SentinelSettings {
            requests,
            audit_all_actions: true,
        });
        let store = Store::new();
        crate::sentinel::tests::start(&sentinel, &store.cell).await;
        let fixture = Self {
            store,
            handle: MemoryHandle::new(Arc::new(rules), sentinel),
        };
        fixture.start().await;
        fixture
    }

    async fn start(&self) {
        let args = MemoryArgs {
            handle: self.handle.clone(),
            store: self.store.cell.clone(),
        };
        let (_actor, _join) = Actor::spawn(None, Memory, args).await.unwrap();
        until("the memory actor", || self.handle.is_running()).await;
    }

    async fn restart(&self) {
        let actor = self.handle.slot.current().unwrap();
        actor.stop_and_wait(None, Some(PATIENCE)).await.unwrap();
        self.start().await;
    }

    async fn set(
        &self,
        agent: &str,
        key: &str,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem> {
        self.handle
            .set(&admin(), agent, key, json!({"n": 1}), ttl)
            .await
    }

    async fn has(&self, agent: &str, key: &str) -> bool {
        self.handle.get(agent, key).await.is_ok()
    }

    fn kinds(&self) -> Vec<String> {
        self.store.kinds(&partition::MEMORY)
    }
}

const LONG: Option<Duration> = Some(Duration::from_hours(1));

#[tokio::test]
async fn persistent_memory_is_back_after_a_restart_and_volatile_memory_survives_its_actors_only() {
    let fixture = Fixture::new().await;
    assert!(fixture.set("keeper", "k", None).await.unwrap().persistent);
    assert!(
        !fixture
            .set("forgetful", "v", None)
            .await
            .unwrap()
            .persistent
    );
    fixture.set("hybrid", "k", None).await.unwrap();
    fixture.set("hybrid", "v", LONG).await.unwrap();
    fixture.restart().await;
    for (agent, key) in [
        ("keeper", "k"),
        ("forgetful", "v"),
        ("hybrid", "k"),
        ("hybrid", "v"),
    ] {
        assert!(fixture.has(agent, key).await, "{agent} {key}");
    }
    for id in ["forgetful", "hybrid", "keeper"] {
        fixture.handle.clear_volatile(&agent(id)).await.unwrap();
    }
    assert!(!fixture.has("forgetful", "v").await && !fixture.has("hybrid", "v").await);
    assert!(fixture.has("keeper", "k").await && fixture.has("hybrid", "k").await);
    assert_eq!(
        fixture.kinds(),
        ["memory.set", "memory.set"],
        "nothing volatile was journalled"
    );
}

#[tokio::test]
async fn a_write_is_answered_and_a_read_sees_it_only_once_it_is_durable() {
    let fixture = Fixture::new().await;
    fixture.store.journal.hold();
    let (writer, reader) = (fixture.handle.clone(), fixture.handle.clone());
    let write =
        tokio::spawn(async move { writer.set(&admin(), "keeper", "k", json!(1), None).await });
    until("the write", || {
        fixture.store.journal.next_seq(&partition::MEMORY) == 1
    })
    .await;
    let read = tokio::spawn(async move { reader.get("keeper", "k").await });
    // The actor has the read when it answers what came after it and needs no disk.
    fixture.handle.stats("keeper").await.unwrap();
    assert!(!write.is_finished() && !read.is_finished());
    fixture.store.journal.release();
    assert_eq!(write.await.unwrap().unwrap().value, json!(1));
    assert_eq!(read.await.unwrap().unwrap().value, json!(1));
}

#[tokio::test]
async fn what_the_journal_lost_was_never_written() {
    let mut fixture = Fixture::new().await;
    fixture.set("keeper", "before", None).await.unwrap();
    fixture.store.journal.fail_next_sync();
    assert!(fixture.set("keeper", "lost", None).await.is_err());
    until("the end of the actor", || !fixture.handle.is_running()).await;
    fixture.store.reopen();
    fixture.start().await;
    assert!(fixture.has("keeper", "before").await);
    assert!(!fixture.has("keeper", "lost").await);
}

#[tokio::test]
async fn expired_entries_cannot_be_read_and_are_cleared_from_the_journals_state() {
    let fixture = Fixture::new().await;
    fixture
        .set("keeper", "k", Some(Duration::from_millis(30)))
        .await
        .unwrap();
    until("the sweep", || {
        fixture.kinds() == ["memory.set", "memory.deleted"]
    })
    .await;
    let gone = fixture.handle.get("keeper", "k").await.unwrap_err();
    assert_eq!(gone.code, "memory_key_not_found");
    assert_eq!(fixture.handle.stats("keeper").await.unwrap().entry_count, 0);
}

#[tokio::test]
async fn a_full_disk_refuses_what_would_be_journalled_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture
        .store
        .journal
        .set_read_only(Some("the disk is full"));
    assert_eq!(
        fixture.set("keeper", "k", None).await.unwrap_err().code,
        "read_only"
    );
    fixture
        .set("forgetful", "k", None)
        .await
        .expect("volatile memory needs no disk");
    assert!(
        fixture
            .handle
            .delete(&admin(), "forgetful", "k")
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn sealed_memory_is_refused_and_purged_memory_is_erased_from_the_journal() {
    let fixture = Fixture::new().await;
    fixture.set("keeper", "k", None).await.unwrap();
    fixture
        .handle
        .seal("meshd", &agent("keeper"))
        .await
        .unwrap();
    assert_eq!(
        fixture.handle.get("keeper", "k").await.unwrap_err().code,
        "memory_sealed"
    );
    assert_eq!(
        fixture.set("keeper", "x", None).await.unwrap_err().code,
        "memory_sealed"
    );
    fixture
        .handle
        .unseal("meshd", &agent("keeper"))
        .await
        .unwrap();
    assert!(fixture.has("keeper", "k").await);

    fixture.set("hybrid", "other", None).await.unwrap();
    fixture
        .handle
        .purge("user:root", &agent("keeper"))
        .await
        .unwrap();
    assert!(!fixture.has("keeper", "k").await);
    let records = fixture.store.records(&partition::MEMORY);
    let erased: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r.header.agent.clone().unwrap().to_string(),
                r.header.kind.to_string(),
                r.body.is_none(),
            )
        })
        .filter(|(_, kind, _)| kind == "memory.set")
        .map(|(agent, _, erased)| (agent, erased))
        .collect();
    assert_eq!(
        erased,
        [("keeper".to_owned(), true), ("hybrid".to_owned(), false)]
    );
    fixture.restart().await;
    assert!(!fixture.has("keeper", "k").await && fixture.has("hybrid", "other").await);
    fixture
        .handle
        .purge("user:root", &agent("keeper"))
        .await
        .expect("asking again is harmless");
}

#[tokio::test]
async fn statistics_tell_type_backend_size_and_count() {
    let fixture = Fixture::new().await;
    fixture.set("hybrid", "k", None).await.unwrap();
    fixture.set("hybrid", "v", LONG).await.unwrap();
    let stats = fixture.handle.stats("hybrid").await.unwrap();
    // A key of one byte and `{"n":1}`, twice.
    assert_eq!((stats.entry_count, stats.size), (2, 16.0 / 1e6));
    assert_eq!(
        (stats.kind.as_str(), stats.backend.as_str()),
        ("hybrid", "embedded")
    );
    assert!(stats.last_accessed.is_some());
    let unknown = fixture.handle.stats("nobody").await.unwrap_err();
    assert_eq!(unknown.detail, "Agent nobody not found");
}

#[tokio::test]
async fn listing_pages_with_a_cursor() {
    let fixture = Fixture::new().await;
    for key in ["c", "a", "b"] {
        fixture.set("keeper", key, None).await.unwrap();
    }
    let first = fixture
        .handle
        .list(
            "keeper",
            PageRequest {
                limit: 2,
                cursor: None,
            },
        )
        .await
        .unwrap();
    let cursor = first.next_cursor.as_deref();
    assert_eq!(cursor, Some("b"));
    let second = fixture
        .handle
        .list("keeper", PageRequest { limit: 2, cursor })
        .await
        .unwrap();
    let keys: Vec<_> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|e| e.key.as_str())
        .collect();
    assert_eq!((keys, second.next_cursor), (vec!["a", "b", "c"], None));
}

#[tokio::test]
async fn agents_use_their_own_memory_and_read_what_others_share_with_an_audit() {
    let fixture = Fixture::new().await;
    let op = |op, key: Option<&str>, value| MemoryOp {
        op,
        key: key.map(str::to_owned),
        value,
        ttl: None,
    };
    let (hybrid, keeper) = (agent("hybrid"), agent("keeper"));
    let ask =
        async |who: &AgentId, whose: &AgentId, op| fixture.handle.agent_op(who, whose, op).await;

    assert!(
        ask(
            &hybrid,
            &hybrid,
            op(MemoryOpKind::Set, Some("a.1"), json!(7))
        )
        .await
        .ok
    );
    assert!(
        ask(
            &hybrid,
            &hybrid,
            op(MemoryOpKind::Set, Some("b.1"), json!(8))
        )
        .await
        .ok
    );
    let listed = ask(
        &hybrid,
        &hybrid,
        op(MemoryOpKind::List, Some("a."), json!(null)),
    )
    .await;
    assert_eq!(listed.value, json!(["a.1"]));
    let missing = ask(&hybrid, &hybrid, op(MemoryOpKind::Get, None, json!(null))).await;
    assert_eq!(
        missing.error.as_deref(),
        Some("Missing required field: payload.key")
    );

    let shared = ask(
        &keeper,
        &hybrid,
        op(MemoryOpKind::Get, Some("a.1"), json!(null)),
    )
    .await;
    assert_eq!((shared.ok, shared.value), (true, json!(7)));
    assert!(
        !ask(
            &keeper,
            &hybrid,
            op(MemoryOpKind::Delete, Some("a.1"), json!(null))
        )
        .await
        .ok
    );
    assert!(
        !ask(
            &hybrid,
            &keeper,
            op(MemoryOpKind::Get, Some("k"), json!(null))
        )
        .await
        .ok
    );
    let audited = || fixture.store.kinds(&partition::SENTINEL);
    until("the audit", || {
        audited() == ["access.allowed", "access.denied", "access.denied"]
    })
    .await;
    assert!(
        ask(
            &hybrid,
            &hybrid,
            op(MemoryOpKind::Delete, Some("a.1"), json!(null))
        )
        .await
        .ok
    );
}

#[tokio::test]
async fn an_effect_is_recorded_once_and_known_after_a_restart_whatever_the_memorys_type() {
    let fixture = Fixture::new().await;
    let once = |key: &str, value| MemoryOp {
        op: MemoryOpKind::Once,
        key: Some(key.to_owned()),
        value,
        ttl: None,
    };
    let ask = async |who: &str, op| {
        let who = agent(who);
        fixture.handle.agent_op(&who, &who, op).await
    };
    for who in ["keeper", "hybrid", "forgetful"] {
        let first = ask(who, once("paid/17", json!("receipt 1"))).await;
        assert_eq!(
            (first.ok, first.first),
            (true, Some(true)),
            "{who}: {first:?}"
        );
        let second = ask(who, once("paid/17", json!("receipt 2"))).await;
        assert_eq!(second.first, Some(false), "{who}: {second:?}");
        assert_eq!(second.value, json!("receipt 1"), "the first one counts");
    }
    fixture.restart().await;
    fixture
        .handle
        .clear_volatile(&agent("forgetful"))
        .await
        .unwrap();
    let again = ask("forgetful", once("paid/17", json!("receipt 3"))).await;
    assert_eq!(
        (again.first, again.value),
        (Some(false), json!("receipt 1"))
    );
    let both = tokio::join!(
        ask("keeper", once("paid/18", json!("a"))),
        ask("keeper", once("paid/18", json!("b"))),
    );
    assert_ne!(
        both.0.first, both.1.first,
        "one of two at once is the first"
    );
    assert_eq!(both.0.value, both.1.value);
    let nothing = ask(
        "keeper",
        MemoryOp {
            key: None,
            ..once("", json!(1))
        },
    )
    .await;
    assert!(!nothing.ok, "{nothing:?}");
}
