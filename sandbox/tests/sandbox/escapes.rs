//! The table of known escapes (`tests/escapes/`), row by row: what must be held is tried within a real sandbox, what
//! must work has to work, and the same attempts are made without a sandbox, to see which of them prove something.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_sandbox::{Level, SandboxSpec};
use tempfile::TempDir;

use crate::bench::{Bench, IDS, Outcome, is_root};
use crate::world::{HOST_ADDRESS, METADATA_ADDRESS, WORLD, without_lines};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    ("every_row_of_the_table_of_escapes_holds", rows_hold),
    ("the_rows_prove_something_without_a_sandbox", rows_outside),
    ("what_clings_to_life_is_gone_within_a_second", clinging),
    ("each_row_is_tried_or_has_a_test", all_named),
];

const TABLE: &str = include_str!("../escapes/ESCAPES.tsv");
const MORE: &str = include_str!("../escapes/MORE.tsv");
const ATTEMPTS: &str = include_str!("../escapes/esc.c");

/// Where the compiled attempts lie inside: in the bundle.
const INSIDE: &str = "/agent/esc";

/// Programs that rows call by name lie in these, inside and outside.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Rows that get through for an ordinary user without a sandbox wherever they are tried, so that what holds them inside
/// is the sandbox and nothing else.
const THROUGH_OUTSIDE: &[&str] = &[
    "fs-read-02",
    "fs-read-03",
    "fs-read-09",
    "fs-read-10",
    "fs-read-12",
    "fs-read-20",
    "proc-01",
    "proc-04",
    "proc-06",
    "proc-07",
    "proc-13",
    "proc-17",
    "proc-20",
    "proc-23",
    "proc-31",
    "ipc-09",
    "ipc-10",
    "ipc-11",
    "ipc-17",
    "secret-03",
    "secret-04",
    "more-02",
    "more-03",
    "more-18",
    "more-21",
    "more-53",
    "more-23",
    "more-27",
    "more-29",
    "more-54",
    "more-56",
    "more-58",
    "more-59",
    "more-61",
    "more-62",
    "more-68",
    "more-72",
    "more-75",
    "more-76",
];

/// The same, where the test has a network of its own with the addresses that rows look for.
const THROUGH_IN_A_WORLD: &[&str] = &[
    "ipc-06", "ipc-07", "ipc-08", "net-04", "net-05", "net-06", "net-10", "more-36",
];

/// A row of a table.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: &'static str,
    category: &'static str,
    command: &'static str,
    mode: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    let line = |line: &'static str| {
        let mut fields = line.split('\t');
        let mut next = || fields.next().expect("five fields at least");
        let (id, category, command, _expected, mode) = (next(), next(), next(), next(), next());
        Row {
            id,
            category,
            command,
            mode,
        }
    };
    without_lines(TABLE).chain(without_lines(MORE)).map(line)
}

