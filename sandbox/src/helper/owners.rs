//! Has the agent's user stand for the owners of what it is granted, by mounts that show other owners than the disk has.
//!
//! Each owner takes a user namespace, which holds nothing but the map and in which nobody lives: on the disk the owner's,
//! to the agent its own; what is the agent's own on the disk, which an earlier one with its user may have left, is
//! nobody's; everything else is as it is. Whatever the agent makes there belongs to the owner.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::UnshareFlags;

use super::{At as _, StepError};
use crate::spec::Ids;
use crate::sys::{self, Fork};
use crate::wire::{Order, Stage};

/// The maps that an order needs, by owner.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<(u32, u32), OwnedFd>);

impl Owners {
    /// Makes them. Needs root, the host's `/proc`, and its process namespace.
    pub(super) fn of(order: &Order) -> Result<Self, StepError> {
        let mut maps = BTreeMap::new();
        let Some(agent) = order.ids else {
            return Ok(Self::default());
        };
        for owner in order.root.binds.iter().filter_map(|bind| bind.owner) {
            let key = (owner.uid, owner.gid);
            if maps.contains_key(&key) {
                continue;
            }
            let named = format!("standing for user {}", owner.uid);
            maps.insert(
                key,
                namespace(agent, owner).at(Stage::UserNamespace, named)?,
            );
        }
        Ok(Self(maps))
    }

    /// The map of an owner.
    pub(super) fn map(&self, owner: Ids) -> io::Result<BorrowedFd<'_>> {
        let map = self.0.get(&(owner.uid, owner.gid));
        map.map(OwnedFd::as_fd)
            .ok_or_else(|| io::Error::other("an owner without a map"))
    }
}

/// A user namespace with a map and without a process.
pub(super) fn namespace(agent: Ids, owner: Ids) -> io::Result<OwnedFd> {
    let (ready, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let (wait, hold) = pipe_with(PipeFlags::CLOEXEC)?;
    match sys::fork()? {
        Fork::Child => {
            drop((ready, hold));
            if sys::unshare(UnshareFlags::NEWUSER).is_ok() {
                rustix::io::write(&tell, b".").ok();
                drop(tell);
                // Until the parent has what it needs.
                File::from(wait).read_to_end(&mut Vec::new()).ok();
            }
            sys::leave()
        }
        Fork::Parent(pid) => {
            drop((tell, wait));
            let made = || -> io::Result<OwnedFd> {
                if File::from(ready).read(&mut [0])? == 0 {
                    return Err(io::Error::other("no user namespace can be made"));
                }
                let of = format!("/proc/{}", pid.as_raw_pid());
                fs::write(format!("{of}/uid_map"), lines(owner.uid, agent.uid))?;
                fs::write(format!("{of}/gid_map"), lines(owner.gid, agent.gid))?;
                Ok(File::open(format!("{of}/ns/user"))?.into())
            };
            let made = made();
            drop(hold);
            // It may have ended by itself, hence `ok`.
            kill_process(pid, Signal::KILL).ok();
            while matches!(
                waitpid(Some(pid), WaitOptions::empty()),
                Err(rustix::io::Errno::INTR)
            ) {}
            made
        }
    }
}

/// The map as the kernel reads it: `<on the disk> <shown> <count>`.
fn lines(owner: u32, agent: u32) -> String {
    // The last id is the kernel's word for none.
    let (low, high) = (owner.min(agent), owner.max(agent));
    let same = [
        (0, low),
        (low.saturating_add(1), high),
        (high.saturating_add(1), u32::MAX),
    ];
    let same = same
        .into_iter()
        .filter(|(from, to)| from < to)
        .map(|(from, to)| format!("{from} {from} {}\n", to - from));
    std::iter::once(format!("{owner} {agent} 1\n"))
        .chain(same)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_but_the_owner_and_the_agent_is_as_on_the_disk() {
        assert_eq!(
            lines(1000, 700_001),
            "1000 700001 1\n0 0 1000\n1001 1001 699000\n700002 700002 4294267293\n"
        );
        assert_eq!(lines(5, 4), "5 4 1\n0 0 4\n6 6 4294967289\n");
        // The agent's own: there is nothing to show otherwise.
        assert_eq!(lines(7, 7), "7 7 1\n0 0 7\n8 8 4294967287\n");
    }
}
