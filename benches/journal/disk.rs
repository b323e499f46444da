//! What the disk allows: the same bytes, appended and synced in the same batches.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_benches::Samples;

/// Where measurements are made: on the disk, since a temporary directory may be memory.
pub(crate) fn dir() -> io::Result<tempfile::TempDir> {
    let told = std::env::var_os("MESH_BENCH_DIR").map(PathBuf::from);
    tempfile::tempdir_in(told.unwrap_or_else(std::env::temp_dir))
}

/// How the file was before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before {
    /// Empty: each sync also writes down that it has grown.
    Empty,
    /// As long as it will ever be, and zeros.
    Written,
}

/// Appends batches of these sizes and syncs each; how long all of it took, and each.
pub(crate) fn append(
    dir: &Path,
    before: Before,
    batches: &[usize],
) -> io::Result<(Duration, Samples)> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("limit"))?;
    let longest = batches.iter().copied().max().unwrap_or(0);
    // Not zeros: a disk may be clever about those.
    let bytes: Vec<u8> = (0..longest)
        .map(|n| u8::try_from(n % 251).unwrap_or(0) + 1)
        .collect();
    if let Before::Written = before {
        let zeros = vec![0; longest.max(1 << 20)];
        let (mut at, end) = (0, batches.iter().sum::<usize>() as u64);
        while at < end {
            file.write_all_at(&zeros, at)?;
            at += zeros.len() as u64;
        }
    }
    file.sync_all()?;
    let (mut at, mut samples) = (0, Samples::default());
    let begin = Instant::now();
    for &size in batches {
        let each = Instant::now();
        file.write_all_at(&bytes[..size], at)?;
        file.sync_data()?;
        at += size as u64;
        samples.push(each.elapsed());
    }
    Ok((begin.elapsed(), samples))
}

/// The faster of both ways: what cannot be beaten.
pub(crate) fn limit(dir: &Path, batches: &[usize]) -> io::Result<Duration> {
    let (grown, _) = append(dir, Before::Empty, batches)?;
    let (written, _) = append(dir, Before::Written, batches)?;
    Ok(grown.min(written))
}
