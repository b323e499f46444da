//! What an owner finds that comes after another one.

use mesh_messages::events::{NodeEvent, partition};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::sync::mpsc;

use super::*;
use crate::health::NodeState;
use crate::store::{JournalNews, follow_awaited};
use crate::testing::Store;

type Loading = tokio::task::JoinHandle<Result<Partition<NodeState, ()>, PartitionError>>;

fn load(store: &Store) -> Loading {
    let open = store.cell.get().unwrap();
    tokio::task::spawn_blocking(move || {
        let (journal, content) = (Arc::clone(&open.journal), Arc::clone(&open.content));
        Partition::load(partition::NODE, journal, content)
    })
}

async fn commit(partition: &mut Partition<NodeState, ()>, run_id: &str) {
    let event = NodeEvent::Started {
        version: "1".to_owned(),
        run_id: run_id.to_owned(),
        after: None,
        clean: true,
        restored: None,
        cut: None,
        encryption: None,
    };
    let entry = Entry {
        event,
        agent: None,
        task: None,
        led: Led::default(),
    };
    let cause = Cause::meshd();
    let committed = partition.commit(vec![entry], &cause, Vec::new());
    committed.await.unwrap();
}

#[tokio::test]
async fn an_owner_waits_for_what_the_last_one_appended() {
    let store = Store::new();
    let mut first = load(&store).await.unwrap().unwrap();
    store.journal.hold();
    commit(&mut first, "first").await;
    drop(first);

    let mut second = load(&store);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(
        early.is_err(),
        "what is not on the disk has not happened yet"
    );
    store.journal.release();
    let mut second = second.await.unwrap().unwrap();
    assert_eq!(second.state().run_id, "first");
    commit(&mut second, "second").await;
    assert_eq!(second.state().run_id, "second");
}

#[tokio::test]
async fn an_owner_does_not_wait_for_a_journal_that_has_failed() {
    let store = Store::new();
    let mut first = load(&store).await.unwrap().unwrap();
    store.journal.hold();
    commit(&mut first, "first").await;
    drop(first);

    let second = load(&store);
    store.journal.fail_next_sync();
    store.journal.release();
    let refused = second.await.unwrap().unwrap_err();
    assert!(matches!(refused, PartitionError::Append(..)), "{refused:?}");
}

/// What the newest record refers to in the content store.
fn digest_of(store: &Store, text: &str) -> ContentDigest {
    let journal = &store.cell.get().unwrap().journal;
    let records = journal.read_partition(&partition::NODE, Position(0));
    let digests = records
        .unwrap()
        .filter_map(|record| content_of(&record.unwrap()));
    digests.last().unwrap_or_else(|| panic!("{text}"))
}

#[tokio::test]
async fn content_is_kept_for_a_record_that_is_on_its_way() {
    let store = Store::new();
    let content = Arc::clone(&store.cell.get().unwrap().content);
    let nothing = std::collections::BTreeSet::new();
    let large = "x".repeat(PAYLOAD_INLINE_MAX);
    let mut older = load(&store).await.unwrap().unwrap();
    commit(&mut older, &large).await;
    let durable = older.last();
    older.released(durable);
    let digest = digest_of(&store, "it lies apart");
    let sought = std::collections::BTreeSet::from([digest]);

    // The same content again, and before that record is on the disk the older one is erased.
    store.journal.hold();
    commit(&mut older, &large).await;
    content.doom([&digest]);
    assert!(
        content
            .remove_doomed(&sought, &nothing)
            .unwrap()
            .spared
            .contains(&digest)
    );
    assert!(content.contains(&digest));
    store.journal.release();
    older
        .journal()
        .durable()
        .wait_for(|durable| durable.upto >= older.last())
        .await
        .unwrap();
    assert!(
        !content
            .remove_doomed(&sought, &nothing)
            .unwrap()
            .spared
            .is_empty(),
        "it is held until its owner has heard that it is durable"
    );
    let last = older.last();
    older.released(last);
    content.remove_doomed(&sought, &sought).unwrap();
    assert!(content.contains(&digest));

    // An owner that ends holds nothing any more: what it appended is in the log, or never will be.
    commit(&mut older, &large).await;
    drop(older);
    content.doom([&digest]);
    assert_eq!(content.remove_doomed(&sought, &nothing).unwrap().files, 1);
}

/// Passes on what it hears of the journal.
struct Listener;

impl Actor for Listener {
    type Msg = News;
    type State = mpsc::UnboundedSender<JournalNews>;
    type Arguments = Self::State;

    async fn pre_start(
        &self,
        _me: ActorRef<News>,
        heard: Self::State,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _me: ActorRef<News>,
        News(news): News,
        heard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(heard.send(news)?)
    }
}

#[derive(Debug, RactorMessage)]
struct News(JournalNews);

#[tokio::test]
async fn an_owner_hears_only_of_syncs_that_it_waits_for() {
    let store = Store::new();
    let mut idle = load(&store).await.unwrap().unwrap();
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (listener, _join) = Actor::spawn(None, Listener, sender).await.unwrap();
    let open = store.cell.get().unwrap();
    let follower = follow_awaited(&open, listener, News);

    // Somebody else writes.
    let another = PartitionId::from_static("another");
    for seq in 0..50 {
        let record = mesh_messages::NewRecord {
            kind: "test".into(),
            kind_version: 1,
            agent: None,
            task: None,
            actor: "meshd".to_owned(),
            cause: None,
            after: None,
            correlation: None,
            payload: b"{}".to_vec(),
        };
        let appended = open.journal.append(&another, seq, vec![record]).unwrap();
        let mut durable = open.journal.durable();
        mesh_persistence::wait_durable(&mut durable, appended.last)
            .await
            .unwrap();
    }
    commit(&mut idle, "mine").await;
    let mine = idle.last().unwrap();
    follower.wait_for(Some(mine));
    assert_eq!(heard.recv().await.unwrap(), JournalNews::Durable(mine));
    // It is durable already, and is told so.
    follower.wait_for(Some(Position(0)));
    assert_eq!(heard.recv().await.unwrap(), JournalNews::Durable(mine));
    follower.wait_for(None);

    store.cell.close();
    let last = heard.recv().await.unwrap();
    assert!(matches!(last, JournalNews::Failed(_)), "{last:?}");
}

#[tokio::test]
async fn a_group_that_is_large_as_a_whole_lies_apart_and_is_read_again() {
    let store = Store::new();
    let mut owner = load(&store).await.unwrap().unwrap();
    let texts: Vec<_> = (0..300)
        .map(|nth| format!("{nth} {}", "x".repeat(16 * 1024)))
        .collect();
    let entries = texts.iter().map(|text| Entry {
        event: NodeEvent::Started {
            version: "1".to_owned(),
            run_id: text.clone(),
            after: None,
            clean: true,
            restored: None,
            cut: None,
            encryption: None,
        },
        agent: None,
        task: None,
        led: Led::default(),
    });
    let cause = Cause::meshd();
    let committed = owner.commit(entries.collect(), &cause, Vec::new());
    committed.await.unwrap();
    drop(owner);
    let owner = load(&store).await.unwrap().unwrap();
    assert_eq!(Some(&owner.state().run_id), texts.last());
}
