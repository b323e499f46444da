//! The system calls that no safe wrapper offers. All of the crate's `unsafe` is here.
//!
//! Most of it is only sound in a process with one thread, which the helper is: it runs before `main`
//! of meshd does anything else.

use std::convert::Infallible;
use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::fscrypt::{AddKey, GetPolicy, GetStatus, RawPolicy, RemoveKey, request};

/// Turns the usual "-1 and errno" into a result.
fn checked(answer: c_int) -> io::Result<c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Splits the process in two.
pub(crate) fn fork() -> io::Result<Fork> {
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the helper has one thread, so the child inherits no lock that another thread holds.
    let pid = checked(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// A call of fscrypt, with what it is asked; the kernel writes its answer into the same place.
#[derive(Debug)]
pub(crate) enum FscryptCall<'a> {
    /// `FS_IOC_GET_ENCRYPTION_POLICY_EX`.
    GetPolicy(&'a mut GetPolicy),
    /// `FS_IOC_SET_ENCRYPTION_POLICY`.
    SetPolicy(&'a RawPolicy),
    /// `FS_IOC_ADD_ENCRYPTION_KEY`.
    AddKey(&'a mut AddKey),
    /// `FS_IOC_REMOVE_ENCRYPTION_KEY`.
    RemoveKey(&'a mut RemoveKey),
    /// `FS_IOC_GET_ENCRYPTION_KEY_STATUS`.
    KeyStatus(&'a mut GetStatus),
}

/// Asks the file system on which `on` lies.
pub(crate) fn fscrypt(on: BorrowedFd<'_>, call: FscryptCall<'_>) -> io::Result<()> {
    let (request, argument): (u32, *mut libc::c_void) = match call {
        FscryptCall::GetPolicy(asked) => (request::GET_POLICY_EX, ptr::from_mut(asked).cast()),
        // The kernel only reads it.
        FscryptCall::SetPolicy(policy) => {
            (request::SET_POLICY, ptr::from_ref(policy).cast_mut().cast())
        }
        FscryptCall::AddKey(asked) => (request::ADD_KEY, ptr::from_mut(asked).cast()),
        FscryptCall::RemoveKey(asked) => (request::REMOVE_KEY, ptr::from_mut(asked).cast()),
        FscryptCall::KeyStatus(asked) => (request::GET_KEY_STATUS, ptr::from_mut(asked).cast()),
    };
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: each argument is the structure that the kernel's header names for its request, sizes given in it included, and
    // is borrowed for as long as the call takes.
    checked(unsafe { libc::ioctl(on.as_raw_fd(), request.into(), argument) })?;
    Ok(())
}

/// Ends this process, and nothing else: what a copy of the helper would do at its end is the helper's to do.
pub(crate) fn leave() -> ! {
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: it runs no handler and does not return.
    unsafe {
        libc::_exit(0)
    }
}

/// Leaves the given namespaces for new ones.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "unsharing descriptors could break other threads' ownership"
    )]
    // SAFETY: no caller passes `FILES`, and the helper has one thread.
    unsafe {
        rustix::thread::unshare_unsafe(flags)?;
    }
    Ok(())
}

/// Attributes of a mount, as `mount_setattr(2)` names them.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}

/// Sets attributes of the mount behind `mount`, and of all below it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_attributes(mount, set, libc::AT_RECURSIVE, None)
}

/// Shows whom files behind `mount`, and below it, belong to as the user namespace `owners` maps it. Once, and only before
/// the mount is anywhere.
pub(crate) fn mount_owners(mount: BorrowedFd<'_>, owners: BorrowedFd<'_>) -> io::Result<()> {
    let set = libc::MOUNT_ATTR_IDMAP;
    set_attributes(mount, set, libc::AT_RECURSIVE, Some(owners))
}

/// Sets attributes of the mount behind `mount` alone.
pub(crate) fn mount_setattr_one(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_attributes(mount, set, 0, None)
}

fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    depth: c_int,
    owners: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        // Only looked at where a user namespace is set.
        userns_fd: owners.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the path is a valid C string, and `attributes` lives during the call and is as long as said.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Brings the loopback of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    #[expect(unsafe_code, reason = "plain C data")]
    // SAFETY: `ifreq` is a C structure for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed() as c_char;
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives during the call.
    let answer = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            ptr::from_ref(&request),
        )
    };
    checked(answer).map(drop)
}

