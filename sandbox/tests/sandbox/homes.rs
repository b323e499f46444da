//! Homes that are file systems of their own: the kernel holds the sum of what lies in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_sandbox::{Child, Control, Execution, HomeForm, Level, Limits, SandboxSpec, image_usage};

use crate::bench::{Bench, IDS, await_text, eventually, finish};
use crate::{Test, Verdict};

const MIB: u64 = 1 << 20;

pub(crate) const TESTS: &[Test] = &[
    ("a_home_that_is_an_image_holds_no_more_than_it_may", holds),
    ("processes_of_one_home_share_one_file_system", shared),
    ("a_home_grows_and_shrinks_while_it_is_used", resized),
    ("what_is_removed_is_given_back_to_the_disk", given_back),
    (
        "an_image_runs_nothing_where_nothing_may_be_executed",
        noexec,
    ),
    ("an_image_of_somebody_elses_is_not_mounted", strange),
    ("a_damaged_home_is_mended_or_refused", damaged),
    (
        "a_disk_that_is_full_below_a_home_is_told_and_gets_over",
        full_below,
    ),
    ("how_fast_an_image_is_used_is_limited_like_any_disk", io),
];

/// A bench whose homes can be images, or why there is none.
fn bench() -> Result<Bench, Verdict> {
    let bench = Bench::with(|config| config.images = true);
    let found = &bench.launcher.probe().images;
    if found.works {
        return Ok(bench);
    }
    assert!(found.remedy.is_some(), "{found:?}");
    Err(Verdict::Skipped(found.detail.clone()))
}

macro_rules! bench {
    () => {
        match bench() {
            Ok(bench) => bench,
            Err(skipped) => return skipped,
        }
    };
}

fn image(bench: &Bench) -> PathBuf {
    bench.dir.path().join("images/utility/one.ext4")
}

/// A shell in the one home of the bench, of so many bytes.
fn shell(bench: &Bench, bytes: u64, script: &str) -> SandboxSpec {
    let spec = bench.shell(script);
    SandboxSpec {
        home: bench.dir.path().join("home/one"),
        home_form: HomeForm::Image { path: image(bench) },
        limits: Limits {
            disk_bytes: Some(bytes),
            ..spec.limits
        },
        ..spec
    }
}

/// How many loop devices show the image.
fn devices(image: &Path) -> usize {
    let shown = |entry: fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        (Path::new(file.trim()) == image).then_some(())
    };
    let entries = fs::read_dir("/sys/block").unwrap().filter_map(Result::ok);
    entries.filter_map(shown).count()
}

#[track_caller]
fn nothing_is_left(image: &Path) {
    eventually("no loop device shows the image", || devices(image) == 0);
}

fn holds() -> Verdict {
    let bench = bench!();
    let script = "set -e; grep ' /home/agent ' /proc/self/mountinfo; ls -A ~ | wc -l; echo kept > ~/note; set +e
        i=0; while head -c 1048576 /dev/zero > ~/f$i 2>/dev/null; do i=$((i+1)); [ $i -lt 100 ] || break; done
        echo wrote $i; head -c 1048576 /dev/zero > ~/more || echo refused; echo done; cat";
    let spec = shell(&bench, 32 * MIB, script);
    let report = bench.plan(&spec).report().clone();
    let disk = report
        .controls
        .iter()
        .find(|one| one.control == Control::Disk);
    let disk = disk.unwrap();
    assert_eq!(
        (disk.level, disk.mechanism.as_str()),
        (Level::Kernel, "ext4 image")
    );
    assert!(disk.detail.contains("33554432 bytes"), "{disk:?}");
    let child = bench.start(&spec);
    await_text(child.stdout.as_ref().unwrap(), "done");
    let strain = child.strain();
    assert!(
        (20 * MIB..=32 * MIB).contains(&strain.home_full),
        "{strain:?}"
    );
    assert_eq!(devices(&image(&bench)), 1);
    // It is nowhere on the host.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&*bench.dir.path().to_string_lossy()),
        "{mounts}"
    );
    assert_eq!(
        fs::read_dir(bench.dir.path().join("home/one"))
            .unwrap()
            .count(),
        0
    );
    let handle = child.handle();
    finish(child);
    assert_eq!(handle.strain().home_full, strain.home_full);
    nothing_is_left(&image(&bench));
    // Its files are there in its next life, and what was refused is refused still.
    let next = "cat ~/note; ls ~ | wc -l; head -c 8388608 /dev/zero > ~/again || echo refused; grep ' /home/agent ' /proc/self/mountinfo; ls /dev";
    let outcome = bench.run(&shell(&bench, 32 * MIB, next));
    let said = &outcome.stdout;
    assert!(
        said.starts_with("kept\n") && said.contains("refused"),
        "{outcome:?}"
    );
    assert!(said.contains("nosuid,nodev"), "{outcome:?}");
    assert!(!said.contains("loop-control"), "{outcome:?}");
    let text = "No space left on device";
    assert!(outcome.stderr.contains(text), "{outcome:?}");
    Verdict::Passed
}

