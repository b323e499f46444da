//! Starting a sandboxed process against bubblewrap and against plain spawning: what isolation costs.
//!
//! `cargo bench -p mesh-benches --no-default-features --features sandbox --bench sandbox`, as root, on an idle machine, with
//! `bwrap` installed. Each start is measured from the call until the first byte of `echo` is there; the kinds take turns, so
//! that what disturbs one disturbs all. `MESH_BENCH_STARTS` says how many of each. A start soon after another finds a helper
//! waiting; the first of all does not, and is measured apart.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Unit, machine};
use mesh_sandbox::{
    AllowedPath, Degradable, Execution, Ids, Launcher, LauncherConfig, Limits, NetworkAccess, Plan,
    PlanPolicy, Program, SandboxSpec, TempAccess, plan,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// Starts of each kind, unless `MESH_BENCH_STARTS` says otherwise.
const STARTS: usize = 300;

/// Starts with nothing prepared; each needs a launcher of its own.
const FIRST: usize = 30;

/// Sandboxes that are started at once.
const AT_ONCE: usize = 100;

/// What those may take until all run, in microseconds.
const AT_ONCE_MAX: f64 = 2e6;

/// What a sandbox may add to plain spawning at p50, in microseconds.
const ADDED_MAX: f64 = 4000.0;

const ECHO: &str = "/bin/echo";

fn main() -> Result<(), Box<dyn Error>> {
    if mesh_sandbox::is_helper_invocation() {
        mesh_sandbox::sandbox_main();
    }
    run()
}

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn run() -> Result<(), Box<dyn Error>> {
    let starts = std::env::var("MESH_BENCH_STARTS").map_or(Ok(STARTS), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let bench = Bench::new(dir.path(), "bench")?;
    println!("{}\n{}", machine(), bench.describe());
    let wrapped = Path::new("/usr/bin/bwrap").exists();
    let (mut ours, mut bwrap, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..starts + 3 {
        plain.push(outside(&mut Command::new(ECHO))?);
        ours.push(bench.start(number)?);
        if wrapped {
            bwrap.push(outside(&mut bubblewrap())?);
        }
    }
    let mut report = Report::default();
    for quantile in [50, 99] {
        let goal = |goal| if quantile == 50 { goal } else { Goal::None };
        let (sandboxed, spawned) = (at(&mut ours, quantile), at(&mut plain, quantile));
        if wrapped {
            report.row(
                &format!("start in a sandbox, p{quantile}"),
                Unit::Micros,
                sandboxed,
                ("bubblewrap", at(&mut bwrap, quantile)),
                goal(Goal::Times(1.1)),
            );
        }
        report.row(
            &format!("start in a sandbox, p{quantile}"),
            Unit::Micros,
            sandboxed,
            ("plain spawn", spawned),
            Goal::None,
        );
        report.row(
            &format!("added to plain spawn, p{quantile}"),
            Unit::Micros,
            sandboxed - spawned,
            ("4 ms", ADDED_MAX),
            goal(Goal::AtMost),
        );
    }
    let mut first = (0..FIRST + 3)
        .map(|number| {
            let fresh = Bench::new(dir.path(), &format!("first-{number}"))?;
            let took = fresh.start(20_000 + number);
            fresh.launcher.close();
            took
        })
        .collect::<Result<Vec<_>, _>>()?;
    report.row(
        "the first start, no helper waiting, p50",
        Unit::Micros,
        at(&mut first, 50),
        ("one that waits", at(&mut ours, 50)),
        Goal::None,
    );
    report.row(
        "a hundred at once, until all run",
        Unit::Micros,
        bench.at_once()?.as_secs_f64() * 1e6,
        ("2 s", AT_ONCE_MAX),
        Goal::AtMost,
    );
    println!("\n{}", report.table());
    if !wrapped {
        println!("bwrap is not installed, so nothing is compared with it");
    }
    bench.launcher.close();
    Ok(())
}

/// A quantile, in microseconds; the first three starts only warm up.
fn at(times: &mut [Duration], quantile: usize) -> f64 {
    let Some(times) = times.get_mut(3..) else {
        return f64::NAN;
    };
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = (times.len() * quantile / 100).min(times.len().saturating_sub(1));
    times
        .get(index)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Until the first byte of a program that is no sandbox of ours.
fn outside(command: &mut Command) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    let mut child = command
        .arg("x")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    stdout.read_exact(&mut [0])?;
    let took = begun.elapsed();
    child.wait()?;
    Ok(took)
}

/// What bubblewrap can do of the same: every namespace, a read-only system, own `/tmp`, `/proc` and `/dev`.
fn bubblewrap() -> Command {
    let mut command = Command::new("/usr/bin/bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--new-session"]);
    for tree in ["/usr", "/bin", "/lib", "/lib64"] {
        if Path::new(tree).exists() {
            command.args(["--ro-bind", tree, tree]);
        }
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", ECHO]);
    command
}

struct Bench {
    launcher: Launcher,
    runtime: tokio::runtime::Runtime,
    dir: PathBuf,
}

impl Bench {
    fn new(dir: &Path, tag: &str) -> Result<Self, Box<dyn Error>> {
        let launcher = Launcher::start(LauncherConfig {
            images: false,
            run_dir: dir.join("run"),
            run_id: "bench".to_owned(),
            tag: format!("{tag}-{}", std::process::id()),
            helper: None,
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let dir = dir.to_owned();
        // Agents' users have to get to their homes.
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        Ok(Self {
            launcher,
            runtime,
            dir,
        })
    }

    /// What is enforced, by how many of the controls.
    fn describe(&self) -> String {
        let Ok(plan) = self.plan(0) else {
            return "no sandbox can be planned here".to_owned();
        };
        let controls = &plan.report().controls;
        let by_kernel = controls
            .iter()
            .filter(|one| one.level == mesh_sandbox::Level::Kernel);
        format!(
            "{} of {} controls are the kernel's",
            by_kernel.count(),
            controls.len()
        )
    }

    fn plan(&self, number: usize) -> Result<Plan, Box<dyn Error>> {
        let root = self.launcher.probe().root;
        let spec = SandboxSpec {
            label: "bench".to_owned(),
            run_id: "bench".to_owned(),
            name: format!("start-{number}"),
            program: Program::Path(ECHO.into()),
            args: vec!["x".to_owned()],
            env: BTreeMap::new(),
            workdir: None,
            bundle: None,
            home: self.dir.join("home"),
            home_form: mesh_sandbox::HomeForm::default(),
            state: self.dir.clone(),
            allowed_paths: Vec::<AllowedPath>::new(),
            runtime_paths: Vec::new(),
            temp: TempAccess::Private,
            execution: Execution::Anything,
            narrowed: mesh_sandbox::Narrowed::default(),
            network: NetworkAccess::None,
            secrets: Vec::new(),
            limits: Limits {
                cpu_millicores: Some(1000),
                memory_bytes: Some(512 << 20),
                pids: Some(256),
                nofile: Some(1024),
                disk_bytes: Some(1 << 30),
                io_bytes_per_second: None,
            },
            ids: root.then_some(Ids {
                uid: 61_099,
                gid: 61_099,
            }),
        };
        let policy = PlanPolicy {
            required: true,
            degradable: Degradable::ALL.to_vec(),
        };
        Ok(plan(&spec, self.launcher.probe(), &policy)?)
    }

    /// Until the first byte of a program in a sandbox.
    fn start(&self, number: usize) -> Result<Duration, Box<dyn Error>> {
        let plan = self.plan(number)?;
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut child = self.launcher.launch(plan).await?;
            let stdout = child.stdout.take().ok_or("no output")?;
            pipe::Receiver::from_owned_fd(stdout)?.read_u8().await?;
            let took = begun.elapsed();
            child.wait().await;
            Ok(took)
        })
    }

    /// Until the programs of all sandboxes run that are started at the same time.
    fn at_once(&self) -> Result<Duration, Box<dyn Error>> {
        let plans = (0..AT_ONCE).map(|number| self.plan(10_000 + number));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        self.runtime.block_on(async {
            let begun = Instant::now();
            let started = plans.into_iter().map(|plan| self.launcher.launch(plan));
            let children = futures::future::try_join_all(started).await?;
            let took = begun.elapsed();
            for child in &children {
                child.wait().await;
            }
            Ok(took)
        })
    }
}
