//! The last process before the agent: gives up everything, then becomes it.
//!
//! The order matters: each step needs a right that a later one takes away.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::{At, Descriptors, StepError, identity, landlock, redirect};
use crate::seccomp::filters;
use crate::spec::Ids;
use crate::sys::{self, Image, Target};
use crate::wire::{Limit, Order, Stage, Status, UserNamespace};
use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, getrlimit, set_dumpable_behavior, setrlimit, setsid,
};

/// Becomes the agent, or tells why not and returns the exit code.
pub(super) fn run(order: &Order, mut descriptors: Descriptors) -> i32 {
    match transform(order, &mut descriptors) {
        Ok(()) => 0,
        Err(error) => descriptors.status.fail(error),
    }
}

fn transform(order: &Order, descriptors: &mut Descriptors) -> Result<(), StepError> {
    setsid().at(Stage::Fork, "session")?;
    redirect(&descriptors.stdio).at(Stage::Fork, "standard streams")?;
    sys::reset_signals().at(Stage::Fork, "signals")?;
    let image = image(order, &descriptors.image).at(Stage::Order, "text for execve")?;
    let filters = filters(order.execution)
        .map_err(io::Error::other)
        .at(Stage::Seccomp, "system call filters")?;

    if let Some(ids) = order.ids {
        // Root made the pipes, and `/dev/stderr` opens them anew, which needs their owner.
        own_streams(&descriptors.stdio, ids).at(Stage::Identity, "standard streams")?;
        identity::become_user(ids).at(Stage::Identity, format!("uid {}", ids.uid))?;
    }
    if order.user_namespace == UserNamespace::Last {
        identity::enter_user_namespace().at(Stage::UserNamespace, "below root's namespaces")?;
    }
    // After the user namespace: processes are then counted in it alone, and not for all of the user's.
    for (limit, value) in &order.limits {
        lower(*limit, *value).at(Stage::Limits, format!("{limit:?} {value}"))?;
    }
    identity::drop_privileges().at(Stage::Privileges, "the agent")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Privileges, "not dumpable")?;
    landlock::restrict(&order.landlock, &descriptors.image)?;
    chdir(&order.workdir).at(Stage::Workdir, order.workdir.display().to_string())?;
    descriptors
        .status
        .tell(&Status::Ready)
        .at(Stage::Exec, "status")?;
    for filter in filters {
        let installed = seccompiler::apply_filter(filter).map_err(io::Error::other);
        installed.at(Stage::Seccomp, "filter")?;
    }
    // It does not return when it worked.
    let Err(error) = sys::execute(&image);
    Err(error).at(Stage::Exec, &*image.args[0].to_string_lossy())
}

fn own_streams(stdio: &[OwnedFd; 3], ids: Ids) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    for stream in stdio {
        fchown(stream, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn image<'a>(order: &Order, own: &'a OwnedFd) -> io::Result<Image<'a>> {
    let text = |list: &[String]| -> io::Result<Vec<CString>> {
        Ok(list
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<_, _>>()?)
    };
    let target = match &order.program {
        Some(path) => Target::Path(CString::new(path.as_os_str().as_bytes())?),
        None => Target::Descriptor(own.as_fd()),
    };
    Ok(Image {
        target,
        args: text(&order.args)?,
        env: text(&order.env)?,
    })
}

/// Sets both the soft and the hard limit, never above what is allowed already.
fn lower(limit: Limit, value: u64) -> io::Result<()> {
    let resource = match limit {
        Limit::Core => Resource::Core,
        Limit::Data => Resource::Data,
        Limit::Fsize => Resource::Fsize,
        Limit::Memlock => Resource::Memlock,
        Limit::Msgqueue => Resource::Msgqueue,
        Limit::Nice => Resource::Nice,
        Limit::Nofile => Resource::Nofile,
        Limit::Nproc => Resource::Nproc,
        Limit::Rtprio => Resource::Rtprio,
        Limit::Sigpending => Resource::Sigpending,
    };
    let value = getrlimit(resource)
        .maximum
        .map_or(value, |maximum| maximum.min(value));
    setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )?;
    Ok(())
}
