//! Limits hold, and what is used is told.

use std::time::{Duration, Instant};

use mesh_sandbox::{Level, Limits, SandboxSpec};

use crate::bench::{Bench, await_text, eventually, finish, interpreter, is_root, wait};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    ("too_much_memory_ends_the_agent_and_is_told_as_such", memory),
    ("processes_and_threads_stay_below_their_limit", pids),
    (
        "a_fork_bomb_stays_below_its_limit_and_dies_whole",
        fork_bomb,
    ),
    ("descriptors_stay_below_their_limit", descriptors),
    ("processor_time_is_dealt_out", cpu),
    ("usage_is_told", usage),
    ("files_stay_below_the_disk_limit", file_size),
    ("removed_files_that_are_open_are_found", removed_and_open),
    ("watches_are_left_to_others_of_the_same_user", watches),
    ("closed_directories_cannot_be_added_up", closed_directories),
    (
        "disks_are_used_no_faster_than_allowed_and_that_can_change",
        io,
    ),
];

fn limited(spec: SandboxSpec, limits: Limits) -> SandboxSpec {
    SandboxSpec { limits, ..spec }
}

fn memory() -> Verdict {
    let bench = Bench::new();
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        ..Limits::default()
    };
    let spec = limited(bench.attack(&["memory", "256"]), limits);
    let outcome = bench.run(&spec);
    assert!(!outcome.stdout.contains("ESCAPED"), "{outcome:?}");
    assert!(!outcome.status.success());
    // Without a group the process is refused memory instead of being ended.
    assert_eq!(
        outcome.status.oom,
        bench.launcher.probe().memory.finding.works,
        "{outcome:?}"
    );
    Verdict::Passed
}

fn pids() -> Verdict {
    let bench = Bench::new();
    let limits = Limits {
        pids: Some(20),
        memory_bytes: Some(256 << 20),
        ..Limits::default()
    };
    let outcome = bench.run(&limited(bench.attack(&["threads"]), limits));
    let said = outcome.stdout.strip_prefix("HELD ").unwrap_or_default();
    let threads: u32 = said.trim().parse().unwrap_or(u32::MAX);
    assert!((1..20).contains(&threads), "{outcome:?}");
    Verdict::Passed
}

fn fork_bomb() -> Verdict {
    let bench = Bench::new();
    let limits = Limits {
        pids: Some(20),
        memory_bytes: Some(128 << 20),
        ..Limits::default()
    };
    let spec = limited(
        bench.shell("echo up; bomb() { bomb | bomb & }; (bomb) & exec sleep 1000"),
        limits,
    );
    // The gate: a bomb only where the limit is seen to be the kernel's.
    let plan = bench.plan(&spec);
    let level = plan
        .report()
        .controls
        .iter()
        .find(|one| one.control.name() == "pids")
        .unwrap()
        .level;
    if level != Level::Kernel {
        return Verdict::Skipped(format!("the limit of processes is {level:?} here"));
    }
    let mut child = bench.start(&spec);
    let stdout = child.stdout.take().unwrap();
    await_text(&stdout, "up");
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        // The kernel counts a fork that it refuses until it has taken it back, so a single count may be higher; what is
        // usual may not.
        let mut counts: Vec<_> = (0..9).map(|_| child.usage().pids).collect();
        counts.sort_unstable();
        assert!(counts[4] <= 22, "{counts:?}");
    }
    child.kill().unwrap();
    finish_quietly(child, stdout);
    Verdict::Passed
}

fn finish_quietly(mut child: mesh_sandbox::Child, stdout: std::os::fd::OwnedFd) {
    child.stdout = Some(stdout);
    let outcome = finish(child);
    assert_eq!(outcome.status.signal, Some(libc::SIGKILL), "{outcome:?}");
}

/// A file without a name is found by who holds it open.
fn removed_and_open() -> Verdict {
    let bench = Bench::new();
    let script = "exec 3>gone; rm gone; head -c 3000000 /dev/zero >&3; echo up; read line";
    let mut child = bench.start(&bench.shell(script));
    await_text(child.stdout.as_ref().unwrap(), "up");
    let home = bench.dir.path().join("home");
    let held = child.handle().nameless_bytes(&home).unwrap();
    assert!((3_000_000..4_000_000).contains(&held), "{held}");
    assert!(mesh_sandbox::home_usage(&home).unwrap().bytes < 100_000);
    drop(child.stdin.take());
    wait(&child);
    Verdict::Passed
}

/// Where meshd and the agent have one user, the agent can close its directories to meshd.
fn closed_directories() -> Verdict {
    let bench = Bench::new();
    let script = "mkdir a b; echo x >a/x; echo x >b/x; chmod 0300 a; chmod 0400 b; echo done";
    let outcome = bench.run(&bench.shell(script));
    assert_eq!(outcome.stdout, "done\n");
    let home = bench.dir.path().join("home");
    assert_eq!(mesh_sandbox::home_usage(&home).unwrap().more, !is_root());
    Verdict::Passed
}

