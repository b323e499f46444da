//! A backup that is taken while the log is written, and its way back; and every way in which it may be damaged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_messages::identity::SigningKey;
use mesh_messages::{PartitionId, Position};

use super::*;
use crate::content::ContentStore;
use crate::file::{FileJournal, FileJournalOptions, SEGMENT_BYTES_MIN};
use crate::journal::{AppendError, Journal};
use crate::testing::{clock, key, record};

const PARTITION: PartitionId = PartitionId::from_static("tasks/0");

struct Node {
    data: tempfile::TempDir,
    journal: Arc<FileJournal>,
    content: ContentStore,
}

impl Node {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self {
            journal: Arc::new(open(data.path())),
            content: ContentStore::open(&data.path().join(CONTENT_DIR)).unwrap(),
            data,
        }
    }

    /// Appends records until so many are durable.
    fn grow(&self, records: u64) {
        while self.journal.durable().borrow().size() < records {
            append(&self.journal);
        }
    }

    fn backup(&self) -> Vec<u8> {
        self.backup_with(VaultCopy::Without)
    }

    fn backup_with(&self, vault: VaultCopy) -> Vec<u8> {
        let (cut, mut out) = (self.journal.cut().unwrap(), Vec::new());
        backup(&cut, self.data.path(), vault, &mut out).unwrap();
        out
    }
}

fn open(data: &Path) -> FileJournal {
    let options = FileJournalOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
    };
    FileJournal::open(&data.join(JOURNAL_DIR), &options, key(), clock()).unwrap()
}

fn append(journal: &FileJournal) {
    let payload = format!("{:0>300}", journal.next_seq(&PARTITION));
    let seq = journal.next_seq(&PARTITION);
    match journal.append(&PARTITION, seq, vec![record("test", &payload)]) {
        Ok(_) | Err(AppendError::Busy { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// A directory to restore into, and what keeps it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("a/mesh");
    (root, data)
}

#[test]
fn a_backup_under_load_restores_to_exactly_what_its_checkpoint_covers() {
    let node = Node::new();
    let bundle = node.data.path().join("bundles/abc/bin");
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(bundle.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let digest = node.content.put(&vec![7; 100_000]).unwrap().digest();
    // Several segments, and never a moment's rest.
    node.grow(1500);
    let stop = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                append(&node.journal);
            }
        });
        let taken: Vec<Vec<u8>> = (0..5).map(|_| node.backup()).collect();
        stop.store(true, Ordering::Relaxed);
        taken
    });
    for bytes in taken {
        let about = about_backup(&bytes).unwrap();
        assert!(about.records >= 1500);
        let (_root, data) = place();
        let restored = restore(bytes.as_slice(), &data, Some(key())).unwrap();
        assert_eq!(restored.records, about.records);
        assert_eq!((restored.contents, restored.bundle_files), (1, 1));
        let journal = open(&data);
        assert_eq!(journal.durable().borrow().size(), restored.records);
        assert_eq!(journal.root(restored.records).unwrap(), restored.root);
        for position in [0, restored.records - 1] {
            let position = Position(position);
            assert_eq!(
                journal.get(position).unwrap(),
                node.journal.get(position).unwrap()
            );
        }
        // It goes on where it was cut.
        assert_eq!(journal.next_seq(&PARTITION), restored.records);
        append(&journal);
        let content = ContentStore::open(&data.join(CONTENT_DIR)).unwrap();
        assert_eq!(content.get(&digest).unwrap(), vec![7; 100_000]);
        let mode = |path: &str| fs::metadata(data.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("bundles/abc/bin/run"), 0o755);
        assert_eq!(mode("bundles/abc/bin"), 0o755);
        assert_eq!((mode("."), mode("node.key")), (0o700, 0o600));
    }
}

