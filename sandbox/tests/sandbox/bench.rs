//! A launcher with a data directory of its own, and what every test does with it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mesh_sandbox::{
    Child, Degradable, Execution, ExitStatus, Ids, Launcher, LauncherConfig, Limits, NetworkAccess,
    Plan, PlanPolicy, Program, SandboxSpec, TempAccess, interpreter_paths, plan,
};
use rustix::fs::{OFlags, fcntl_setfl};
use tempfile::TempDir;

/// Longest wait for a state; everything here takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A user that no test machine gives to anybody.
pub(crate) const IDS: Ids = Ids {
    uid: 61_042,
    gid: 61_042,
};

/// One "meshd" with its data directory.
pub(crate) struct Bench {
    pub(crate) launcher: Launcher,
    pub(crate) dir: TempDir,
    names: AtomicU32,
}

/// What a finished agent left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One that is started another way.
    pub(crate) fn with(change: impl FnOnce(&mut LauncherConfig)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mesh-sandbox-")
            .tempdir()
            .unwrap();
        let mut config = config(dir.path(), "r1");
        change(&mut config);
        let launcher = Launcher::start(config).unwrap();
        Self {
            launcher,
            dir,
            names: AtomicU32::new(0),
        }
    }

    /// The strictest sandbox, around `program`.
    pub(crate) fn spec(&self, program: &str, args: &[&str]) -> SandboxSpec {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        spec(
            self.dir.path(),
            "r1",
            &format!("agent-{number}"),
            program,
            args,
        )
    }

    /// The same around a shell script.
    pub(crate) fn shell(&self, script: &str) -> SandboxSpec {
        self.spec("/bin/sh", &["-c", script])
    }

    /// The same around an attack of this very binary.
    pub(crate) fn attack(&self, args: &[&str]) -> SandboxSpec {
        let args: Vec<&str> = std::iter::once("__attack")
            .chain(args.iter().copied())
            .collect();
        SandboxSpec {
            program: Program::Image,
            ..self.spec("/", &args)
        }
    }

    pub(crate) fn plan(&self, spec: &SandboxSpec) -> Plan {
        plan(spec, self.launcher.probe(), &policy()).unwrap()
    }

    pub(crate) fn start(&self, spec: &SandboxSpec) -> Child {
        self.launcher.launch_blocking(self.plan(spec)).unwrap()
    }

    pub(crate) fn run(&self, spec: &SandboxSpec) -> Outcome {
        finish(self.start(spec))
    }
}

/// Reads everything and waits for the end.
pub(crate) fn finish(mut child: Child) -> Outcome {
    drop(child.stdin.take());
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let status = wait(&child);
    Outcome {
        status,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

fn drain(fd: OwnedFd) -> thread::JoinHandle<String> {
    fcntl_setfl(&fd, OFlags::empty()).unwrap();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(fd).read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Reads until `text` has come.
pub(crate) fn await_text(fd: &OwnedFd, text: &str) {
    fcntl_setfl(fd, OFlags::empty()).unwrap();
    let (mut seen, mut chunk) = (String::new(), [0; 256]);
    while !seen.contains(text) {
        let length = rustix::io::read(fd, &mut chunk).unwrap();
        assert!(length > 0, "ended before {text:?}: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
}

pub(crate) fn wait(child: &Child) -> ExitStatus {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, child.wait()).await })
        .unwrap()
}

/// Looks until `state` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    let start = Instant::now();
    while !state() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn config(dir: &Path, run_id: &str) -> LauncherConfig {
    let tag = dir
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap()
        .to_lowercase();
    LauncherConfig {
        run_dir: dir.join("run"),
        run_id: run_id.into(),
        tag,
        helper: None,
        images: false,
    }
}

pub(crate) fn policy() -> PlanPolicy {
    let degradable = Degradable::ALL.to_vec();
    PlanPolicy {
        required: true,
        degradable,
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn spec(dir: &Path, run_id: &str, name: &str, program: &str, args: &[&str]) -> SandboxSpec {
    let limits = Limits {
        cpu_millicores: Some(1000),
        memory_bytes: Some(512 << 20),
        pids: Some(64),
        nofile: Some(256),
        disk_bytes: None,
        io_bytes_per_second: None,
    };
    SandboxSpec {
        label: name.into(),
        run_id: run_id.into(),
        name: name.into(),
        program: Program::Path(program.into()),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        workdir: None,
        bundle: None,
        home: dir.join("home").join(name),
        home_form: mesh_sandbox::HomeForm::default(),
        state: dir.join("state"),
        allowed_paths: Vec::new(),
        runtime_paths: Vec::new(),
        temp: TempAccess::Private,
        execution: Execution::Anything,
        narrowed: mesh_sandbox::Narrowed::default(),
        network: NetworkAccess::None,
        secrets: Vec::new(),
        limits,
        ids: is_root().then_some(IDS),
    }
}

/// A "meshd" that starts one agent, says so, passes on what it prints, and returns what it returns:
/// `__launch DIRECTORY PROGRAM ARGUMENTS…`
pub(crate) fn launch_main(args: &[String]) -> ExitCode {
    let [dir, program, args @ ..] = args else {
        return ExitCode::from(2);
    };
    let dir = Path::new(dir);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let launcher = Launcher::start(config(dir, "r1")).unwrap();
    let mut spec = spec(dir, "r1", "agent", program, &args);
    for (key, value) in std::env::vars() {
        // What the caller wants inside, and nothing else.
        if let Some(key) = key.strip_prefix("INSIDE_") {
            spec.env.insert(key.to_owned(), value);
        }
    }
    if let Some(bundle) = std::env::var_os("BUNDLE") {
        spec.bundle = Some(bundle.into());
    }
    let plan = plan(&spec, launcher.probe(), &policy()).unwrap();
    let child = launcher.launch_blocking(plan).unwrap();
    if std::env::var_os("FREEZE").is_some() {
        child.freeze().unwrap();
        crate::say("frozen");
    }
    let outcome = finish(child);
    crate::say(outcome.stdout.trim_end());
    ExitCode::from(
        outcome
            .status
            .code
            .map_or(255, |code| u8::try_from(code).unwrap_or(254)),
    )
}

/// A "meshd" of its own process around a script, to be started.
pub(crate) fn meshd(bench: &Bench, script: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("__launch")
        .arg(bench.dir.path())
        .args(["/bin/sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Processes of this machine that have `mark` among their arguments.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // A test's own command line may hold the mark within a longer argument.
            line.split(|byte| *byte == 0)
                .any(|word| word == mark.as_bytes())
        })
        .collect()
}

/// An interpreter of this machine, and the specification that shows it.
pub(crate) fn interpreter(bench: &Bench, name: &str, args: &[&str]) -> Option<SandboxSpec> {
    let found = interpreter_paths(name, &std::env::var_os("PATH")?).ok()?;
    let spec = bench.spec(found.program.to_str()?, args);
    Some(SandboxSpec {
        runtime_paths: found.paths,
        ..spec
    })
}
