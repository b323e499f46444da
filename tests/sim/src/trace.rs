//! What happened, line by line: hashed always, printed when somebody wants to read it.

use std::fmt::{Arguments, Write as _};

/// The trace of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: blake3::Hasher,
    line: String,
    lines: u64,
    print: Option<fn(&str)>,
}

impl Trace {
    /// An empty one; `print` is handed each line.
    pub(crate) fn new(print: Option<fn(&str)>) -> Self {
        Self {
            hash: blake3::Hasher::new(),
            line: String::new(),
            lines: 0,
            print,
        }
    }

    /// Notes that something happened.
    pub(crate) fn note(&mut self, now: u64, what: Arguments<'_>) {
        self.line.clear();
        // Writing to a string cannot fail.
        let _never_fails = write!(self.line, "{:>9}.{:03} {what}", now / 1000, now % 1000);
        self.hash.update(self.line.as_bytes());
        self.hash.update(b"\n");
        self.lines += 1;
        if let Some(print) = self.print {
            print(&self.line);
        }
    }

    /// How many lines there were.
    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }

    /// Stands for every byte of it.
    pub(crate) fn digest(&self) -> String {
        self.hash.finalize().to_hex().to_string()
    }
}
