//! What the tests of the shells share: a store on a journal in memory, and waiting for states.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_messages::identity::SigningKey;
use mesh_messages::{PartitionId, Record};
use mesh_persistence::{ContentStore, Journal, MemoryJournal, ProjectionStore};

use crate::clock;
use crate::store::{OpenStore, StoreCell};

/// Longer than anything takes that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A store whose journal can be held, failed and opened again.
pub(crate) struct Store {
    pub(crate) cell: StoreCell,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) dir: tempfile::TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        let key = SigningKey::from_secret(&[7; 32]);
        let store = Self {
            cell: StoreCell::default(),
            journal: Arc::new(MemoryJournal::new(key, Arc::new(clock::now))),
            dir: tempfile::tempdir().unwrap(),
        };
        store.open();
        store
    }

    /// What is left after a failure of the journal: what was durable.
    pub(crate) fn reopen(&mut self) {
        self.journal = Arc::new(self.journal.reopen());
        self.open();
    }

    fn open(&self) {
        let dir = |name: &str| self.dir.path().join(name);
        let make = |path: &Path| std::fs::create_dir_all(path).unwrap();
        make(&dir("content"));
        let journal: Arc<dyn Journal> = Arc::clone(&self.journal) as Arc<dyn Journal>;
        let projections = ProjectionStore::open(&dir("views"), 1, journal.log_id(), 0).unwrap();
        let content = ContentStore::open(&dir("content")).unwrap();
        let store = OpenStore::new(journal, Arc::new(content), Arc::new(projections));
        self.cell.open(Arc::new(store));
    }

    /// The durable records of a partition.
    pub(crate) fn records(&self, partition: &PartitionId) -> Vec<Record> {
        let records = self
            .journal
            .read_partition(partition, mesh_messages::Position(0))
            .unwrap();
        records.map(Result::unwrap).collect()
    }

    /// Their kinds.
    pub(crate) fn kinds(&self, partition: &PartitionId) -> Vec<String> {
        self.records(partition)
            .iter()
            .map(|r| r.header.kind.to_string())
            .collect()
    }
}

/// Waits until a state is reached.
#[track_caller]
pub(crate) fn until(
    what: &'static str,
    mut reached: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(came.is_ok(), "{what} did not come ({place})");
    }
}
