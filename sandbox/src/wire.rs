//! What launcher and helper say to each other.
//!
//! ```text
//! launcher ── control socket (the helper's stdin), one message each ─────────────► helper
//!   order  + descriptors [plan, status, stdin, stdout, stderr, image, secrets?, home?]
//!   fork     (its groups have the helper: now pid 1 may exist, and is born in them)
//!            ◄── init <pid> + descriptor [pidfd]      (the outer process; it then leaves the socket)
//!   go       (recorded for the sweep: now the agent may exist)
//!            ◄── listener + descriptor                 (pid 1, when the sandbox has a way out)
//!            ◄── exited | signaled                    (pid 1 inside)
//!   terminate | signal | stop | continue                       (to pid 1 inside, any time after `go`)
//! helper ── status pipe, one line each ──► ready, then end of file: the program runs; failed: it never did
//! ```
//!
//! Both ends are one binary of one build, so there is no version in it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::spec::{Execution, Ids, Rights};

/// The helper's `argv[0]`.
pub(crate) const HELPER_NAME: &str = "meshd-sandbox";

/// Longest control message. The plan itself travels in a sealed memory file.
const MESSAGE_MAX: usize = 256;

/// Descriptors that come with an order.
pub(crate) const ORDER_FDS: usize = 8;

/// Largest plan the helper reads; a manifest's argument and path lists stay far below.
pub(crate) const ORDER_MAX: u64 = 4 << 20;

/// A message on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// Launcher to helper: set up the sandbox described by the descriptors that come along.
    Order,
    /// Launcher to helper: it is in its control groups and on record, and may make pid 1.
    Fork,
    /// Helper to launcher: pid 1 of the sandbox, as seen by the helper, with its pidfd.
    Init(i32),
    /// Launcher to pid 1: the agent may start.
    Go,
    /// Launcher to pid 1: ask the agent to end.
    Terminate,
    /// Launcher to pid 1: this signal to the agent's own process.
    Signal(i32),
    /// Launcher to pid 1: stop every process.
    Stop,
    /// Launcher to pid 1: let them go on.
    Continue,
    /// Pid 1 to launcher: the proxy's listener, from within the sandbox's network.
    Listener,
    /// Pid 1 to launcher: the agent returned this.
    Exited(i32),
    /// Pid 1 to launcher: the agent died of this signal.
    Signaled(i32),
}

/// A line on the status pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    /// Everything is in force; the next step is to execute the program.
    Ready,
    /// A step failed and the program never ran.
    Failed(Failure),
}

/// The step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: i32,
    pub(crate) detail: String,
}

/// A step of setting up a sandbox, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Reading the plan.
    Order,
    /// Making the user namespace and its maps.
    UserNamespace,
    /// Making the other namespaces.
    Namespaces,
    /// Building the file system.
    Mounts,
    /// Bringing up the loopback.
    Network,
    /// Starting pid 1 or the agent's process.
    Fork,
    /// Setting resource limits.
    Limits,
    /// Becoming the agent's user.
    Identity,
    /// Giving up capabilities and setting `no_new_privs`.
    Privileges,
    /// Entering Landlock.
    Landlock,
    /// Entering the working directory.
    Workdir,
    /// Installing the system call filters.
    Seccomp,
    /// Executing the program itself.
    Exec,
}

/// Everything the helper needs, worked out by the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) hostname: String,
    /// The user to become; `None` keeps the launcher's, which is then not root.
    pub(crate) ids: Option<Ids>,
    pub(crate) user_namespace: UserNamespace,
    /// An own, empty network.
    pub(crate) own_network: bool,
    /// Port of the loopback on which the launcher gets a listener.
    pub(crate) proxy_port: Option<u16>,
    /// Names and lengths of the secrets; what they hold comes with its own descriptor, one after the other.
    pub(crate) secrets: Vec<(String, u64)>,
    pub(crate) root: Root,
    pub(crate) limits: Vec<(Limit, u64)>,
    pub(crate) landlock: LandlockOrder,
    /// What may be executed, by which the system call filters differ.
    pub(crate) execution: Execution,
    pub(crate) program: Option<PathBuf>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) workdir: PathBuf,
}