/// What the rows look for outside of the sandbox.
struct World {
    fix: TempDir,
    bundle: PathBuf,
    variables: BTreeMap<String, String>,
    victims: Vec<Child>,
    _listeners: Vec<TcpListener>,
    _unix: Vec<UnixListener>,
    own_network: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        for victim in &mut self.victims {
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        fs::remove_file("/dev/shm/meshfix").ok();
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Compiles the attempts, or says why that cannot be done here.
fn compile(into: &Path) -> Result<(), String> {
    let source = into.join("esc.c");
    fs::write(&source, ATTEMPTS).unwrap();
    let answer = Command::new("cc")
        .args(["-O1", "-w", "-static", "-o"])
        .arg(into.join("esc"))
        .arg(&source)
        .arg("-lpthread")
        .output()
        .map_err(|error| format!("no C compiler: {error}"))?;
    if answer.status.success() {
        return Ok(());
    }
    Err(format!(
        "the attempts do not compile: {}",
        String::from_utf8_lossy(&answer.stderr)
    ))
}

/// The same command as the agent's own user.
fn as_agent(command: &mut Command) -> &mut Command {
    if is_root() {
        command.uid(IDS.uid).gid(IDS.gid);
    }
    command
}

impl World {
    fn new() -> Result<Self, String> {
        use std::os::linux::net::SocketAddrExt as _;
        let fix = tempfile::Builder::new()
            .prefix("meshfix-")
            .tempdir()
            .unwrap();
        open_to_all(fix.path(), 0o755);
        let real = fs::canonicalize(fix.path()).unwrap();
        fs::write(real.join("secret"), "top secret\n").unwrap();
        open_to_all(&real.join("secret"), 0o644);
        let bundle = real.join("bundle");
        fs::create_dir(&bundle).unwrap();
        open_to_all(&bundle, 0o755);
        compile(&bundle)?;
        let path_socket = UnixListener::bind(real.join("host.sock")).unwrap();
        open_to_all(&real.join("host.sock"), 0o777);
        let own_network = std::env::var_os(WORLD).is_some();
        let names: &[&str] = if own_network {
            &["meshfix", "/tmp/.X11-unix/X0"]
        } else {
            &["meshfix"]
        };
        let mut unix = vec![path_socket];
        for name in names {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            // Another run of this test may hold the name; it is the host's all the same.
            unix.extend(UnixListener::bind_addr(&address).ok());
        }
        let mut listeners = vec![TcpListener::bind("0.0.0.0:0").unwrap()];
        let port = listeners[0].local_addr().unwrap().port();
        if own_network {
            listeners.push(TcpListener::bind((METADATA_ADDRESS, 80)).unwrap());
            listeners.push(TcpListener::bind((HOST_ADDRESS, 443)).unwrap());
            fs::write("/dev/shm/meshfix", "x").unwrap();
            open_to_all(Path::new("/dev/shm/meshfix"), 0o644);
        }
        let victim = as_agent(&mut Command::new("/bin/sleep"))
            .arg("100000")
            .env("HOSTCMDLINESECRET", "topsecret")
            .current_dir(&real)
            .spawn()
            .unwrap();
        let variables = [
            ("E", INSIDE.to_owned()),
            ("FIX", real.to_str().unwrap().to_owned()),
            ("HOSTPID", victim.id().to_string()),
            ("HOSTTCP", port.to_string()),
            ("HOSTIP", HOST_ADDRESS.to_owned()),
            ("METAIP", METADATA_ADDRESS.to_owned()),
            ("PATH", PATH.to_owned()),
        ];
        let variables = variables
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let mut world = Self {
            fix,
            bundle,
            variables,
            victims: vec![victim],
            _listeners: listeners,
            _unix: unix,
            own_network,
        };
        if own_network {
            world.kernel_objects();
        }
        Ok(world)
    }

    /// System V memory and a message queue, in the IPC namespace of this test.
    fn kernel_objects(&mut self) {
        let mut holder = Command::new(self.bundle.join("esc"))
            .arg("fixtures")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        self.victims.push(holder);
        assert_eq!(said, "READY 1 1\n");
    }

    fn inside(&self, bench: &Bench, row: Row) -> Outcome {
        let mut spec = bench.shell(row.command);
        spec.bundle = Some(self.bundle.clone());
        spec.env.extend(self.variables.clone());
        bench.run(&SandboxSpec {
            workdir: Some("/home/agent".into()),
            ..spec
        })
    }

    /// The same without a sandbox, as the same user and in a directory of its own.
    fn outside(&self, row: Row) -> String {
        let dir = tempfile::tempdir_in(self.fix.path()).unwrap();
        open_to_all(dir.path(), 0o777);
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["10", "/bin/sh", "-c", row.command]);
        command
            .envs(&self.variables)
            .env("E", self.bundle.join("esc"))
            .env("HOME", dir.path());
        // A file and not a pipe: what an attempt leaves behind would hold the pipe open.
        let told = self.fix.path().join("told");
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&told).unwrap())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = as_agent(&mut command).spawn().unwrap();
        let group = rustix::process::Pid::from_child(&child);
        child.wait().unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        fs::read_to_string(told).unwrap()
    }

    /// Why this machine cannot show a row, when it cannot.
    fn lacks(&self, row: Row) -> Option<&'static str> {
        let needs_network = row.category == "net" && !row.command.contains("127.0.0.1");
        let needs_world = needs_network || THROUGH_IN_A_WORLD.contains(&row.id);
        if needs_world && !self.own_network {
            return Some("only in namespaces that the test makes as root");
        }
        [
            ("node ", "/usr/bin/node", "no node"),
            ("python3 ", "/usr/bin/python3", "no python3"),
        ]
        .into_iter()
        .find(|(call, path, _)| row.command.contains(call) && !Path::new(path).exists())
        .map(|(.., why)| why)
    }
}

