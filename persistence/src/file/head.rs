//! Reads the head of a segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::layout::{HEAD_FIXED, HeadError, SegmentHead};

/// Reads and checks the head of the segment file at `path`; returns it with its length.
pub(crate) fn read_head(path: &Path) -> Result<(SegmentHead, u64), ReadHeadError> {
    let io = ReadHeadError::Io;
    let file = File::open(path).map_err(io)?;
    let mut fixed = [0; HEAD_FIXED];
    match file.read_exact_at(&mut fixed, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadHeadError::Short),
        Err(e) => return Err(ReadHeadError::Io(e)),
    }
    let len = SegmentHead::len_of(&fixed).map_err(ReadHeadError::Head)?;
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadHeadError::Short),
        Err(e) => return Err(ReadHeadError::Io(e)),
    }
    let head = SegmentHead::decode(&bytes).map_err(ReadHeadError::Head)?;
    Ok((head, len as u64))
}

/// Why a segment's head could not be read.
#[derive(Debug)]
pub(crate) enum ReadHeadError {
    Io(io::Error),
    Short,
    Head(HeadError),
}
