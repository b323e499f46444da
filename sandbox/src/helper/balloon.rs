//! A process that holds memory at somebody else's cost.
//!
//! It is told how much only after it was moved into the group that pays, so that nothing is charged to meshd's. The memory
//! is a file in memory that is written and never mapped: it counts against the group, and not among what the kernel
//! looks at when it chooses whom to end. Whoever caused the pressure must not be the first to be relieved.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Pid;

use super::die_with;
use crate::balloon::{CHUNK_BYTES, ORDER_BYTES};

/// Makes the kernel spare this process when the group is full.
const SPARED: &[u8] = b"-1000";

pub(super) fn run(launcher: Pid) -> i32 {
    i32::from(hold(launcher).is_err())
}

fn hold(launcher: Pid) -> io::Result<()> {
    die_with(launcher)?;
    let mut order = [0; ORDER_BYTES];
    io::stdin().read_exact(&mut order)?;
    let wanted = u64::from_le_bytes(order);
    // Refused without privilege; then this process may be the one that the kernel ends, which is told as it is.
    drop(std::fs::write("/proc/self/oom_score_adj", SPARED));
    let mut memory = File::from(memfd_create("meshd-balloon", MemfdFlags::CLOEXEC)?);
    let chunk = vec![0xa5; CHUNK_BYTES];
    let mut held = 0;
    while held < wanted {
        let next = usize::try_from(wanted - held).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        match memory.write(&chunk[..next]) {
            Ok(0) => break,
            Ok(written) => held += written as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The group is full, and nobody in it could be ended.
            Err(_) => break,
        }
    }
    io::stdout().write_all(&held.to_le_bytes())?;
    io::stdout().flush()?;
    // Held until whoever asked for it lets go.
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}