/// When the sandbox gets its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UserNamespace {
    /// First, because only it allows an ordinary user the others.
    First,
    /// Last, below namespaces that stay root's, so that the agent owns none of them.
    Last,
    /// Not at all: the machine forbids it to unprivileged users, and root needs none.
    None,
}

/// The file system of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// Directories to make, parents first.
    pub(crate) directories: Vec<PathBuf>,
    /// Files to write: path and content.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Symbolic links to make: path and what it says.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
    /// Host files to show, parents first.
    pub(crate) binds: Vec<Bind>,
    /// Memory file systems to mount.
    pub(crate) memory: Vec<MemoryMount>,
}

/// A host file or directory shown inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) kind: BindKind,
    /// Device and inode that the launcher saw; anything else there by now is refused.
    pub(crate) identity: (u64, u64),
    /// The owner for whom the agent's user stands there.
    pub(crate) owner: Option<Ids>,
    /// Whether the mount comes along with the order, and `source` only says what it stands for.
    pub(crate) brought: bool,
}

/// How a bind is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BindKind {
    ReadOnly,
    /// Readable, and nothing in it can be executed.
    ReadOnlyData,
    Writable,
    /// Writable, and nothing in it can be executed.
    Data,
    /// A device node: usable as a device, not writable as a file.
    Device,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryMount {
    pub(crate) target: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Whether what is written there can be executed.
    pub(crate) executable: bool,
}

/// A resource limit of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Limit {
    Core,
    Data,
    Fsize,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rtprio,
    Sigpending,
}

/// The Landlock rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LandlockOrder {
    /// Version whose rights are all handled.
    pub(crate) abi: i32,
    pub(crate) rules: Vec<(PathBuf, Access)>,
    /// Whether the helper's image may be executed through its descriptor.
    pub(crate) image: bool,
}

/// What may be done beneath a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    /// Only list directories.
    List,
    Read,
    ReadExecute,
    /// Use a device.
    Device,
    /// Everything but to execute.
    Data,
    /// Everything.
    All,
    /// Reading, and what of the rest was granted.
    Granted(Rights),
}

/// Sends one message.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &Control,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ORDER_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more descriptors than a message holds"));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one message; `None` when the other side is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Control, Vec<OwnedFd>)>> {
    let mut bytes = [0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ORDER_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let read = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    });
    let length = match read {
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno.into()),
    };
    if length == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, fds)))
}

/// Reads bytes as everything that launcher and helper read from each other: what is read is written the same way again.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    fn again<T: PartialEq + std::fmt::Debug + Serialize + serde::de::DeserializeOwned>(
        bytes: &[u8],
    ) {
        if let Ok(read) = serde_json::from_slice::<T>(bytes) {
            let written = serde_json::to_vec(&read).expect("plain data");
            assert_eq!(
                serde_json::from_slice::<T>(&written).expect("was written"),
                read
            );
        }
    }
    again::<Order>(bytes);
    again::<Control>(bytes);
    again::<Status>(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> Order {
        Order {
            hostname: "echo".to_owned(),
            ids: Some(Ids { uid: 7, gid: 7 }),
            user_namespace: UserNamespace::Last,
            own_network: true,
            proxy_port: Some(3128),
            secrets: vec![("key".to_owned(), 4)],
            root: Root::default(),
            limits: vec![(Limit::Core, 0)],
            landlock: LandlockOrder {
                abi: 7,
                rules: vec![("/tmp".into(), Access::Data)],
                image: false,
            },
            execution: Execution::Anything,
            program: Some("/bin/true".into()),
            args: vec!["true".to_owned()],
            env: vec!["A=b".to_owned()],
            workdir: "/".into(),
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_order_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            serde_json::from_slice::<Order>(&bytes).ok();
            serde_json::from_slice::<Control>(&bytes).ok();
            serde_json::from_slice::<Status>(&bytes).ok();
        }

        /// A plan that was cut short or in which something changed is never taken for the one that was made.
        #[test]
        fn a_damaged_order_is_refused_or_another_one(at in 0usize..700, to: u8, cut: bool) {
            let mut bytes = serde_json::to_vec(&order()).unwrap();
            let at = at % bytes.len();
            let same = !cut && bytes[at] == to;
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] = to;
            }
            let read = serde_json::from_slice::<Order>(&bytes);
            prop_assert_eq!(read.is_ok_and(|read| read == order()), same);
        }
    }
}
