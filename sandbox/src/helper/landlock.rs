//! Landlock: the second wall around the file system, and the one around signals and abstract sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::{At, StepError};
use crate::wire::{Access, LandlockOrder, Stage};
use landlock::Access as _;

/// Enters the domain that `order` describes, completely or not at all.
pub(super) fn restrict(order: &LandlockOrder, image: &OwnedFd) -> Result<(), StepError> {
    let abi = version(order.abi);
    let mut ruleset = create(abi)
        .map_err(io::Error::other)
        .at(Stage::Landlock, "ruleset")?;
    for (path, access) in &order.rules {
        let shown = path.display().to_string();
        let fd = PathFd::new(path)
            .map_err(io::Error::other)
            .at(Stage::Landlock, &*shown)?;
        let allowed = rights(*access, abi) & applicable(&fd, abi).at(Stage::Landlock, &*shown)?;
        let rule = PathBeneath::new(fd, allowed);
        ruleset = ruleset
            .add_rule(rule)
            .map_err(io::Error::other)
            .at(Stage::Landlock, &*shown)?;
    }
    if order.image {
        let rule = PathBeneath::new(image.as_fd(), AccessFs::Execute | AccessFs::ReadFile);
        ruleset = ruleset
            .add_rule(rule)
            .map_err(io::Error::other)
            .at(Stage::Landlock, "image")?;
    }
    let status = ruleset
        .restrict_self()
        .map_err(io::Error::other)
        .at(Stage::Landlock, "restrict")?;
    complete(&status).at(Stage::Landlock, "restrict")
}

/// The ruleset that handles every right of `abi`, so that what no rule grants is refused.
pub(super) fn create(abi: ABI) -> Result<RulesetCreated, landlock::RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    let scopes = Scope::from_all(abi);
    if scopes.is_empty() {
        ruleset
    } else {
        ruleset.scope(scopes)?
    }
    .create()
}

/// Refuses a restriction that was softened.
pub(super) fn complete(status: &RestrictionStatus) -> io::Result<()> {
    if status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs {
        return Ok(());
    }
    Err(io::Error::other("only partly enforced"))
}

/// The newest version that both the kernel and this program know.
pub(super) fn version(number: i32) -> ABI {
    match number {
        ..=0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        8 => ABI::V8,
        9.. => ABI::V9,
    }
}

fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::List => AccessFs::ReadDir.into(),
        Access::Read => read,
        Access::ReadExecute => read | AccessFs::Execute,
        // Truncating a device is what `> /dev/null` does, and asking what it is what `isatty` does.
        Access::Device => {
            (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev)
                & AccessFs::from_all(abi)
        }
        Access::Data => AccessFs::from_all(abi) & !BitFlags::from(AccessFs::Execute),
        Access::All => AccessFs::from_all(abi),
        Access::Granted(granted) => {
            let remove: BitFlags<AccessFs> = AccessFs::RemoveFile | AccessFs::RemoveDir;
            let execute: BitFlags<AccessFs> = AccessFs::Execute.into();
            let change = AccessFs::from_all(abi) & !remove & !execute & !read;
            let parts = [
                (granted.write, change),
                (granted.execute, execute),
                (granted.delete, remove),
            ];
            parts
                .into_iter()
                .filter(|(is, _)| *is)
                .fold(read, |all, (_, part)| all | part)
        }
    }
}

/// The rights that make sense for what lies there; the kernel refuses rules with others.
fn applicable(fd: &PathFd, abi: ABI) -> io::Result<BitFlags<AccessFs>> {
    use rustix::fs::{FileType, fstat};
    let directory = FileType::from_raw_mode(fstat(fd.as_fd())?.st_mode).is_dir();
    Ok(if directory {
        AccessFs::from_all(abi)
    } else {
        AccessFs::from_file(abi)
    })
}
