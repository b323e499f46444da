//! The system calls that no agent makes. Pure: it compiles filters and installs none.
//!
//! A list of what is refused rather than of what is allowed, because any interpreter and any native
//! program must run; what is listed reaches parts of the kernel that a sandbox has no use for. What newer kernels
//! have besides is not there at all, until somebody has looked at it here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Cmp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use crate::fscrypt;
use crate::spec::Execution;

/// Why the filters could not be compiled: a bug, or an architecture that the compiler does not know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FilterError {
    /// The compiler refused.
    #[error("cannot compile the system call filters for {arch}")]
    Compile {
        /// This program's architecture.
        arch: &'static str,
        source: seccompiler::BackendError,
    },
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Parts that the long list of refused calls is cut into, by their numbers.
const PARTS: usize = 8;

/// The filters in the order to install them; the kernel takes the strictest answer of all. Compiled once.
pub(crate) fn filters(execution: Execution) -> Result<&'static [BpfProgram], FilterError> {
    static OPEN: OnceLock<Vec<BpfProgram>> = OnceLock::new();
    static CLOSED: OnceLock<Vec<BpfProgram>> = OnceLock::new();
    let compiled = if execution.is_open() { &OPEN } else { &CLOSED };
    if let Some(filters) = compiled.get() {
        return Ok(filters);
    }
    let filters = compile(execution)?;
    Ok(compiled.get_or_init(|| filters))
}

fn compile(execution: Execution) -> Result<Vec<BpfProgram>, FilterError> {
    let arch = std::env::consts::ARCH;
    let compile = || -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
        let target = arch.try_into()?;
        let program = |rules: Rules, errno: i32| -> Result<BpfProgram, seccompiler::BackendError> {
            let refuse = SeccompAction::Errno(errno.unsigned_abs());
            SeccompFilter::new(rules, SeccompAction::Allow, refuse, target)?.try_into()
        };
        // `clone3` keeps its flags in memory, where a filter cannot see them; told that it does not
        // exist, the C library falls back to `clone`.
        let missing = Rules::from([
            (libc::SYS_clone3, Vec::new()),
            // The same, with the mode of a new file; everybody falls back to `openat`.
            (libc::SYS_openat2, Vec::new()),
        ]);
        Ok(vec![
            program(missing, libc::ENOSYS)?,
            in_parts(refused(execution)?, |rules| program(rules, libc::EPERM))?,
        ])
    };
    let mut filters = compile().map_err(|source| FilterError::Compile { arch, source })?;
    filters.push(no_new_calls());
    Ok(filters)
}

// BPF_LD|BPF_W|BPF_ABS of the call's number, BPF_JMP|BPF_JGE|BPF_K, BPF_JMP|BPF_JA and BPF_RET|BPF_K in the field's own width.
const LOAD: u16 = 0x20;
const NUMBER: u32 = 0;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const ANSWER: u16 = 0x06;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// One program out of several, each for the calls of a range of numbers, so that none is compared with the whole list: the
/// compiler makes one comparison after the other, and the kernel runs them for every number when a filter is installed.
/// A part is a whole program that ends with its answer; before each but the last stands a jump over it for higher numbers.
fn in_parts<E>(
    rules: Rules,
    program: impl Fn(Rules) -> Result<BpfProgram, E>,
) -> Result<BpfProgram, E> {
    let size = rules.len().div_ceil(PARTS).max(1);
    let mut left = rules.into_iter().peekable();
    let mut parts = Vec::new();
    while let Some((first, _)) = left.peek() {
        let first = u32::try_from(*first).unwrap_or(u32::MAX);
        parts.push((first, program(left.by_ref().take(size).collect())?));
    }
    let mut whole = vec![op(LOAD, 0, 0, NUMBER)];
    let nexts: Vec<u32> = parts.iter().skip(1).map(|(first, _)| *first).collect();
    for (index, (_, part)) in parts.into_iter().enumerate() {
        if let Some(next) = nexts.get(index) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            whole.extend([op(JUMP_AT_LEAST, 0, 1, *next), op(JUMP, 0, 0, length)]);
        }
        whole.extend(part);
    }
    Ok(whole)
}

/// The first call that this list does not know: `setxattrat`, and behind it `open_tree_attr`, which mounts. The numbers are
/// the same on all architectures.
const UNKNOWN_FROM: u32 = 463;

