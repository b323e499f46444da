//! Content too large for a record, addressed by its BLAKE3 digest.
//!
//! A file is written aside, synced and renamed, so whatever has its final name is complete; it is checked against its name
//! whenever it is read.
//!
//! Content is stored before the record that refers to it is in the log, and the same content may be removed at that moment
//! because an older record is erased. Whoever stores it gets a [`ContentHold`], and what is held is not removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fsio;

/// How much is copied at once.
const CHUNK: usize = 64 * 1024;
/// Files that are removed while others who store something wait: a millisecond's work.
const REMOVED_AT_ONCE: usize = 32;

/// Most content that is held in memory at once; larger content is streamed.
pub const CONTENT_IN_MEMORY_MAX: u64 = 64 * 1024 * 1024;

/// The BLAKE3 digest of some content: its address. As text, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentDigest({self})")
    }
}

/// A text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 lower-case hex digits")]
pub struct InvalidDigest;

impl FromStr for ContentDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidDigest);
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| InvalidDigest)?;
        Ok(Self(digest))
    }
}

/// Why content was not stored or not returned. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A reference to content does not parse.
    #[error("not a content digest")]
    Digest(#[from] InvalidDigest),
    /// There is more of it than allowed. Refuse it, or use the methods that stream.
    #[error("content exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// There is no such content.
    #[error("no content {0}")]
    Missing(ContentDigest),
    /// What is stored is not what was stored. Put it again, or restore it from a copy.
    #[error("content {0} is damaged")]
    Damaged(ContentDigest),
    /// The source could not be read.
    #[error("failed to read the content to store")]
    Source(#[source] io::Error),
    /// It could not be written. A full disk is told by the source's kind; retry later.
    #[error("failed to write content to {path}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be read.
    #[error("failed to read content {digest}")]
    Read {
        /// Which.
        digest: ContentDigest,
        /// Why.
        source: io::Error,
    },
}

/// Files by digest: `<dir>/ab/cdef…`.
#[derive(Debug, Clone)]
pub struct ContentStore {
    dir: PathBuf,
    aside: PathBuf,
    claims: Arc<Mutex<Claims>>,
}

/// Who wants what of the content.
#[derive(Debug, Default)]
struct Claims {
    /// What is about to be removed, and whether somebody may refer to it whom a look through the log did not show yet.
    doomed: BTreeMap<ContentDigest, bool>,
    /// How many hold what.
    held: BTreeMap<ContentDigest, usize>,
}

impl Claims {
    fn is_held(&self, digest: &ContentDigest) -> bool {
        self.held.contains_key(digest)
    }

    fn hold(&mut self, digest: ContentDigest) {
        if let Some(wanted) = self.doomed.get_mut(&digest) {
            *wanted = true;
        }
        *self.held.entry(digest).or_default() += 1;
    }

    fn release(&mut self, digest: &ContentDigest) {
        if let Some(holders) = self.held.get_mut(digest) {
            *holders -= 1;
            if *holders == 0 {
                self.held.remove(digest);
            }
        }
    }
}

/// Keeps some content from being removed, until it is dropped: from before it is stored until the record that refers to it
/// is durable, or will never be.
#[must_use = "content is held only for as long as this lives"]
pub struct ContentHold {
    digest: ContentDigest,
    claims: Arc<Mutex<Claims>>,
}

impl ContentHold {
    /// What is held.
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }
}

impl fmt::Debug for ContentHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContentHold").field(&self.digest).finish()
    }
}

impl Drop for ContentHold {
    fn drop(&mut self) {
        locked(&self.claims).release(&self.digest);
    }
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// How many files are gone.
    pub files: u64,
    /// What was spared because somebody held it, or had stored it since it was doomed. It stays doomed: look again whether
    /// anything refers to it.
    pub spared: BTreeSet<ContentDigest>,
}