fn shared() -> Verdict {
    let bench = bench!();
    let wait = "echo ready; read line; ls ~";
    let one = bench.start(&shell(&bench, 32 * MIB, &format!("echo 1 > ~/one; {wait}")));
    let two = bench.start(&shell(&bench, 32 * MIB, &format!("echo 2 > ~/two; {wait}")));
    for child in [&one, &two] {
        await_text(child.stdout.as_ref().unwrap(), "ready");
    }
    assert_eq!(devices(&image(&bench)), 1);
    assert!(image_usage(&image(&bench)).unwrap().unwrap() > 0);
    for child in [one, two] {
        let outcome = finish(child);
        assert_eq!(outcome.stdout, "one\ntwo\n", "{outcome:?}");
    }
    nothing_is_left(&image(&bench));
    assert_eq!(image_usage(&image(&bench)).unwrap(), None);
    // Several that make it at once are one home, too.
    fs::remove_file(image(&bench)).unwrap();
    let racers: Vec<_> = std::thread::scope(|scope| {
        let start = || {
            bench.start(&shell(
                &bench,
                32 * MIB,
                "echo x >> ~/all; echo ready; read line; wc -l < ~/all",
            ))
        };
        let started: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        started.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for child in &racers {
        await_text(child.stdout.as_ref().unwrap(), "ready");
    }
    assert_eq!(devices(&image(&bench)), 1);
    for child in racers {
        assert_eq!(finish(child).stdout.trim(), "4");
    }
    Verdict::Passed
}

/// Why the limit of disk does not hold at once, if it does not.
fn limit(child: &Child, bytes: u64) -> Option<String> {
    let limits = Limits {
        disk_bytes: Some(bytes),
        ..Limits::default()
    };
    let set = child.set_limits(&limits);
    let disk = set.iter().find(|one| one.control == Control::Disk).unwrap();
    disk.problem.clone()
}

fn resized() -> Verdict {
    let bench = bench!();
    let fill = "fill() { head -c $(($2 * 1048576)) /dev/zero > ~/$1 2>/dev/null && echo yes || { echo no; rm ~/$1; }; sync; }";
    let script = format!("{fill}; while read name size; do fill $name $size; done");
    let mut child = bench.start(&shell(&bench, 32 * MIB, &script));
    let ask = |child: &Child, name: &str, size: u64, answer: &str| {
        let line = format!("{name} {size}\n");
        rustix::io::write(child.stdin.as_ref().unwrap(), line.as_bytes()).unwrap();
        await_text(child.stdout.as_ref().unwrap(), answer);
    };
    ask(&child, "a", 30, "no");
    if let Some(problem) = limit(&child, 96 * MIB) {
        // Without CAP_SYS_RESOURCE it grows at the next start.
        assert!(problem.contains("not permitted"), "{problem}");
        finish(child);
        child = bench.start(&shell(&bench, 96 * MIB, &script));
    }
    // A single file is bounded by what held at the start.
    for name in ["a", "b"] {
        ask(&child, name, 30, "yes");
    }
    ask(&child, "c", 60, "no");
    assert_eq!(limit(&child, 48 * MIB), None);
    ask(&child, "d", 1, "no");
    assert_eq!(limit(&child, 96 * MIB), None);
    ask(&child, "d", 10, "yes");
    finish(child);
    nothing_is_left(&image(&bench));
    // A limit that was changed between two lives holds from the start.
    let probe = "head -c 1048576 /dev/zero > ~/e && echo yes || echo no";
    let outcome = bench.run(&shell(&bench, 40 * MIB, probe));
    assert_eq!(outcome.stdout.trim(), "no", "{outcome:?}");
    nothing_is_left(&image(&bench));
    let outcome = bench.run(&shell(
        &bench,
        200 * MIB,
        "head -c 104857600 /dev/zero > ~/f && echo yes",
    ));
    assert_eq!(outcome.stdout.trim(), "yes", "{outcome:?}");
    Verdict::Passed
}

fn given_back() -> Verdict {
    use std::os::unix::fs::MetadataExt as _;
    let bench = bench!();
    bench.run(&shell(
        &bench,
        64 * MIB,
        "head -c 41943040 /dev/urandom > ~/a; sync",
    ));
    nothing_is_left(&image(&bench));
    let on_disk = || fs::metadata(image(&bench)).unwrap().blocks() * 512;
    let full = on_disk();
    assert!(full >= 40 * MIB, "{full}");
    bench.run(&shell(&bench, 64 * MIB, "rm ~/a; sync"));
    nothing_is_left(&image(&bench));
    assert!(on_disk() < 16 * MIB, "{} of {full}", on_disk());
    Verdict::Passed
}

fn noexec() -> Verdict {
    let bench = bench!();
    let script = "cp /bin/true ~/mine; ~/mine && echo ran || echo refused; grep ' /home/agent ' /proc/self/mountinfo";
    let spec = SandboxSpec {
        execution: Execution::Installed,
        ..shell(&bench, 32 * MIB, script)
    };
    let outcome = bench.run(&spec);
    assert!(outcome.stdout.starts_with("refused"), "{outcome:?}");
    assert!(
        outcome.stdout.contains("nosuid,nodev,noexec"),
        "{outcome:?}"
    );
    Verdict::Passed
}

fn strange() -> Verdict {
    let bench = bench!();
    bench.run(&shell(&bench, 32 * MIB, "true"));
    nothing_is_left(&image(&bench));
    let mut spec = shell(&bench, 32 * MIB, "true");
    let other = mesh_sandbox::Ids {
        uid: IDS.uid + 1,
        gid: IDS.gid + 1,
    };
    spec.ids = Some(other);
    spec.home = bench.dir.path().join("home/other");
    let refused = bench.launcher.launch_blocking(bench.plan(&spec));
    let text = format!("{:?}", refused.err().unwrap());
    assert!(text.contains("belongs to user 61042"), "{text}");
    nothing_is_left(&image(&bench));
    Verdict::Passed
}

fn damaged() -> Verdict {
    use std::os::unix::fs::FileExt as _;
    let bench = bench!();
    bench.run(&shell(&bench, 32 * MIB, "echo kept > ~/note"));
    nothing_is_left(&image(&bench));
    // The kernel's mark that it met errors.
    let marked = std::process::Command::new("debugfs")
        .args(["-w", "-R", "set_super_value state 3"])
        .arg(image(&bench))
        .output();
    if !marked.is_ok_and(|marked| marked.status.success()) {
        return Verdict::Skipped("debugfs is not there".into());
    }
    let outcome = bench.run(&shell(&bench, 32 * MIB, "cat ~/note"));
    assert_eq!(outcome.stdout, "kept\n", "{outcome:?}");
    nothing_is_left(&image(&bench));
    // Without its head nothing can be mended, and nothing is made anew in its place.
    let file = fs::File::options().write(true).open(image(&bench)).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    file.sync_all().unwrap();
    let refused = bench
        .launcher
        .launch_blocking(bench.plan(&shell(&bench, 32 * MIB, "true")));
    assert!(refused.is_err());
    nothing_is_left(&image(&bench));
    Verdict::Passed
}

/// A file system in memory, which goes with this.
struct Memory(PathBuf);

impl Memory {
    fn mount(place: &Path, options: &str) -> Self {
        fs::create_dir_all(place).unwrap();
        let memory = Self(place.to_owned());
        memory.again(options);
        memory
    }

    fn again(&self, options: &str) {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0)
            .status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

fn full_below() -> Verdict {
    let bench = bench!();
    let images = Memory::mount(&bench.dir.path().join("images"), "size=12m");
    let script = "echo kept > ~/note; sync; head -c 20971520 /dev/urandom > ~/a; sync ~/a && echo lied; echo end";
    let outcome = bench.run(&shell(&bench, 64 * MIB, script));
    assert_eq!(outcome.stdout, "end\n", "{outcome:?}");
    nothing_is_left(&image(&bench));
    images.again("remount,size=100m");
    let again = "cat ~/note; echo more > ~/b && sync ~/b && echo written";
    let outcome = bench.run(&shell(&bench, 64 * MIB, again));
    assert_eq!(outcome.stdout, "kept\nwritten\n", "{outcome:?}");
    nothing_is_left(&image(&bench));
    Verdict::Passed
}

fn io() -> Verdict {
    const BYTES_PER_SECOND: u64 = 2 * MIB;
    let bench = bench!();
    let found = &bench.launcher.probe().io.finding;
    if !found.works {
        return Verdict::Skipped(found.detail.clone());
    }
    let write = "dd if=/dev/zero of=$HOME/a bs=1M count=6 oflag=direct 2>/dev/null && echo done";
    let mut spec = shell(&bench, 32 * MIB, write);
    spec.limits.io_bytes_per_second = Some(BYTES_PER_SECOND);
    let begun = Instant::now();
    let outcome = bench.run(&spec);
    assert_eq!(outcome.stdout, "done\n", "{outcome:?}");
    // A burst goes first.
    assert!(
        begun.elapsed() > Duration::from_millis(1_500),
        "{:?}",
        begun.elapsed()
    );
    Verdict::Passed
}
