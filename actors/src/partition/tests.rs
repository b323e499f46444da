//! What an owner finds that comes after another one.

use mesh_messages::events::{NodeEvent, partition};

use super::*;
use crate::health::NodeState;
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
    };
    let entry = Entry {
        event,
        agent: None,
        task: None,
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
