//! The attacker: what an agent may try, run inside by this very binary.
//!
//! Each attempt prints `ESCAPED` when it got through and `HELD` when it did not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process, pidfd_open, test_kill_process};

use crate::say;

/// One attempt; `Ok` says that it got through.
type Attempt = fn(&[String]) -> io::Result<()>;

/// Attempts that need nothing to be told.
pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("new user namespace", |_| {
        syscall(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0])
    }),
    ("new mount namespace", |_| {
        syscall(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0])
    }),
    ("mount", |_| {
        rustix::mount::mount(
            "none",
            "/tmp",
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .map_err(Into::into)
    }),
    ("new mount api", |_| {
        rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty())
            .map(drop)
            .map_err(Into::into)
    }),
    ("unmount /proc", |_| {
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).map_err(Into::into)
    }),
    ("pivot_root", |_| {
        rustix::process::pivot_root(".", ".").map_err(Into::into)
    }),
    ("chroot", |_| {
        rustix::process::chroot(".").map_err(Into::into)
    }),
    ("join pid 1's network", |_| {
        File::open("/proc/1/ns/net").map(drop)
    }),
    ("pid 1's memory", |_| File::open("/proc/1/mem").map(drop)),
    ("pid 1's environment", |_| {
        File::open("/proc/1/environ").map(drop)
    }),
    ("pid 1's image", |_| {
        OpenOptions::new().write(true).open("/proc/1/exe").map(drop)
    }),
    ("own image for writing", |_| {
        OpenOptions::new()
            .write(true)
            .open("/proc/self/exe")
            .map(drop)
    }),
    ("become root", |_| syscall(libc::SYS_setuid, [0, 0, 0])),
    ("supplementary group", |_| {
        rustix::thread::set_thread_groups(&[rustix::fs::Gid::ROOT]).map_err(Into::into)
    }),
    ("no_new_privs off", |_| privileges_gainable()),
    ("capabilities", |_| capabilities()),
    ("seccomp off", |_| unfiltered()),
    ("ptrace", |_| syscall(libc::SYS_ptrace, [0, 0, 0])),
    ("read memory", |_| {
        syscall(libc::SYS_process_vm_readv, [1, 0, 0])
    }),
    ("compare kernel pointers", |_| {
        syscall(libc::SYS_kcmp, [1, 1, 0])
    }),
    ("bpf", |_| reached(libc::SYS_bpf)),
    ("perf", |_| reached(libc::SYS_perf_event_open)),
    ("io_uring", |_| reached(libc::SYS_io_uring_setup)),
    ("userfaultfd", |_| reached(libc::SYS_userfaultfd)),
    ("keyring", |_| syscall(libc::SYS_keyctl, [1, 0, 0])),
    ("load module", |_| reached(libc::SYS_init_module)),
    ("kexec", |_| reached(libc::SYS_kexec_load)),
    ("set clock", |_| reached(libc::SYS_clock_settime)),
    ("fanotify", |_| reached(libc::SYS_fanotify_init)),
    ("open by handle", |_| reached(libc::SYS_open_by_handle_at)),
    ("netlink", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("packet socket", |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    ("raw socket", |_| {
        socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
    }),
    ("ping socket", |_| {
        socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)
    }),
    ("multipath tcp", |_| {
        socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
    }),
    ("vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("crypto socket", |_| {
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
    }),
    ("core dumps", |_| {
        limit_is_zero(rustix::process::Resource::Core)
    }),
    ("real-time priority", |_| {
        limit_is_zero(rustix::process::Resource::Rtprio)
    }),
    ("raise a limit", |_| raise_limit()),
    ("kernel setting", |_| {
        OpenOptions::new()
            .write(true)
            .open("/proc/sys/kernel/core_pattern")
            .map(drop)
    }),
    ("sysrq", |_| {
        OpenOptions::new()
            .write(true)
            .open("/proc/sysrq-trigger")
            .map(drop)
    }),
    ("kernel memory", |_| tells("/proc/kcore")),
    ("keys of others", |_| tells("/proc/keys")),
    ("shadow passwords", |_| tells("/etc/shadow")),
    ("sysfs", |_| fs::read_dir("/sys").and_then(any_entry)),
    ("host's users", |_| host_users()),
    ("write to the root", |_| fs::write("/made", "")),
    ("write to /etc", |_| fs::write("/etc/made", "")),
    ("write to /usr", |_| fs::write("/usr/bin/made", "")),
    ("write to /dev", |_| fs::write("/dev/made", "")),
    ("old root", |_| old_root()),
    ("device nodes", |_| device_nodes()),
    ("lending rights: a new file", |_| {
        lent(|mode| open_with(OFlags::CREATE | OFlags::RDWR, "lent", mode))
    }),
    ("lending rights: a file without a name", |_| {
        lent(|mode| open_with(OFlags::TMPFILE | OFlags::RDWR, ".", mode))
    }),
    ("lending rights: an old file", |_| {
        lent(|mode| {
            let file = File::create("lent")?;
            rustix::fs::fchmod(&file, mode)?;
            Ok(file)
        })
    }),
    ("lending rights: an old file by its name", |_| {
        lent(|mode| {
            let file = File::create("lent")?;
            rustix::fs::chmod("lent", mode)?;
            Ok(file)
        })
    }),
    ("lending rights: a node", |_| {
        lent(|mode| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                "node",
                rustix::fs::FileType::RegularFile,
                mode,
                0,
            )?;
            File::open("node")
        })
    }),
    ("lending rights: a directory", |_| {
        lent(|mode| {
            rustix::fs::mkdir("made", mode)?;
            File::open("made")
        })
    }),
    ("leftover descriptors", |_| leftovers()),
    ("other processes", |_| strangers()),
    ("x32 calls", |_| {
        syscall(0x4000_0000 | libc::SYS_getppid, [0; 3])
    }),
    ("less likely to be ended", |_| {
        fs::write("/proc/self/oom_score_adj", "-1000")
    }),
    ("control groups", |_| {
        fs::read_dir("/sys/fs/cgroup").and_then(any_entry)
    }),
];

