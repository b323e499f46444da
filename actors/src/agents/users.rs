//! Which users of the range are given out next.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::spawn::write_kept;

/// The user that the next new home gets, below the data directory.
const NEXT_UID: &str = "home/next-uid";

/// Where the range goes on. An agent may have left files where it was granted to write, which stay its user's when its
/// home is gone; so a user is given again only when all others have been.
pub(super) fn next_uid(data: &Path, range: &std::ops::Range<u32>, taken: &BTreeSet<u32>) -> u32 {
    let kept = std::fs::read_to_string(data.join(NEXT_UID));
    let kept = kept.ok().and_then(|text| text.trim().parse::<u32>().ok());
    let beyond = taken.range(range.clone()).next_back().map(|last| last + 1);
    let next = kept.or(beyond).unwrap_or_else(|| place_of(data, range));
    if range.contains(&next) {
        next
    } else {
        range.start
    }
}

/// Where a data directory begins in the range: each elsewhere, so that several of one host rarely meet.
fn place_of(data: &Path, range: &std::ops::Range<u32>) -> u32 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    data.canonicalize()
        .unwrap_or_else(|_| data.to_owned())
        .hash(&mut hasher);
    if let Ok(meta) = std::fs::metadata(data) {
        (meta.dev(), meta.ino()).hash(&mut hasher);
    }
    let count = u64::from(range.end.saturating_sub(range.start)).max(1);
    range.start + u32::try_from(hasher.finish() % count).unwrap_or(0)
}

/// Users of the range as whom processes of this host run just now.
pub(super) fn users_at_work(range: &std::ops::Range<u32>) -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let owners = processes.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
    });
    let owners = owners.filter_map(|entry| Some(entry.metadata().ok()?.uid()));
    owners.filter(|uid| range.contains(uid)).collect()
}

pub(super) fn write_next_uid(data: &Path, next: u32) -> std::io::Result<()> {
    write_kept(&data.join(NEXT_UID), next.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_given_again_only_when_all_others_have_been() {
        let dir = tempfile::tempdir().unwrap();
        let (range, none) = (100..104, BTreeSet::new());
        let begin = next_uid(dir.path(), &range, &none);
        assert!(range.contains(&begin) && next_uid(dir.path(), &range, &none) == begin);
        // A directory of an earlier version has homes and no note.
        assert_eq!(
            next_uid(dir.path(), &range, &BTreeSet::from([100, 102])),
            103
        );
        write_next_uid(dir.path(), 102).unwrap();
        assert_eq!(next_uid(dir.path(), &range, &none), 102);
        for beyond in [104, 7] {
            write_next_uid(dir.path(), beyond).unwrap();
            assert_eq!(next_uid(dir.path(), &range, &none), 100);
        }
    }

    #[test]
    fn directories_of_one_host_begin_at_different_places() {
        let places: BTreeSet<u32> = (0..20)
            .map(|_| place_of(tempfile::tempdir().unwrap().path(), &(700_000..1_600_000)))
            .collect();
        assert!(places.len() > 15, "{places:?}");
    }

    #[test]
    fn users_of_processes_are_seen() {
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(users_at_work(&(own..own + 1)), BTreeSet::from([own]));
        assert!(users_at_work(&(4_000_000_000..4_000_000_001)).is_empty());
    }
}