/// Calls from [`UNKNOWN_FROM`] on do not exist. Nor do those of x32: their numbers are the usual ones with a high bit set,
/// and would pass every rule by number.
fn no_new_calls() -> BpfProgram {
    let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_AT_LEAST, 0, 1, UNKNOWN_FROM),
        op(ANSWER, 0, 0, missing),
        op(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn refused(execution: Execution) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(ALWAYS_X86.iter().map(|call| (*call, Vec::new())));
    rules.insert(libc::SYS_clone, namespace_flags()?);
    rules.insert(libc::SYS_socket, sockets()?);
    rules.insert(libc::SYS_socketpair, sockets()?);
    rules.insert(libc::SYS_ioctl, requests()?);
    rules.extend(modes()?);
    if !execution.is_open() {
        // A file in memory lies on no mount, and so below no rule about what can be executed.
        rules.insert(libc::SYS_memfd_create, Vec::new());
        rules.insert(libc::SYS_memfd_secret, Vec::new());
    }
    // A filter of its own may only tighten; one that asks the agent for each answer has no use here.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    rules.insert(
        libc::SYS_seccomp,
        vec![when(1, Cmp::MaskedEq(listener), listener)?],
    );
    // Asking is harmless, and some programs ask.
    let asking = SeccompCondition::new(0, Len::Dword, Cmp::Ne, 0xffff_ffff)?;
    let plain = SeccompCondition::new(0, Len::Dword, Cmp::Ne, 0)?;
    rules.insert(
        libc::SYS_personality,
        vec![SeccompRule::new(vec![asking, plain])?],
    );
    Ok(rules)
}

fn when(arg: u8, cmp: Cmp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(arg, Len::Dword, cmp, value)?])
}

/// No new namespace by `clone`.
fn namespace_flags() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let flags = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    flags
        .into_iter()
        .map(|flag| u64::from(flag.unsigned_abs()))
        .map(|flag| when(0, Cmp::MaskedEq(flag), flag))
        .collect()
}

/// Only streams and datagrams of Unix, IPv4 and IPv6, over TCP and UDP.
fn sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    /// `SOCK_CLOEXEC` and `SOCK_NONBLOCK` share the argument with the type.
    const TYPE_MASK: u64 = 0xf;
    let number = |value: i32| u64::from(value.unsigned_abs());
    let not = |arg, value| SeccompCondition::new(arg, Len::Dword, Cmp::Ne, number(value));
    let mut rules = vec![
        SeccompRule::new(vec![
            not(0, libc::AF_UNIX)?,
            not(0, libc::AF_INET)?,
            not(0, libc::AF_INET6)?,
        ])?,
        SeccompRule::new(vec![
            not(0, libc::AF_UNIX)?,
            not(2, 0)?,
            not(2, libc::IPPROTO_TCP)?,
            not(2, libc::IPPROTO_UDP)?,
        ])?,
    ];
    for kind in 0..=TYPE_MASK {
        let local = kind == number(libc::SOCK_SEQPACKET);
        if kind == number(libc::SOCK_STREAM) || kind == number(libc::SOCK_DGRAM) {
            continue;
        }
        let mut conditions = vec![SeccompCondition::new(
            1,
            Len::Dword,
            Cmp::MaskedEq(TYPE_MASK),
            kind,
        )?];
        if local {
            conditions.push(not(0, libc::AF_UNIX)?);
        }
        rules.push(SeccompRule::new(conditions)?);
    }
    Ok(rules)
}

/// No typing into somebody else's terminal, and no giving and taking of a file system's keys: where meshd is no root, its
/// agents are the same user to the kernel, and could take the key from under it. The kernel looks at 32 bits of the request,
/// so does the filter.
fn requests() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    [
        libc::TIOCSTI,
        libc::TIOCLINUX,
        libc::TIOCSETD,
        libc::TIOCCONS,
    ]
    .into_iter()
    .chain(fscrypt::WITHHELD)
    .map(|request| when(1, Cmp::Eq, request & 0xffff_ffff))
    .collect()
}

