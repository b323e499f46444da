//! Users, user namespaces and capabilities.

use std::fs;
use std::io;

use rustix::process::{DumpableBehavior, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use rustix::{fs::Gid, fs::Uid};

use crate::spec::Ids;
use crate::sys;

/// Enters a new user namespace in which only the present user and group exist, as themselves.
///
/// # Errors
/// As root too: root of the host would be root inside, and no capability or namespace holds that.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid == 0 {
        return Err(io::Error::other(
            "user 0 of the host is never mapped into a sandbox",
        ));
    }
    sys::unshare(UnshareFlags::NEWUSER)?;
    // The kernel gives the files of a process that changed its user to root; this gives them back.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// What the kernel counts by user over all namespaces: an agent that runs as meshd's own user gets half of it, and the
/// other half is left to everything else that this user runs. Where `/proc/sys` is read-only, as in many containers, it
/// stays one account; nobody asks for it, so nothing is refused for that.
pub(super) fn share_watches() {
    for name in ["instances", "watches"] {
        let host = fs::read_to_string(format!("/proc/sys/fs/inotify/max_user_{name}"));
        let most = host.ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(most) = most {
            let own = format!("/proc/sys/user/max_inotify_{name}");
            fs::write(own, (most / 2).max(1).to_string()).ok();
        }
    }
}

/// Becomes the given user for good, with no other group.
pub(super) fn become_user(ids: Ids) -> io::Result<()> {
    // While there is still the right to: it is lost with user 0.
    empty_bounding_set()?;
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Gives up every capability and the means to get one back.
pub(super) fn drop_privileges() -> io::Result<()> {
    if geteuid().is_root() {
        return Err(io::Error::other("still user 0"));
    }
    clear_ambient_capability_set()?;
    empty_bounding_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}

fn empty_bounding_set() -> io::Result<()> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // Beyond the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