/// Attempts on a victim outside, named by the arguments.
const AIMED: &[(&str, Attempt)] = &[
    ("read", |args| fs::read(&args[0]).map(drop)),
    ("list", |args| fs::read_dir(&args[0]).and_then(any_entry)),
    ("link", |args| fs::hard_link(&args[0], "linked")),
    ("through-proc", |args| {
        fs::read(format!("/proc/{}/root{}", args[0], args[1])).map(drop)
    }),
    ("through-cwd", |args| {
        fs::read(format!("/proc/self/cwd/../../../../../..{}", args[0])).map(drop)
    }),
    ("signal", |args| {
        test_kill_process(pid(&args[0])?).map_err(Into::into)
    }),
    ("pidfd", |args| {
        pidfd_open(pid(&args[0])?, rustix::process::PidfdFlags::empty())
            .map(drop)
            .map_err(Into::into)
    }),
    ("unix", |args| UnixStream::connect(&args[0]).map(drop)),
    ("abstract", |args| connect_abstract(&args[0])),
    ("tcp", |args| connect(&args[0])),
    ("udp", |args| {
        UdpSocket::bind("0.0.0.0:0")?
            .send_to(b"x", args[0].as_str())
            .map(drop)
    }),
];

/// `__attack NAME ARGUMENTS…`
pub(crate) fn main(args: &[String]) -> ExitCode {
    let Some((name, rest)) = args.split_first() else {
        return ExitCode::from(2);
    };
    match name.as_str() {
        "hello" => say("hello from the image"),
        "all" => {
            for (name, attempt) in ATTEMPTS {
                tell(name, attempt(rest));
            }
        }
        "memory" => fill_memory(rest[0].parse().unwrap()),
        "threads" => fill_threads(),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "kill-everything" => {
            let everything = kill_process(Pid::from_raw(1).unwrap(), Signal::KILL);
            tell(
                "kill pid 1",
                everything.map_err(Into::into).and_then(|()| survived()),
            );
        }
        aimed => match AIMED.iter().find(|(name, _)| *name == aimed) {
            Some((name, attempt)) => tell(name, attempt(rest)),
            None => return ExitCode::from(2),
        },
    }
    ExitCode::SUCCESS
}

fn tell(name: &str, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => say(&format!("ESCAPED {name}")),
        Err(error) => say(&format!("HELD {name}: {error}")),
    }
}