/// No file that lends its owner's or group's rights: on the host it would do so for whoever gets at it there, whatever
/// the sandbox's own mounts say.
fn modes() -> Result<Rules, seccompiler::BackendError> {
    /// Newer than the C library's list.
    const FCHMODAT2: i64 = 452;
    let bits = [libc::S_ISUID, libc::S_ISGID].map(u64::from);
    let given = |arg: u8| {
        bits.map(|bit| when(arg, Cmp::MaskedEq(bit), bit))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
    };
    // Without one of these flags the mode says nothing, and may be anything. A file without a name may get one by a link.
    let unnamed = libc::O_TMPFILE & !libc::O_DIRECTORY;
    let making = [libc::O_CREAT, unnamed].map(|flag| u64::from(flag.unsigned_abs()));
    let created = |flags: u8, mode: u8| {
        let rule = |flag, bit| {
            SeccompRule::new(vec![
                SeccompCondition::new(flags, Len::Dword, Cmp::MaskedEq(flag), flag)?,
                SeccompCondition::new(mode, Len::Dword, Cmp::MaskedEq(bit), bit)?,
            ])
        };
        making
            .into_iter()
            .flat_map(|flag| bits.map(|bit| rule(flag, bit)))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut rules = Rules::from([
        (libc::SYS_fchmod, given(1)?),
        (libc::SYS_fchmodat, given(2)?),
        (FCHMODAT2, given(2)?),
        (libc::SYS_mkdirat, given(2)?),
        (libc::SYS_mknodat, given(2)?),
        (libc::SYS_openat, created(2, 3)?),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend([
        (libc::SYS_chmod, given(1)?),
        (libc::SYS_creat, given(1)?),
        (libc::SYS_mkdir, given(1)?),
        (libc::SYS_mknod, given(1)?),
        (libc::SYS_open, created(1, 2)?),
    ]);
    Ok(rules)
}

/// Refused whatever the arguments.
const ALWAYS: &[i64] = &[
    // Namespaces, mounts and roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Large parts of the kernel with a history of flaws.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_vhangup,
    // Keyrings have no namespace.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    // Placing memory on nodes disturbs neighbours.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// Refused on x86 besides.
#[cfg(target_arch = "x86_64")]
const ALWAYS_X86: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_kexec_file_load,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_fit_the_kernels_bound() {
        let both = [Execution::Anything, Execution::Installed].map(|one| filters(one).unwrap());
        assert!(both.iter().all(|filters| filters.len() >= 2));
        for filter in both.into_iter().flatten() {
            // BPF_MAXINSNS of the kernel.
            assert!(
                (1..=4096).contains(&filter.len()),
                "{} instructions",
                filter.len()
            );
        }
    }

    /// What the kernel would answer to a call, and after how many steps.
    fn answer(program: &[sock_filter], number: i64, args: [u64; 6]) -> (u32, usize) {
        const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") {
            0xC000_003E
        } else {
            0xC000_00B7
        };
        let mut data = vec![u32::try_from(number).unwrap(), AUDIT_ARCH, 0, 0];
        data.extend(
            args.into_iter()
                .flat_map(|arg| [arg & 0xffff_ffff, arg >> 32])
                .map(|half| u32::try_from(half).unwrap()),
        );
        let (mut at, mut held, mut steps) = (0, 0_u32, 0);
        loop {
            let op = &program[at];
            steps += 1;
            at += 1;
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            match op.code {
                LOAD => held = data[op.k as usize / 4],
                JUMP => at += op.k as usize,
                0x15 => at += jump(held == op.k),
                0x25 => at += jump(held > op.k),
                JUMP_AT_LEAST => at += jump(held >= op.k),
                0x45 => at += jump(held & op.k != 0),
                0x54 => held &= op.k,
                ANSWER => return (op.k, steps),
                code => panic!("instruction {code:#x} is new here"),
            }
        }
    }

    #[test]
    fn a_filter_in_parts_answers_as_one_that_compares_with_the_whole_list() {
        let target = std::env::consts::ARCH.try_into().unwrap();
        let program = |rules: Rules| -> Result<BpfProgram, seccompiler::BackendError> {
            let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
            SeccompFilter::new(rules, SeccompAction::Allow, refuse, target)?.try_into()
        };
        let (mut asked, mut refusals, mut longest) = (0, 0, [0, 0]);
        for execution in [Execution::Anything, Execution::Installed] {
            let whole = program(refused(execution).unwrap()).unwrap();
            let parts = in_parts(refused(execution).unwrap(), program).unwrap();
            let bits = (0..32).map(|bit| 1_u64 << bit);
            let values: Vec<u64> = bits.chain([0, 3, 0xffff_ffff, 0x5413, 0o4755]).collect();
            for number in (0..=700).chain([0x4000_0000, 0x4000_0065, i64::from(u32::MAX)]) {
                for (index, value) in values.iter().enumerate() {
                    let other = values[(index * 7 + 3) % values.len()];
                    let args = [*value, other, *value, other, 0, *value];
                    let (one, long) = answer(&whole, number, args);
                    let (same, short) = answer(&parts, number, args);
                    assert_eq!(one, same, "call {number} with {args:?}");
                    asked += 1;
                    refusals += usize::from(same != libc::SECCOMP_RET_ALLOW);
                    longest = [longest[0].max(long), longest[1].max(short)];
                }
            }
        }
        assert!(refusals > 1000 && refusals < asked / 2);
        assert!(longest[1] * 2 < longest[0], "steps at most: {longest:?}");
    }

    #[test]
    fn calls_that_are_not_known_yet_do_not_exist() {
        let newest = ALWAYS.iter().max().unwrap();
        assert!(*newest < i64::from(UNKNOWN_FROM));
        // The C library names none that lies beyond what was looked at.
        assert!(libc::SYS_mseal < i64::from(UNKNOWN_FROM));
        assert_eq!(filters(Execution::Anything).unwrap().len(), 3);
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut seen = std::collections::BTreeSet::new();
        assert!(ALWAYS.iter().all(|call| seen.insert(*call)));
    }
}
