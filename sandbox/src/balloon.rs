//! Memory that is eaten at a sandbox's cost, to see what becomes of the sandbox then.

use std::io::{self, Read, Write};
use std::process;
use std::time::Duration;

use crate::cgroup::wait_readable;
use crate::child::ChildHandle;

/// An order is how many bytes to hold; so is the answer.
pub(crate) const ORDER_BYTES: usize = 8;
/// Written at once.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Longest time until a balloon says how much it holds: the kernel may have to end somebody first.
const FILLED_MAX: Duration = Duration::from_secs(20);

/// Memory held at a sandbox's cost. Dropping it gives it back.
#[derive(Debug)]
pub struct Balloon {
    process: process::Child,
    held: Option<u64>,
}

impl ChildHandle {
    /// Eats memory in the sandbox's control group, until `bytes` are held or the group is full. Blocks until then.
    ///
    /// What the kernel does about a full group is what it would do had the agent eaten it: as a rule it ends the agent.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] when no control group holds the sandbox's memory; any other kind when the process
    /// that eats cannot be started, or the sandbox is gone.
    pub fn eat_memory(&self, bytes: u64) -> io::Result<Balloon> {
        let mut balloon = Balloon {
            process: self.launcher().balloon()?,
            held: None,
        };
        // Before it has its order: so not a byte of it is charged to meshd.
        if !self.group().charge(balloon.process.id())? {
            let why = "no control group holds its memory";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        if let Some(stdin) = &mut balloon.process.stdin {
            stdin.write_all(&bytes.to_le_bytes())?;
        }
        if let Some(stdout) = &mut balloon.process.stdout
            && wait_readable(&*stdout, Some(FILLED_MAX))?
        {
            let mut told = [0; ORDER_BYTES];
            // The end of the pipe in place of an answer: it was ended, and holds nothing.
            let answered = stdout.read_exact(&mut told).is_ok();
            balloon.held = answered.then(|| u64::from_le_bytes(told));
        }
        Ok(balloon)
    }
}

impl Balloon {
    /// How much it held when it was full; `None` when the kernel ended it before.
    #[must_use]
    pub const fn held(&self) -> Option<u64> {
        self.held
    }

    /// Holds it for so long, or until it is ended with the sandbox. Blocks.
    pub fn hold(self, time: Duration) {
        if let Some(stdout) = &self.process.stdout {
            // It says nothing more, so readable is its end; a failed wait only lets go early.
            wait_readable(stdout, Some(time)).ok();
        }
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        // It may have been ended already, and has to be reaped all the same: else its group stays.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
