//! Tries each thing that a sandbox needs, for real, each in a process of its own that is then thrown away.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, geteuid, waitpid};
use rustix::thread::UnshareFlags;

use super::owners::{self, Owners};
use super::{At, EXIT_FAILED, StepError, die_with, identity, landlock, mounts};
use crate::probe::Trials;
use crate::spec::Ids;
use crate::sys::{self, Fork};
use crate::wire::{Failure, MemoryMount, Root, Stage};

/// The user as whom root tries what an agent will have to do: the kernel's own "nobody".
const NOBODY: Ids = Ids {
    uid: 65_534,
    gid: 65_534,
};

/// Tries everything and prints the answers.
pub(super) fn run(launcher: Pid) -> i32 {
    if die_with(launcher).is_err() || sys::close_from(3).is_err() {
        return EXIT_FAILED;
    }
    let trials = Trials {
        user_namespace: apart(user_namespace),
        mounts: apart(|| own_namespaces(UnshareFlags::NEWNS | UnshareFlags::NEWPID, file_system)),
        network: apart(|| {
            own_namespaces(UnshareFlags::NEWNET, || {
                sys::loopback_up().at(Stage::Network, "loopback")
            })
        }),
        ipc: apart(|| {
            let flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
            own_namespaces(flags, || Ok(()))
        }),
        privileges: apart(privileges),
        landlock: apart(own_landlock),
        landlock_abi: sys::landlock_abi().unwrap_or(0),
        seccomp: apart(seccomp),
    };
    let told = serde_json::to_vec(&trials).map(|bytes| io::stdout().write_all(&bytes));
    if matches!(told, Ok(Ok(()))) {
        0
    } else {
        EXIT_FAILED
    }
}

/// Tries whether an agent can stand for the owner of a path, and prints the answer.
pub(super) fn owner(launcher: Pid, path: Option<OsString>) -> i32 {
    let Some(path) = path else {
        return EXIT_FAILED;
    };
    if die_with(launcher).is_err() || sys::close_from(3).is_err() {
        return EXIT_FAILED;
    }
    let answer = apart(|| {
        // Who it is makes no difference to whether it can be done.
        let owner = Ids { uid: 1, gid: 1 };
        let map = owners::namespace(NOBODY, owner)
            .at(Stage::UserNamespace, "standing for another user")?;
        sys::unshare(UnshareFlags::NEWNS).at(Stage::Namespaces, "mounts")?;
        mounts::try_owner(Path::new(&path), map.as_fd())
            .at(Stage::Mounts, path.display().to_string())
    });
    let told = serde_json::to_vec(&answer).map(|bytes| io::stdout().write_all(&bytes));
    if matches!(told, Ok(Ok(()))) {
        0
    } else {
        EXIT_FAILED
    }
}

/// Runs `attempt` in a child, so that it changes nothing here, and answers how it failed.
fn apart(attempt: impl FnOnce() -> Result<(), StepError>) -> Option<Failure> {
    let lost = |error: io::Error| StepError {
        stage: Stage::Fork,
        source: error,
        detail: "trial".into(),
    };
    let outcome = || -> io::Result<Option<Failure>> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        match sys::fork()? {
            Fork::Child => {
                drop(reader);
                finish(attempt(), writer)
            }
            Fork::Parent(child) => {
                drop(writer);
                let mut told = Vec::new();
                File::from(reader).read_to_end(&mut told)?;
                waitpid(Some(child), WaitOptions::empty())?;
                // A child that was killed said nothing, and nothing is no success.
                Ok(serde_json::from_slice(&told)?)
            }
        }
    };
    outcome().unwrap_or_else(|error| Some(lost(error).into_failure()))
}

#[expect(clippy::exit, reason = "the end of a forked child")]
fn finish(outcome: Result<(), StepError>, writer: OwnedFd) -> ! {
    let answer: Option<Failure> = outcome.err().map(StepError::into_failure);
    let told = serde_json::to_vec(&answer).map(|bytes| File::from(writer).write_all(&bytes));
    std::process::exit(if matches!(told, Ok(Ok(()))) {
        0
    } else {
        EXIT_FAILED
    })
}

/// An ordinary user's user namespace, with its maps.
fn user_namespace() -> Result<(), StepError> {
    if geteuid().is_root() {
        identity::become_user(NOBODY).at(Stage::Identity, "nobody")?;
    }
    identity::enter_user_namespace().at(Stage::UserNamespace, "as an ordinary user")
}

/// Runs `inside` as the first process of new namespaces, entered the way a sandbox enters them.
fn own_namespaces(
    flags: UnshareFlags,
    inside: impl FnOnce() -> Result<(), StepError>,
) -> Result<(), StepError> {
    if !geteuid().is_root() {
        identity::enter_user_namespace().at(Stage::UserNamespace, "as an ordinary user")?;
    }
    sys::unshare(flags).at(Stage::Namespaces, format!("{flags:?}"))?;
    match apart(inside) {
        None => Ok(()),
        Some(failure) => Err(StepError {
            stage: failure.stage,
            source: io::Error::from_raw_os_error(failure.errno),
            detail: failure.detail,
        }),
    }
}

/// A root, a memory file system and a `/proc`, put in the host's place.
fn file_system() -> Result<(), StepError> {
    let memory = MemoryMount {
        target: "/tmp".into(),
        bytes: 4096,
        inodes: 4,
        executable: true,
    };
    let root = Root {
        directories: vec!["/proc".into(), "/tmp".into()],
        memory: vec![memory],
        ..Root::default()
    };
    mounts::build(&root, None, None, &Owners::default())?;
    std::fs::read("/proc/self/stat")
        .at(Stage::Mounts, "/proc/self")
        .map(drop)
}

/// As an agent does it: after becoming its user, or in its own user namespace.
fn privileges() -> Result<(), StepError> {
    if geteuid().is_root() {
        identity::become_user(NOBODY).at(Stage::Identity, "nobody")?;
    } else {
        identity::enter_user_namespace().at(Stage::UserNamespace, "as an ordinary user")?;
    }
    identity::drop_privileges().at(Stage::Privileges, "capabilities and no_new_privs")
}

fn own_landlock() -> Result<(), StepError> {
    let abi = sys::landlock_abi().at(Stage::Landlock, "version")?;
    let restrict = || -> io::Result<()> {
        let ruleset = landlock::create(landlock::version(abi)).map_err(io::Error::other)?;
        landlock::complete(&ruleset.restrict_self().map_err(io::Error::other)?)
    };
    restrict().at(Stage::Landlock, format!("version {abi}"))?;
    // It must also refuse, not only say so.
    match File::open("/") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => {
            Err(io::Error::other("a forbidden directory could be opened")).at(Stage::Landlock, "/")
        }
    }
}

fn seccomp() -> Result<(), StepError> {
    for filter in crate::seccomp::filters(crate::spec::Execution::Installed)
        .map_err(io::Error::other)
        .at(Stage::Seccomp, "compile")?
    {
        seccompiler::apply_filter(filter)
            .map_err(io::Error::other)
            .at(Stage::Seccomp, "install")?;
    }
    match sys::unshare(UnshareFlags::NEWUTS) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(io::Error::other("a forbidden call went through")).at(Stage::Seccomp, "unshare"),
    }
}