/// The Landlock version of the running kernel.
pub(crate) fn landlock_abi() -> io::Result<i32> {
    const CREATE_RULESET_VERSION: c_int = 1;
    #[expect(unsafe_code, reason = "the crate keeps the number to itself")]
    // SAFETY: with this flag the kernel reads no memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(io::Error::other)
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "closes descriptors whose owners cannot be known"
    )]
    // SAFETY: called before the helper has opened anything, so what is closed here has no owner in this process.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes ended children readable from a descriptor instead of interrupting.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the set is initialised by `sigemptyset` before use and lives during the calls; the
    // descriptor is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        checked(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const set,
            ptr::null_mut(),
        ))?;
        let fd = checked(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives every signal its default meaning and blocks none, as a fresh program expects.
///
/// Rust ignores `SIGPIPE` in `main`, and ignored signals stay ignored across `execve`.
pub(crate) fn reset_signals() -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: installing the default installs no handler; signals that cannot be changed answer with an
    // error that does not matter. The set lives during the call.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        checked(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const set,
            ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// What [`execute`] turns this process into.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    /// The file at a path.
    Path(CString),
    /// The file behind a descriptor.
    Descriptor(BorrowedFd<'a>),
}

/// Arguments and environment, made ready while allocation and formatting are still harmless.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    /// The program.
    pub(crate) target: Target<'a>,
    /// All arguments, the name first.
    pub(crate) args: Vec<CString>,
    /// `NAME=value`, all of them.
    pub(crate) env: Vec<CString>,
}

/// Becomes the program. Returns only when that failed.
pub(crate) fn execute(image: &Image<'_>) -> io::Result<Infallible> {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(&image.args), pointers(&image.env));
    #[expect(unsafe_code, reason = "the standard library would fork first")]
    // SAFETY: both lists end with a null pointer and hold pointers to C strings that `image` keeps alive.
    unsafe {
        match &image.target {
            Target::Path(path) => libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()),
            Target::Descriptor(fd) => libc::fexecve(fd.as_raw_fd(), args.as_ptr(), env.as_ptr()),
        };
    }
    Err(io::Error::last_os_error())
}

/// The descriptor that the launcher left as standard input, duplicated to above 2 and close-on-exec.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?)
}

/// Signals every process of this process namespace but the caller. For pid 1 only.
pub(crate) fn kill_all(signal: rustix::process::Signal) -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper takes -1")]
    // SAFETY: `kill` touches no memory.
    checked(unsafe { libc::kill(-1, signal.as_raw()) }).map(drop)
}

/// What the kernel is told and tells of a loop device, `struct loop_info64`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoopInfo {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encryption: [u32; 2],
    pub(crate) flags: u32,
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

impl LoopInfo {
    const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encryption: [0; 2],
        flags: 0,
        names: [[0; 64]; 2],
        key: [0; 32],
        init: [0; 2],
    };
}

/// The number of a loop device that nobody uses, asked of `/dev/loop-control`. Somebody else may take it meanwhile.
pub(crate) fn loop_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: u32 = 0x4C82;
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: this request takes no argument.
    let number = checked(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) })?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Has a loop device show `file` until nobody uses the device any more. `EBUSY`: it has another already.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_CONFIGURE: u32 = 0x4C0A;
    const AUTOCLEAR: u32 = 4;
    let config = LoopConfig {
        fd: file.as_raw_fd().unsigned_abs(),
        block_size: 0,
        info: LoopInfo {
            flags: AUTOCLEAR,
            ..LoopInfo::EMPTY
        },
        reserved: [0; 8],
    };
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: `config` is laid out as the kernel's header says and lives during the call, which only reads it.
    checked(unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_CONFIGURE.into(),
            ptr::from_ref(&config),
        )
    })?;
    Ok(())
}

/// What a loop device shows. `ENXIO`: nothing.
pub(crate) fn loop_info(device: BorrowedFd<'_>) -> io::Result<LoopInfo> {
    const LOOP_GET_STATUS64: u32 = 0x4C05;
    let mut info = LoopInfo::EMPTY;
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: `info` is laid out as the kernel's header says and lives during the call, which writes it.
    checked(unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_GET_STATUS64.into(),
            ptr::from_mut(&mut info),
        )
    })?;
    Ok(info)
}

/// Has a loop device find out how large its file is now.
pub(crate) fn loop_grown(device: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_SET_CAPACITY: u32 = 0x4C07;
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: this request takes no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY.into()) })?;
    Ok(())
}

/// Has the mounted ext4 file system of `on` be so many of its blocks large.
pub(crate) fn ext4_resize(on: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    const RESIZE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u64>(b'f', 16);
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the request reads one `u64`, which lives during the call.
    checked(unsafe { libc::ioctl(on.as_raw_fd(), RESIZE.into(), ptr::from_ref(&blocks)) })?;
    Ok(())
}