#[test]
fn what_was_erased_stays_erased_and_nothing_else_is() {
    let node = Node::new();
    node.grow(40);
    let cut = node.journal.cut().unwrap();
    node.grow(cut.checkpoint.size + 20);
    // After the cut: one of the records in the backup, and one that is not in it.
    node.journal
        .erase(&[Position(7), Position(cut.checkpoint.size + 3)])
        .unwrap();
    let mut bytes = Vec::new();
    backup(&cut, node.data.path(), VaultCopy::Without, &mut bytes).unwrap();
    let (_root, data) = place();
    let restored = restore(bytes.as_slice(), &data, Some(key())).unwrap();
    assert_eq!(restored.erased, 1);
    let journal = open(&data);
    assert_eq!(journal.get(Position(7)).unwrap().unwrap().body, None);
    // The log that was cut does not say so; whoever goes on with it has to.
    let unexplained = crate::unexplained_erasures(&journal).unwrap();
    assert_eq!(unexplained, [Position(7)]);
    crate::testing::doom(&journal, &[7]);
    while journal.durable().borrow().size() <= restored.records {
        std::thread::yield_now();
    }
    assert_eq!(crate::unexplained_erasures(&journal).unwrap(), []);
    while journal.durable().borrow().size() < restored.records + 10 {
        append(&journal);
    }
    let later = Position(restored.records + 3);
    assert!(journal.get(later).unwrap().unwrap().body.is_some());
}

#[test]
fn a_flipped_bit_anywhere_is_refused_and_leaves_nothing_behind() {
    let node = Node::new();
    drop(node.content.put(b"some content").unwrap());
    node.grow(3);
    let whole = node.backup();
    let (root, data) = place();
    let step = whole.len() / 400 + 1;
    for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let refused = restore(bytes.as_slice(), &data, Some(key()));
        assert!(refused.is_err(), "byte {at} of {}", whole.len());
        assert!(!data.exists());
    }
    restore(whole.as_slice(), &data, Some(key())).unwrap();
    let left = fs::read_dir(root.path().join("a")).unwrap().count();
    assert_eq!(left, 1, "only what was restored is there");
}

#[test]
fn a_cut_backup_is_refused_wherever_it_ends() {
    let node = Node::new();
    node.grow(3);
    let whole = node.backup();
    let (_root, data) = place();
    let lens = (0..whole.len()).step_by(337);
    for len in lens.chain([whole.len() - 512, whole.len() - 1]) {
        let refused = restore(&whole[..len], &data, Some(key()));
        assert!(
            matches!(refused, Err(RestoreError::Damaged(_))),
            "{len}: {refused:?}"
        );
    }
    let longer = [whole.as_slice(), &[0]].concat();
    restore(longer.as_slice(), &data, Some(key())).unwrap_err();
    assert!(!data.exists());
}

#[test]
fn the_key_must_be_the_logs_and_may_come_with_the_backup() {
    let node = Node::new();
    node.grow(3);
    let bytes = node.backup();
    let (_root, data) = place();
    assert!(matches!(
        restore(bytes.as_slice(), &data, None),
        Err(RestoreError::NoKey)
    ));
    let other = mesh_messages::identity::SigningKey::from_secret(&[8; 32]);
    assert!(matches!(
        restore(bytes.as_slice(), &data, Some(other)),
        Err(RestoreError::OtherKey { .. })
    ));
    let with = |secret: &[u8; 32]| {
        let mut with = Vec::new();
        write_key_entry(&hex::encode(secret), &mut with).unwrap();
        with.extend_from_slice(&bytes);
        with
    };
    assert!(matches!(
        restore(with(&[8; 32]).as_slice(), &data, None),
        Err(RestoreError::OtherKey { .. })
    ));
    let good = with(&[7; 32]);
    assert_eq!(about_backup(&good), about_backup(&bytes));
    restore(good.as_slice(), &data, None).unwrap();
    assert!(matches!(
        restore(good.as_slice(), &data, None),
        Err(RestoreError::NotEmpty(_))
    ));
}

