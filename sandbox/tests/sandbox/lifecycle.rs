//! Nothing outlives a sandbox, however it ends.

use std::fs;
use std::process::Command;

use mesh_sandbox::{Launcher, Level, SandboxSpec};

use crate::bench::{Bench, await_text, config, eventually, finish, marked, meshd, wait};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    ("daemons_of_an_agent_die_with_it", daemons_die_with_agent),
    ("kill_ends_the_whole_tree_and_may_be_repeated", kill),
    ("terminate_reaches_the_agent_and_only_asks", terminate),
    ("dropping_a_child_ends_it", dropped),
    ("a_frozen_sandbox_stands_still_and_goes_on_or_dies", freeze),
    ("killing_meshd_ends_every_tree", meshd_killed),
    (
        "killing_meshd_ends_frozen_trees_or_the_sweep_does",
        meshd_killed_while_frozen,
    ),
    ("nothing_is_left_of_a_finished_sandbox", nothing_left),
    ("many_sandboxes_start_and_end_at_once", many),
    ("ended_orphans_are_reaped", orphans),
    ("one_helper_waits_while_sandboxes_are_about", spare),
];

/// An argument for `sleep` that marks the processes of one test.
fn mark(test: u32) -> String {
    format!("{}.{test}", 100_000_000 + std::process::id())
}

/// A script that leaves daemons behind in every way a shell knows: three sleeps besides its own.
fn daemons(mark: &str) -> String {
    format!(
        "(setsid sh -c 'trap \"\" TERM HUP; sleep {mark} & sleep {mark}' </dev/null >/dev/null 2>&1 &)
         (nohup sleep {mark} </dev/null >/dev/null 2>&1 &)"
    )
}

fn daemons_die_with_agent() -> Verdict {
    let (bench, mark) = (Bench::new(), mark(1));
    let script = format!("{}; echo up; read line; exit 5", daemons(&mark));
    let mut child = bench.start(&bench.shell(&script));
    await_text(child.stdout.as_ref().unwrap(), "up");
    eventually("three daemons run", || marked(&mark).len() >= 3);
    drop(child.stdin.take());
    assert_eq!(wait(&child).code, Some(5));
    assert_eq!(
        marked(&mark),
        Vec::<u32>::new(),
        "alive after wait() returned"
    );
    Verdict::Passed
}

fn kill() -> Verdict {
    let (bench, mark) = (Bench::new(), mark(2));
    let child = bench.start(&bench.shell(&format!("{}; exec sleep {mark}", daemons(&mark))));
    eventually("all run", || marked(&mark).len() >= 4);
    child.kill().unwrap();
    child.kill().unwrap();
    assert_eq!(wait(&child).signal, Some(libc::SIGKILL));
    assert_eq!(
        marked(&mark),
        Vec::<u32>::new(),
        "alive after wait() returned"
    );
    child.kill().unwrap();
    child.terminate().unwrap();
    Verdict::Passed
}

fn terminate() -> Verdict {
    let bench = Bench::new();
    let script = "trap 'echo asked; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let child = bench.start(&bench.shell(script));
    await_text(child.stdout.as_ref().unwrap(), "up");
    child.terminate().unwrap();
    let outcome = finish(child);
    assert_eq!(
        (outcome.stdout.trim(), outcome.status.code),
        ("asked", Some(7))
    );
    Verdict::Passed
}

fn dropped() -> Verdict {
    let (bench, mark) = (Bench::new(), mark(3));
    let child = bench.start(&bench.shell(&format!("exec sleep {mark}")));
    eventually("it runs", || marked(&mark).len() == 1);
    drop(child);
    eventually("it is gone", || marked(&mark).is_empty());
    Verdict::Passed
}

fn freeze() -> Verdict {
    let bench = Bench::new();
    let child = bench.start(&bench.attack(&["spin"]));
    eventually("it works", || child.usage().cpu_ms > 0);
    let level = child.freeze().unwrap();
    assert_eq!(
        level == Level::Kernel,
        bench.launcher.probe().freezer.finding.works
    );
    if level == Level::Kernel {
        let before = child.usage().cpu_ms;
        std::thread::yield_now();
        assert_eq!(child.usage().cpu_ms, before, "frozen, yet working");
        child.thaw().unwrap();
        eventually("it works again", || child.usage().cpu_ms > before + 1);
        child.freeze().unwrap();
    }
    child.kill().unwrap();
    assert_eq!(wait(&child).signal, Some(libc::SIGKILL));
    Verdict::Passed
}