fn locked(claims: &Mutex<Claims>) -> MutexGuard<'_, Claims> {
    // Each change is a single one, so a panic elsewhere leaves nothing half done.
    claims.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ContentStore {
    /// Opens the store in `dir`; makes an empty one when there is none.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let aside = dir.join("aside");
        fsio::create_dir(&aside)?;
        // What is there was being written when meshd ended.
        for entry in fs::read_dir(&aside)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            aside,
            claims: Arc::default(),
        })
    }

    /// Stores some bytes durably, at most [`CONTENT_IN_MEMORY_MAX`] of them. The same content is stored once.
    ///
    /// It is there for as long as the answer is held, whatever is removed meanwhile, and from then on if a durable record
    /// refers to it.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn put(&self, bytes: &[u8]) -> Result<ContentHold, ContentError> {
        self.put_stream(bytes, CONTENT_IN_MEMORY_MAX)
    }

    /// Stores what `source` yields, at most `limit` bytes of it, durably. The same content is stored once, and held as by
    /// [`put`](Self::put).
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn put_stream(
        &self,
        mut source: impl Read,
        limit: u64,
    ) -> Result<ContentHold, ContentError> {
        let write = |source| ContentError::Write {
            path: self.aside.display().to_string(),
            source,
        };
        let mut aside = tempfile::NamedTempFile::new_in(&self.aside).map_err(write)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            let len = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(ContentError::Source(e)),
            };
            size += len as u64;
            if size > limit {
                return Err(ContentError::TooLarge { limit });
            }
            hasher.update(&buffer[..len]);
            aside.write_all(&buffer[..len]).map_err(write)?;
        }
        let digest = ContentDigest(*hasher.finalize().as_bytes());
        // Held before it is looked for: either it is kept for this, or it is gone and stored anew.
        let hold = self.hold(digest);
        // A damaged copy is replaced.
        if self
            .hash_of(&digest)
            .is_ok_and(|stored| stored == Some(digest))
        {
            // Whoever stored it may have been interrupted before its name was durable.
            let path = self.path(&digest);
            let dir = path.parent().unwrap_or(&self.dir);
            let named = fsio::sync_dir(dir).and_then(|()| fsio::sync_dir(&self.dir));
            return named.map(|()| hold).map_err(|source| ContentError::Write {
                path: path.display().to_string(),
                source,
            });
        }
        aside.as_file().sync_all().map_err(write)?;
        let path = self.path(&digest);
        let name = || -> io::Result<()> {
            let dir = path.parent().unwrap_or(&self.dir);
            fsio::create_dir(dir)?;
            aside.persist(&path).map_err(|e| e.error)?;
            fsio::sync_dir(dir)
        };
        name().map_err(|source| ContentError::Write {
            path: path.display().to_string(),
            source,
        })?;
        Ok(hold)
    }

    /// All of some content, checked, if it has at most [`CONTENT_IN_MEMORY_MAX`] bytes.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn get(&self, digest: &ContentDigest) -> Result<Vec<u8>, ContentError> {
        let file = self.file(digest)?;
        let mut bytes = Vec::new();
        file.take(CONTENT_IN_MEMORY_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ContentError::Read {
                digest: *digest,
                source,
            })?;
        if bytes.len() as u64 > CONTENT_IN_MEMORY_MAX {
            return Err(ContentError::TooLarge {
                limit: CONTENT_IN_MEMORY_MAX,
            });
        }
        if *blake3::hash(&bytes).as_bytes() != digest.0 {
            return Err(ContentError::Damaged(*digest));
        }
        Ok(bytes)
    }

    /// A file with some content of any size, checked before it is returned, to read from its beginning.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn open_checked(&self, digest: &ContentDigest) -> Result<File, ContentError> {
        let failed = |source| ContentError::Read {
            digest: *digest,
            source,
        };
        if self.hash_of(digest).map_err(failed)? == Some(*digest) {
            self.file(digest)
        } else if self.contains(digest) {
            Err(ContentError::Damaged(*digest))
        } else {
            Err(ContentError::Missing(*digest))
        }
    }

    /// Remembers that this content is to go. [`remove_doomed`](Self::remove_doomed) spares what is held now or stored again
    /// from here on: whoever does that is about to refer to it. Idempotent; whether any of it was not doomed before.
    pub fn doom<'a>(&self, digests: impl IntoIterator<Item = &'a ContentDigest>) -> bool {
        let mut claims = self.claims();
        let mut new = false;
        for digest in digests {
            let held = claims.is_held(digest);
            new |= !claims.doomed.contains_key(digest);
            claims
                .doomed
                .entry(*digest)
                .and_modify(|wanted| *wanted |= held)
                .or_insert(held);
        }
        new
    }

    /// Removes what is doomed of `sought`, that `referred` does not name and that nobody held or stored since it was
    /// doomed. `referred` has to name all of `sought` that durable records refer to, as of a moment after it was doomed.
    ///
    /// When this answers that is durable, and of `sought` only what it spared is doomed any more; what else is doomed stays
    /// so. After an error all of it still is.
    ///
    /// # Errors
    /// [`ContentError::Write`].
    pub fn remove_doomed(
        &self,
        sought: &BTreeSet<ContentDigest>,
        referred: &BTreeSet<ContentDigest>,
    ) -> Result<Removal, ContentError> {
        let candidates: Vec<ContentDigest> = {
            let claims = self.claims();
            let gone = sought
                .difference(referred)
                .filter(|digest| claims.doomed.contains_key(digest));
            gone.copied().collect()
        };
        let mut files = 0;
        let mut dirs = BTreeSet::new();
        for some in candidates.chunks(REMOVED_AT_ONCE) {
            // Kept for a few at a time: who stores the same content waits, and then finds it gone.
            let claims = self.claims();
            for digest in some
                .iter()
                .filter(|digest| claims.doomed.get(digest) == Some(&false))
            {
                files += u64::from(self.unlink(digest)?);
                // Also of what an interrupted removal took away before.
                dirs.extend(self.path(digest).parent().map(Path::to_owned));
            }
        }
        for dir in dirs.into_iter().filter(|dir| dir.exists()) {
            fsio::sync_dir(&dir).map_err(|source| ContentError::Write {
                path: dir.display().to_string(),
                source,
            })?;
        }
        let mut claims = self.claims();
        // What was stored again after its file was taken away is among them; the next look finds what refers to it.
        let spared: BTreeSet<ContentDigest> = candidates
            .into_iter()
            .filter(|digest| claims.doomed.get(digest) == Some(&true))
            .collect();
        for digest in sought {
            claims.doomed.remove(digest);
        }
        for digest in &spared {
            let held = claims.is_held(digest);
            claims.doomed.insert(*digest, held);
        }
        drop(claims);
        Ok(Removal { files, spared })
    }

    /// Takes a file away, if it is there; whether it was.
    fn unlink(&self, digest: &ContentDigest) -> Result<bool, ContentError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ContentError::Write {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    fn hold(&self, digest: ContentDigest) -> ContentHold {
        self.claims().hold(digest);
        ContentHold {
            digest,
            claims: Arc::clone(&self.claims),
        }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        locked(&self.claims)
    }

    /// Removes some content for ever, if it is there; answers when that is durable. That nothing refers to it any more is for
    /// the caller to know.
    ///
    /// # Errors
    /// [`ContentError::Write`].
    pub fn remove(&self, digest: &ContentDigest) -> Result<(), ContentError> {
        let path = self.path(digest);
        let removed = match fs::remove_file(&path) {
            Ok(()) => path
                .parent()
                .map_or(Ok(()), |dir| File::open(dir)?.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|source| ContentError::Write {
            path: path.display().to_string(),
            source,
        })
    }

    fn file(&self, digest: &ContentDigest) -> Result<File, ContentError> {
        File::open(self.path(digest)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::Missing(*digest),
            _ => ContentError::Read {
                digest: *digest,
                source,
            },
        })
    }

    /// Whether there is such content. Its bytes are checked when they are read, not here.
    pub fn contains(&self, digest: &ContentDigest) -> bool {
        self.path(digest).is_file()
    }

    /// Digest of what is stored under a digest.
    fn hash_of(&self, digest: &ContentDigest) -> io::Result<Option<ContentDigest>> {
        let mut file = match File::open(self.path(digest)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file)?;
        Ok(Some(ContentDigest(*hasher.finalize().as_bytes())))
    }

    fn path(&self, digest: &ContentDigest) -> PathBuf {
        let text = digest.to_string();
        let (shard, rest) = text.split_at(2);
        self.dir.join(shard).join(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("content")).unwrap();
        (dir, store)
    }

    /// Stores something that nobody holds.
    fn stored(store: &ContentStore, bytes: &[u8]) -> ContentDigest {
        store.put(bytes).unwrap().digest()
    }

    fn removed(files: u64, spared: &[ContentDigest]) -> Removal {
        let spared = spared.iter().copied().collect();
        Removal { files, spared }
    }

    #[test]
    fn content_is_found_under_its_digest_and_stored_once() {
        let (_dir, store) = store();
        let bytes = vec![7; 3 * CHUNK + 1];
        let digest = stored(&store, &bytes);
        assert_eq!(digest.0, *blake3::hash(&bytes).as_bytes());
        assert_eq!(stored(&store, &bytes), digest);
        assert!(store.contains(&digest));
        assert_eq!(store.get(&digest).unwrap(), bytes);
        let mut streamed = Vec::new();
        store
            .open_checked(&digest)
            .unwrap()
            .read_to_end(&mut streamed)
            .unwrap();
        assert_eq!(streamed, bytes);
        assert_eq!(fs::read_dir(&store.aside).unwrap().count(), 0);
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn too_large_content_leaves_nothing_behind() {
        let (_dir, store) = store();
        let error = store.put_stream([1; 11].as_slice(), 10).unwrap_err();
        assert!(matches!(error, ContentError::TooLarge { limit: 10 }));
        assert_eq!(fs::read_dir(&store.aside).unwrap().count(), 0);
        assert!(store.put_stream([1; 10].as_slice(), 10).is_ok());
    }

    #[test]
    fn damage_is_told_and_mended_by_storing_again() {
        let (_dir, store) = store();
        let digest = stored(&store, b"hello");
        fs::write(store.path(&digest), b"hellp").unwrap();
        assert!(matches!(store.get(&digest), Err(ContentError::Damaged(_))));
        assert!(matches!(
            store.open_checked(&digest),
            Err(ContentError::Damaged(_))
        ));
        assert_eq!(stored(&store, b"hello"), digest);
        assert_eq!(store.get(&digest).unwrap(), b"hello");
        assert!(matches!(
            store.get(&ContentDigest([0; 32])),
            Err(ContentError::Missing(_))
        ));
    }

    #[test]
    fn doomed_content_goes_unless_it_is_referred_to_or_stored_again() {
        let (_dir, store) = store();
        let all = ["gone", "shared", "again"].map(|text| stored(&store, text.as_bytes()));
        store.doom(&all);
        // Another handle of the same store; dooming twice forgets nothing.
        let other = store.clone();
        stored(&other, b"again");
        store.doom(&all);
        let (sought, referred) = (BTreeSet::from(all), BTreeSet::from([all[1]]));
        assert_eq!(
            store.remove_doomed(&sought, &referred).unwrap(),
            removed(1, &all[2..])
        );
        let left: Vec<_> = all.iter().map(|digest| store.contains(digest)).collect();
        assert_eq!(left, [false, true, true]);
        // Whoever stored it again never referred to it, and the next look shows that.
        assert_eq!(
            store.remove_doomed(&sought, &BTreeSet::new()).unwrap(),
            removed(1, &[])
        );
        assert!(!store.contains(&all[2]) && store.contains(&all[1]));
        // Nothing is doomed any more, and what is gone can be stored anew.
        store.doom(&all[..1]);
        assert_eq!(
            store.remove_doomed(&sought, &BTreeSet::new()).unwrap(),
            removed(0, &[])
        );
        assert_eq!(stored(&store, b"gone"), all[0]);
        assert!(store.contains(&all[0]) && store.contains(&all[1]));
    }

    #[test]
    fn what_nobody_looked_for_stays_and_stays_doomed() {
        let (_dir, store) = store();
        let all = ["sought", "other"].map(|text| stored(&store, text.as_bytes()));
        store.doom(&all);
        let nothing = BTreeSet::new();
        let sought = BTreeSet::from([all[0]]);
        assert_eq!(
            store.remove_doomed(&sought, &nothing).unwrap(),
            removed(1, &[])
        );
        assert!(!store.contains(&all[0]) && store.contains(&all[1]));
        assert!(!store.doom(&all[1..]), "it was doomed before");
        let sought = BTreeSet::from([all[1]]);
        assert_eq!(
            store.remove_doomed(&sought, &nothing).unwrap(),
            removed(1, &[])
        );
        assert!(!store.contains(&all[1]));
    }

    #[test]
    fn what_is_held_is_not_removed_however_long_it_was_stored_before() {
        let (_dir, store) = store();
        // Stored before anybody thought of removing it, and not in the log yet.
        let hold = store.put(b"same").unwrap();
        let another = store.put(b"same").unwrap();
        let digest = hold.digest();
        let (sought, nothing) = (BTreeSet::from([digest]), BTreeSet::new());
        store.doom([&digest]);
        for _ in 0..3 {
            assert_eq!(
                store.remove_doomed(&sought, &nothing).unwrap(),
                removed(0, &[digest])
            );
        }
        // Of two holders one is enough.
        drop(another);
        assert_eq!(
            store.remove_doomed(&sought, &nothing).unwrap(),
            removed(0, &[digest])
        );
        // It is let go of because the record is durable: the look that began before may not have seen that.
        drop(hold);
        assert_eq!(
            store.remove_doomed(&sought, &nothing).unwrap(),
            removed(0, &[digest])
        );
        assert_eq!(
            store.remove_doomed(&sought, &sought).unwrap(),
            removed(0, &[])
        );
        assert!(store.contains(&digest));
        // It is let go of because the record will never be.
        store.doom([&digest]);
        assert_eq!(
            store.remove_doomed(&sought, &nothing).unwrap(),
            removed(1, &[])
        );
        assert!(!store.contains(&digest));
    }

    #[test]
    fn content_is_there_for_whoever_stores_it_while_it_is_removed_again_and_again() {
        let (_dir, store) = store();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (store, stop) = (&store, &stop);
        std::thread::scope(|scope| {
            let digest = ContentDigest(*blake3::hash(b"same").as_bytes());
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    store.doom([&digest]);
                    let sought = BTreeSet::from([digest]);
                    store.remove_doomed(&sought, &BTreeSet::new()).unwrap();
                }
            });
            let holders: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        for _ in 0..200 {
                            let hold = store.put(b"same").unwrap();
                            std::thread::yield_now();
                            assert_eq!(store.get(&hold.digest()).unwrap(), b"same");
                        }
                    })
                })
                .collect();
            for holder in holders {
                holder.join().unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