#[test]
fn a_backup_of_a_newer_format_and_one_that_would_write_elsewhere_are_refused() {
    let (_root, data) = place();
    let mut newer = Vec::new();
    let mut archive = archive::Writer::new(&mut newer);
    archive.bytes(ABOUT, b"{\"format\": 99}").unwrap();
    archive.finish().unwrap();
    assert!(matches!(
        restore(newer.as_slice(), &data, Some(key())),
        Err(RestoreError::Newer { found: 99 })
    ));
    for name in ["token", "journal/log/../../x.seg", "content/x", "run/x/y"] {
        let about = format!(
            r#"{{"format":1,"log":"{}","records":0,"checkpoint":"","bytes":0}}"#,
            key().public()
        );
        let mut bytes = Vec::new();
        archive::write_entry(&mut bytes, ABOUT, about.as_bytes()).unwrap();
        // Written by hand: the library refuses to.
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        let refused = restore(bytes.as_slice(), &data, Some(key()));
        assert!(
            matches!(&refused, Err(RestoreError::Damaged(why)) if why.contains(name)),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn a_backup_goes_on_under_the_key_in_force_alone() {
    let node = Node::new();
    node.grow(20);
    let second = SigningKey::from_secret(&[8; 32]);
    node.journal.succeed(second.clone(), false).unwrap();
    node.grow(40);
    let bytes = node.backup();
    let about = about_backup(&bytes).unwrap();
    assert_eq!(
        (about.format, about.key),
        (BACKUP_FORMAT, Some(second.public()))
    );
    let dir = tempfile::tempdir().unwrap();
    let old = restore(&bytes[..], &dir.path().join("old"), Some(key())).unwrap_err();
    assert!(matches!(old, RestoreError::OtherKey { .. }), "{old}");
    assert!(!dir.path().join("old").exists());
    let data = dir.path().join("new");
    let restored = restore(&bytes[..], &data, Some(second.clone())).unwrap();
    assert_eq!(
        (restored.log, restored.key),
        (key().public().to_string(), second.public())
    );
    let options = FileJournalOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
    };
    let journal = FileJournal::open(&data.join(JOURNAL_DIR), &options, second, clock()).unwrap();
    assert_eq!(journal.signer().keys(), node.journal.signer().keys());
    append(&journal);
}

#[test]
fn the_vault_is_in_it_only_when_asked_for_and_is_covered_by_its_digest() {
    let node = Node::new();
    node.grow(3);
    let sealed = b"meshd-vault/1 and what nobody can read";
    let (_none, place_without) = place();
    assert!(
        !about_backup(&node.backup_with(VaultCopy::With))
            .unwrap()
            .vault
    );
    fs::create_dir(node.data.path().join(VAULT_DIR)).unwrap();
    fs::write(node.data.path().join("secrets/vault"), sealed).unwrap();
    fs::write(node.data.path().join("vault.key"), "never").unwrap();

    let without = node.backup();
    let restored = restore(without.as_slice(), &place_without, Some(key())).unwrap();
    assert!(!restored.vault && !place_without.join("secrets").exists());

    let with = node.backup_with(VaultCopy::With);
    let about = about_backup(&with).unwrap();
    assert_eq!((about.vault, about.format), (true, FORMAT_VAULT));
    let (_some, data) = place();
    assert!(restore(with.as_slice(), &data, Some(key())).unwrap().vault);
    let vault = data.join("secrets/vault");
    assert_eq!(fs::read(&vault).unwrap(), sealed);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&vault), mode(&data.join("secrets"))), (0o600, 0o700));
    assert!(!data.join("vault.key").exists());

    let mut damaged = with.clone();
    let at = damaged
        .windows(sealed.len())
        .position(|part| part == sealed);
    damaged[at.unwrap() + 20] ^= 1;
    let (_other, data) = place();
    assert!(matches!(
        restore(damaged.as_slice(), &data, Some(key())),
        Err(RestoreError::Damaged(_))
    ));
    assert!(!data.exists());
}
