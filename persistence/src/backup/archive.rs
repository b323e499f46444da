//! The archive's bytes: a tar with a digest over all that comes before its last entry.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::rc::Rc;

use super::{BackupError, MODE, SUM, Source};

/// Bytes of a tar block: headers are one, contents are padded to a multiple of it.
pub(super) const BLOCK: usize = 512;
/// Largest description: a checkpoint and a few numbers.
pub(super) const ABOUT_BYTES_MAX: u64 = 64 * 1024;

/// Writes entries, and keeps their digest.
pub(super) struct Writer<'a> {
    tar: tar::Builder<Summed<'a>>,
}

/// Hands bytes on and digests them.
struct Summed<'a> {
    out: &'a mut dyn Write,
    digest: blake3::Hasher,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.digest.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        let digest = blake3::Hasher::new();
        Self {
            tar: tar::Builder::new(Summed { out, digest }),
        }
    }

    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = header(bytes.len() as u64, MODE);
        self.tar.append_data(&mut header, name, bytes)
    }

    pub(super) fn file(&mut self, source: &Source) -> Result<(), BackupError> {
        let failed = |error: io::Error| BackupError::Read {
            path: source.path.clone(),
            source: error,
        };
        let mut exact = Exact {
            file: File::open(&source.path).map_err(failed)?.take(source.len),
            left: source.len,
            failed: None,
        };
        let mut header = header(source.len, source.mode);
        let written = self.tar.append_data(&mut header, &source.name, &mut exact);
        match exact.failed {
            Some(error) => Err(failed(error)),
            None => Ok(written?),
        }
    }

    /// Writes the digest, and the end of the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let sum = sum_text(&self.tar.get_ref().digest);
        self.bytes(SUM, &sum)?;
        self.tar.into_inner()?.flush()
    }
}

/// One entry by itself, without the end of an archive.
pub(super) fn write_entry(out: &mut dyn Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(bytes.len() as u64, MODE);
    header.set_path(name)?;
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    out.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
    out.write_all(&[0; BLOCK][..padding])
}

fn header(len: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(len);
    header.set_mode(mode);
    // The same files make the same archive.
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

/// The content of the last entry: exactly a block, so that no bit of it goes unchecked as padding.
fn sum_text(digest: &blake3::Hasher) -> Vec<u8> {
    let mut text = digest.finalize().to_hex().as_bytes().to_vec();
    text.resize(BLOCK, b'\n');
    text
}

/// A file that must not end early: the archive states its length already.
struct Exact {
    file: io::Take<File>,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.file.read(buffer) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            read => read,
        };
        match read {
            Ok(len) => {
                self.left -= len as u64;
                Ok(len)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Reads a stream and digests what lies more than a block behind: when an entry is found, all that came before its header.
///
/// Clones share what was read, because an archive does not give its reader back while entries are taken from it.
pub(super) struct Behind<R>(Rc<RefCell<Passed<R>>>);

struct Passed<R> {
    inner: R,
    digest: blake3::Hasher,
    /// Bytes that were read.
    read: u64,
    /// What was read last, at most a block.
    last: Vec<u8>,
}

impl<R> Clone for Behind<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R: Read> Behind<R> {
    pub(super) fn new(inner: R) -> Self {
        Self(Rc::new(RefCell::new(Passed {
            inner,
            digest: blake3::Hasher::new(),
            read: 0,
            last: Vec::with_capacity(BLOCK),
        })))
    }

    /// Forgets what came before the header that was read last.
    pub(super) fn begin(&self) {
        self.0.borrow_mut().digest.reset();
    }

    /// How many bytes were read.
    pub(super) fn position(&self) -> u64 {
        self.0.borrow().read
    }

    /// What the last entry must hold: the digest of everything since [`begin`](Self::begin), without the header that was
    /// read last.
    pub(super) fn sum(&self) -> Vec<u8> {
        sum_text(&self.0.borrow().digest)
    }
}

impl<R: Read> Read for Behind<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut passed = self.0.borrow_mut();
        let len = passed.inner.read(buffer)?;
        passed.read += len as u64;
        passed.last.extend_from_slice(&buffer[..len]);
        let behind = passed.last.len().saturating_sub(BLOCK);
        let behind: Vec<u8> = passed.last.drain(..behind).collect();
        passed.digest.update(&behind);
        Ok(len)
    }
}

/// Reads what is left, which must be zeros; a few more than the end of an archive are enough to see that it is not.
pub(super) fn is_zeros(rest: impl Read) -> io::Result<bool> {
    let mut end = Vec::new();
    rest.take(4 * BLOCK as u64).read_to_end(&mut end)?;
    Ok(end.iter().all(|&byte| byte == 0))
}