fn held(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

fn syscall(number: i64, args: [usize; 3]) -> io::Result<()> {
    #[expect(unsafe_code, reason = "an attacker calls what it likes")]
    // SAFETY: every call here is refused, or given arguments that touch no memory of this process.
    let answer = unsafe { libc::syscall(number, args[0], args[1], args[2], 0, 0, 0) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether a call gets past the filter, whatever it then makes of senseless arguments.
fn reached(number: i64) -> io::Result<()> {
    match syscall(number, [usize::MAX, 0, 0]) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    syscall(
        libc::SYS_socket,
        [family, kind, protocol].map(|argument| argument.unsigned_abs() as usize),
    )
}

fn status_line(key: &str) -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .ok_or_else(|| held("no such line"))?;
    Ok(line.trim().to_owned())
}

fn privileges_gainable() -> io::Result<()> {
    if rustix::thread::no_new_privs()? {
        Err(held("set"))
    } else {
        Ok(())
    }
}

fn capabilities() -> io::Result<()> {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        if status_line(set)?.chars().any(|digit| digit != '0') {
            return Ok(());
        }
    }
    Err(held("none"))
}

fn unfiltered() -> io::Result<()> {
    if status_line("Seccomp:")? == "2" {
        Err(held("filtering"))
    } else {
        Ok(())
    }
}

fn limit_is_zero(resource: rustix::process::Resource) -> io::Result<()> {
    if rustix::process::getrlimit(resource).maximum == Some(0) {
        Err(held("zero"))
    } else {
        Ok(())
    }
}

fn raise_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile)
        .maximum
        .ok_or_else(|| held("unlimited"))?;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(now + 1),
            maximum: Some(now + 1),
        },
    )?;
    Ok(())
}

fn tells(path: &str) -> io::Result<()> {
    use std::io::Read;
    let mut byte = [0];
    if File::open(path)?.read(&mut byte)? == 0 {
        Err(held("empty"))
    } else {
        Ok(())
    }
}

fn any_entry(mut entries: fs::ReadDir) -> io::Result<()> {
    entries
        .next()
        .map_or_else(|| Err(held("empty")), |_| Ok(()))
}

fn host_users() -> io::Result<()> {
    let users = fs::read_to_string("/etc/passwd")?;
    if users.lines().count() > 2 {
        Ok(())
    } else {
        Err(held("only its own"))
    }
}

fn old_root() -> io::Result<()> {
    let names = [
        "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "proc", "tmp",
        "home", "agent",
    ];
    for entry in fs::read_dir("/")? {
        let name = entry?.file_name();
        if !names.iter().any(|known| name == *known) {
            return Ok(());
        }
    }
    Err(held("nothing but its own"))
}

fn device_nodes() -> io::Result<()> {
    let names = [
        "null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm",
    ];
    for entry in fs::read_dir("/dev")? {
        let name = entry?.file_name();
        if !names.iter().any(|known| name == *known) {
            return Ok(());
        }
    }
    Err(held("only harmless ones"))
}

fn open_with(flags: OFlags, path: &str, mode: Mode) -> io::Result<File> {
    Ok(rustix::fs::open(path, flags, mode)?.into())
}

/// Whether a file can be made that lends its owner's or its group's rights.
fn lent(make: impl Fn(Mode) -> io::Result<File>) -> io::Result<()> {
    let mut last = held("nothing was tried");
    for bits in [0o4755, 0o2755] {
        for path in ["lent", "node"] {
            fs::remove_file(path).ok();
        }
        fs::remove_dir("made").ok();
        match make(Mode::from_raw_mode(bits)) {
            Ok(file) if file.metadata()?.mode() & 0o6000 != 0 => return Ok(()),
            Ok(_) => last = held("without the bit"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Descriptors above the standard three, besides the one that lists them.
fn leftovers() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.count();
    if open > 4 { Ok(()) } else { Err(held("none")) }
}

fn strangers() -> io::Result<()> {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok() && name != own {
            return Ok(());
        }
    }
    Err(held("none to be seen"))
}

fn pid(text: &str) -> io::Result<Pid> {
    text.parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| held("not a process id"))
}

fn connect_abstract(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(drop)
}

fn connect(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop)
}

/// Pid 1 shrugs off signals from inside; had it not, there would be nobody to say so.
fn survived() -> io::Result<()> {
    if Path::new("/proc/self").exists() {
        Err(held("it lives"))
    } else {
        Ok(())
    }
}

fn fill_memory(megabytes: usize) {
    let mut held = Vec::new();
    for _ in 0..megabytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    say(&format!(
        "ESCAPED memory: {} MiB",
        std::hint::black_box(held).len()
    ));
}

fn fill_threads() {
    let mut threads = Vec::new();
    // Far above every limit a test sets.
    for _ in 0..2000 {
        match thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(thread::park)
        {
            Ok(handle) => threads.push(handle),
            Err(_) => return say(&format!("HELD {}", threads.len())),
        }
    }
    say(&format!("ESCAPED threads: {}", threads.len()));
}