/// As meshd's own user an agent shares the kernel's account of what watches files.
fn watches() -> Verdict {
    if is_root() {
        return Verdict::Skipped("each agent of root's has a user of its own".to_owned());
    }
    let bench = Bench::new();
    let most: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let script = "import ctypes\nlibc = ctypes.CDLL(None)\nprint(sum(libc.inotify_init() >= 0 for _ in range(1000)))";
    let Some(spec) = interpreter(&bench, "python3", &["-c", script]) else {
        return Verdict::Skipped("there is no python3".to_owned());
    };
    let limits = Limits {
        nofile: Some(1000),
        ..spec.limits
    };
    let outcome = bench.run(&limited(spec, limits));
    let taken: usize = outcome.stdout.trim().parse().unwrap();
    assert!(taken <= most / 2, "{taken} of {most}");
    Verdict::Passed
}

fn descriptors() -> Verdict {
    let bench = Bench::new();
    let limits = Limits {
        nofile: Some(32),
        ..Limits::default()
    };
    let outcome = bench.run(&limited(
        bench.shell("ulimit -n; ulimit -Hn; ulimit -n 33 2>/dev/null || echo held"),
        limits,
    ));
    assert_eq!(outcome.stdout, "32\n32\nheld\n");
    Verdict::Passed
}

fn cpu() -> Verdict {
    let bench = Bench::new();
    if !bench.launcher.probe().cpu.finding.works {
        return Verdict::Skipped(bench.launcher.probe().cpu.finding.detail.clone());
    }
    let limits = Limits {
        cpu_millicores: Some(100),
        ..Limits::default()
    };
    let child = bench.start(&limited(bench.attack(&["spin"]), limits));
    eventually("some processor time used", || child.usage().cpu_ms >= 20);
    let (start, before) = (Instant::now(), child.usage().cpu_ms);
    eventually("more processor time used", || {
        child.usage().cpu_ms >= before + 100
    });
    // A tenth of a core needs a second for 100 ms; unlimited needs a tenth of one.
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(500),
        "100 ms of processor time within {took:?}"
    );
    Verdict::Passed
}

fn usage() -> Verdict {
    let bench = Bench::new();
    let mut child = bench.start(&bench.shell("echo up; sleep 1000 & sleep 1000"));
    await_text(&child.stdout.take().unwrap(), "up");
    // The shell, two sleeps and the helpers.
    eventually("all processes counted", || child.usage().pids >= 4);
    let usage = child.usage();
    assert!(
        usage.memory_bytes > 100 << 10 && usage.pids <= 8,
        "{usage:?}"
    );
    Verdict::Passed
}

fn file_size() -> Verdict {
    let bench = Bench::new();
    let limits = Limits {
        disk_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let script = "(head -c 8m /dev/zero > big) 2>/dev/null; stat -c %s big";
    let outcome = bench.run(&limited(bench.shell(script), limits));
    assert_eq!(outcome.stdout.trim(), (1 << 20).to_string(), "{outcome:?}");
    Verdict::Passed
}

/// Four megabytes past the page cache at each word; a limit is set, and taken away, while it runs.
fn io() -> Verdict {
    const RATE: u64 = 2 << 20;
    let bench = Bench::new();
    let probe = bench.launcher.probe();
    if !probe.io.finding.works {
        return Verdict::Skipped(probe.io.finding.detail.clone());
    }
    let script = "while read -r word; do dd if=/dev/zero of=file bs=256k count=16 oflag=direct 2>/dev/null && echo done || echo failed; done";
    let spec = SandboxSpec {
        workdir: Some("/home/agent".into()),
        ..bench.shell(script)
    };
    let mut child = bench.start(&spec);
    let (mut stdin, stdout) = (
        std::fs::File::from(child.stdin.take().unwrap()),
        child.stdout.take().unwrap(),
    );
    let mut write = || {
        let begun = Instant::now();
        std::io::Write::write_all(&mut stdin, b"go\n").unwrap();
        await_text(&stdout, "done");
        begun.elapsed()
    };
    write();
    let limited = Limits {
        io_bytes_per_second: Some(RATE),
        ..spec.limits
    };
    let set = child.set_limits(&limited);
    assert!(set.iter().all(|one| one.problem.is_none()), "{set:?}");
    let slow = write();
    // Two seconds' worth, of which the kernel may let a slice go at once.
    assert!(slow > Duration::from_millis(1200), "4 MiB within {slow:?}");
    let freed = child.set_limits(&spec.limits);
    assert!(freed.iter().all(|one| one.problem.is_none()), "{freed:?}");
    eventually("it is fast again", || write() < slow / 2);
    drop(stdin);
    child.kill().unwrap();
    Verdict::Passed
}