/// The control that a row tries, where this machine may enforce it weaker than the kernel would.
fn control_of(row: Row) -> Option<&'static str> {
    match row.id {
        "res-01" | "more-44" => Some("pids"),
        "res-03" => Some("memory"),
        _ => None,
    }
}

/// How a row ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Held,
    /// It held, and this machine promises it less firmly than a kernel can.
    Weaker,
    Lacking(&'static str),
    Failed(String),
}

fn judge(row: Row, outcome: &Outcome) -> Result<(), String> {
    let said = outcome.stdout.trim();
    let good = match (row.mode, row.id) {
        ("positive", _) => said.ends_with("OK"),
        // Neither is a boundary by itself; what counts is that nothing is gained.
        ("contained", "fs-write-29") => said == "RAN",
        _ => {
            // An attempt that is killed for it was held, too.
            let killed = outcome.status.signal.is_some()
                || outcome.status.code.is_some_and(|code| code > 128);
            !said.contains("ESCAPED")
                && !said.contains("UNKNOWN")
                && (said.contains("BLOCKED") || killed)
        }
    };
    if good {
        Ok(())
    } else {
        Err(format!("{} `{}`: {outcome:?}", row.id, row.command))
    }
}

fn rows_hold() -> Verdict {
    let bench = Bench::new();
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return Verdict::Skipped(why),
    };
    let level = |control: &str| {
        let plan = bench.plan(&bench.shell("true"));
        plan.report()
            .controls
            .iter()
            .find(|one| one.control.name() == control)
            .unwrap()
            .level
    };
    let row_of = |id: &str| rows().find(|row| row.id == id).unwrap();
    // The gate for what would hurt the host: the sandbox is seen to be on.
    for id in ["proc-01", "proc-20", "proc-22", "proc-23", "fs-write-03"] {
        judge(row_of(id), &world.inside(&bench, row_of(id))).unwrap();
    }
    let tried = |row: Row| {
        if let Some(why) = world.lacks(row) {
            return Ending::Lacking(why);
        }
        match judge(row, &world.inside(&bench, row)) {
            Err(why) => Ending::Failed(why),
            Ok(()) if control_of(row).is_some_and(|control| level(control) != Level::Kernel) => {
                Ending::Weaker
            }
            Ok(()) => Ending::Held,
        }
    };
    let ours = rows().filter(|row| ["blocked", "contained", "positive"].contains(&row.mode));
    let endings: Vec<(Row, Ending)> = ours.map(|row| (row, tried(row))).collect();
    let count =
        |wanted: fn(&Ending) -> bool| endings.iter().filter(|(_, ending)| wanted(ending)).count();
    for (row, ending) in &endings {
        match ending {
            Ending::Held => {}
            Ending::Weaker => crate::say(&format!(
                "  {}: held, but this machine gives no kernel limit",
                row.id
            )),
            Ending::Lacking(why) => crate::say(&format!("  {}: SKIPPED: {why}", row.id)),
            Ending::Failed(why) => crate::say(&format!("  {why}")),
        }
    }
    crate::say(&format!(
        "  {} rows: {} held, {} held by less than the kernel, {} not shown here",
        endings.len(),
        count(|ending| *ending == Ending::Held),
        count(|ending| *ending == Ending::Weaker),
        count(|ending| matches!(ending, Ending::Lacking(_))),
    ));
    assert_eq!(
        count(|ending| matches!(ending, Ending::Failed(_))),
        0,
        "rows failed, see above"
    );
    Verdict::Passed
}