/// lifecycle-09.
fn meshd_killed() -> Verdict {
    let (bench, mark) = (Bench::new(), mark(4));
    let mut meshd = meshd(&bench, &format!("{}; sleep {mark}", daemons(&mark)))
        .spawn()
        .unwrap();
    eventually("all run", || marked(&mark).len() >= 4);
    meshd.kill().unwrap();
    meshd.wait().unwrap();
    eventually("nothing is left", || marked(&mark).is_empty());
    // Its groups and its record are left to the next run.
    let report = Launcher::start(config(bench.dir.path(), "r2"))
        .unwrap()
        .sweep();
    assert!(
        report.failed.is_empty() && report.removed >= 1 && report.killed == 0,
        "{report:?}"
    );
    Verdict::Passed
}

fn meshd_killed_while_frozen() -> Verdict {
    let (bench, mark) = (Bench::new(), mark(5));
    let mut meshd = meshd(&bench, &format!("sleep {mark}"))
        .env("FREEZE", "1")
        .spawn()
        .unwrap();
    await_text(&meshd.stdout.take().unwrap().into(), "frozen");
    meshd.kill().unwrap();
    meshd.wait().unwrap();
    // The same data directory, the next run.
    let next = Launcher::start(config(bench.dir.path(), "r2")).unwrap();
    let report = next.sweep();
    assert!(
        report.failed.is_empty() && report.removed >= 1,
        "{report:?}"
    );
    let records = std::fs::read_dir(bench.dir.path().join("run"))
        .unwrap()
        .count();
    assert_eq!((records, marked(&mark)), (0, Vec::new()));
    assert_eq!(next.sweep(), mesh_sandbox::SweepReport::default());
    Verdict::Passed
}

fn nothing_left() -> Verdict {
    let bench = Bench::new();
    let outcome = bench.run(&bench.shell("true"));
    assert!(outcome.status.success());
    assert_eq!(
        std::fs::read_dir(bench.dir.path().join("run"))
            .unwrap()
            .count(),
        0
    );
    let tag = config(bench.dir.path(), "r1").tag;
    let pattern = format!("*meshd-{tag}/*");
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-path", &pattern, "-type", "d"])
        .output()
        .unwrap();
    let groups = String::from_utf8(found.stdout).unwrap();
    assert_eq!(groups, "");
    Verdict::Passed
}

fn many() -> Verdict {
    let bench = Bench::new();
    let specs: Vec<SandboxSpec> = (0..24)
        .map(|number| bench.shell(&format!("exit {number}")))
        .collect();
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let bench = &bench;
        let run = |spec| scope.spawn(move || bench.run(spec).status.code);
        let threads: Vec<_> = specs.iter().map(run).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(codes, (0..24).map(Some).collect::<Vec<_>>());
    Verdict::Passed
}

fn orphans() -> Verdict {
    let bench = Bench::new();
    let mut child = bench
        .start(&bench.shell("for i in 1 2 3 4 5 6 7 8; do (true &) ; done; echo up; read line"));
    await_text(child.stdout.as_ref().unwrap(), "up");
    // The shell and the two helpers; a zombie would count.
    eventually("only the shell is left", || child.usage().pids <= 3);
    drop(child.stdin.take());
    wait(&child);
    Verdict::Passed
}

/// Helpers of this process that have no child, and so no order.
fn waiting() -> Vec<u32> {
    let children = |of: u32| -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{of}/task"))
            .into_iter()
            .flatten();
        let lists = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let idle = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ended = stat.contains(") Z ");
        stat.contains("(meshd-sandbox)") && !ended && children(*pid).is_empty()
    };
    children(std::process::id())
        .into_iter()
        .filter(idle)
        .collect()
}

fn spare() -> Verdict {
    let bench = Bench::new();
    assert_eq!(waiting(), Vec::<u32>::new(), "before the first start");
    let mut first = bench.start(&bench.shell("read line"));
    eventually("one waits", || waiting().len() == 1);
    let spare = waiting();
    let mut second = bench.start(&bench.shell("read line"));
    eventually("another took its place", || {
        waiting().len() == 1 && waiting() != spare
    });
    // One that is gone keeps nobody from starting.
    let killed = Command::new("kill")
        .args(["-9", &waiting()[0].to_string()])
        .status();
    assert!(killed.unwrap().success());
    eventually("it is gone", || waiting().is_empty());
    assert_eq!(bench.run(&bench.shell("exit 3")).status.code, Some(3));
    eventually("one waits again", || waiting().len() == 1);
    for child in [&mut first, &mut second] {
        drop(child.stdin.take());
        wait(child);
    }
    eventually("none waits after the last", || waiting().is_empty());
    Verdict::Passed
}