/// What the end of a sandbox may take, from the order until nothing in it is left.
const KILL_MAX: Duration = Duration::from_secs(1);
/// Ends of each kind that are tried.
const KILLS: usize = 3;

/// Starts what clings to life, ends it, and says how long that took.
fn last_breath(bench: &Bench, world: &World, script: &str, (act, mark): (&str, &str)) -> Duration {
    let mut spec = bench.shell(script);
    spec.bundle = Some(world.bundle.clone());
    spec.env.extend(world.variables.clone());
    let child = bench.start(&spec);
    crate::bench::await_text(child.stdout.as_ref().unwrap(), "up");
    crate::bench::eventually("it is there", || !crate::bench::marked(mark).is_empty());
    child.terminate().unwrap();
    let asked = std::time::Instant::now();
    child.kill().unwrap();
    crate::bench::wait(&child);
    let took = asked.elapsed();
    assert_eq!(crate::bench::marked(mark), Vec::<u32>::new(), "{act} lives");
    took
}

/// lifecycle-01, lifecycle-03, lifecycle-05, and their like: however a program holds on, its end is the end of all of it.
fn clinging() -> Verdict {
    let bench = Bench::new();
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return Verdict::Skipped(why),
    };
    // A process group of its own, signals blocked, stopped, output closed, or none of it.
    for act in [
        "daemon",
        "holdpipe",
        "ignterm",
        "selfstop",
        "closestdio",
        "nostdin",
    ] {
        let mark = format!("clinging-{}-{act}", std::process::id());
        // Those that leave a daemon end at once, and with them would the sandbox.
        let stays = if ["daemon", "holdpipe"].contains(&act) {
            "nostdin"
        } else {
            act
        };
        let script =
            format!("\"$E\" {act} {mark} & sleep 0.1; echo up; exec \"$E\" {stays} {mark}");
        let mut times = Vec::new();
        let in_time = loop {
            times.push(last_breath(&bench, &world, &script, (act, &mark)));
            // Other work on the machine only ever adds time.
            let in_time = times.last().is_some_and(|&took| took <= KILL_MAX);
            if in_time || times.len() == KILLS {
                break in_time;
            }
        };
        assert!(in_time, "{act} took {times:?}");
    }
    Verdict::Passed
}

/// Rows that no program inside can carry out are tests of their own, which name them.
fn all_named() -> Verdict {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut named = String::new();
    for place in [
        "sandbox",
        "egress",
        "vault",
        "actors/src",
        "messages",
        "tests/it",
        "tests/scenarios",
    ] {
        read_tests(&root.join(place), &mut named);
    }
    let elsewhere = rows().filter(|row| ["host", "proxy", "daemon"].contains(&row.mode));
    let missing: Vec<_> = elsewhere
        .map(|row| row.id)
        .filter(|id| !named.contains(id))
        .collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
    Verdict::Passed
}

fn read_tests(place: &Path, into: &mut String) {
    for entry in fs::read_dir(place).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            read_tests(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Attempts that fail everywhere would prove nothing.
fn rows_outside() -> Verdict {
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return Verdict::Skipped(why),
    };
    // What uses up the machine stays inside.
    let harmless = rows().filter(|row| row.mode == "blocked" && row.category != "res");
    let (mut through, mut refused) = (Vec::new(), Vec::new());
    for row in harmless.filter(|row| world.lacks(*row).is_none()) {
        let got = world.outside(row).contains("ESCAPED");
        if got { &mut through } else { &mut refused }.push(row.id);
    }
    crate::say(&format!(
        "  without a sandbox, as an ordinary user: {} get through, {} are refused: {}",
        through.len(),
        refused.len(),
        refused.join(" ")
    ));
    let needed = THROUGH_OUTSIDE.iter().chain(if world.own_network {
        THROUGH_IN_A_WORLD
    } else {
        &[]
    });
    let missing: Vec<_> = needed.filter(|id| !through.contains(id)).collect();
    assert!(
        missing.is_empty(),
        "refused even without a sandbox: {missing:?}"
    );
    Verdict::Passed
}
