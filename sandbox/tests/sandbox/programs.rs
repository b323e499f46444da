//! What must work: ordinary programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mesh_sandbox::{
    AllowedPath, Execution, LaunchError, Level, Narrowed, Program, Rights, SandboxSpec, TempAccess,
};

use crate::bench::{Bench, IDS, Outcome, interpreter, is_root};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_program_runs_and_its_exit_code_and_output_come_back",
        exit_code,
    ),
    ("death_by_a_signal_is_told_from_an_exit_code", signal),
    ("standard_input_arrives", stdin),
    ("standard_streams_can_be_opened_by_name", streams),
    ("the_environment_is_exactly_what_was_asked_for", environment),
    ("home_is_writable_kept_and_the_agents_own", home),
    ("the_bundle_is_shown_read_only", bundle),
    ("a_grant_to_read_reads_and_a_grant_to_write_writes", grants),
    (
        "an_agent_that_stands_for_the_owner_of_a_path_is_the_owner_there",
        as_owner,
    ),
    (
        "what_is_not_granted_of_a_path_cannot_be_done_there",
        narrowed_paths,
    ),
    (
        "what_is_not_granted_of_home_and_tmp_cannot_be_done_there",
        narrowed_home,
    ),
    (
        "a_grant_below_tmp_is_not_covered_by_the_private_tmp",
        grant_below_tmp,
    ),
    (
        "what_a_grant_below_tmp_may_not_do_is_not_done_by_way_of_the_private_tmp",
        detours_around_a_grant_below_tmp,
    ),
    ("tmp_is_private_or_absent", tmp),
    (
        "a_missing_program_is_told_from_a_failed_set_up",
        missing_program,
    ),
    ("a_home_of_another_user_is_refused", foreign_home),
    ("a_granted_path_that_is_a_link_is_refused", linked_grant),
    ("python_runs_with_threads_processes_and_sockets", python),
    ("node_runs", node),
    ("meshds_own_image_runs_inside", image),
    ("the_probe_and_the_report_are_honest_here", report),
];

#[track_caller]
fn expect(outcome: &Outcome, stdout: &str) {
    assert_eq!(
        (outcome.stdout.trim(), outcome.status.code),
        (stdout, Some(0)),
        "{outcome:?}"
    );
}

fn exit_code() -> Verdict {
    let bench = Bench::new();
    let outcome = bench.run(&bench.shell("echo out; echo err >&2; exit 3"));
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        (outcome.status.code, outcome.status.signal),
        (Some(3), None)
    );
    Verdict::Passed
}

fn signal() -> Verdict {
    let bench = Bench::new();
    let outcome = bench.run(&bench.shell("kill -SEGV $$"));
    assert_eq!(
        (outcome.status.code, outcome.status.signal),
        (None, Some(11)),
        "{outcome:?}"
    );
    assert!(!outcome.status.oom);
    Verdict::Passed
}

fn stdin() -> Verdict {
    let bench = Bench::new();
    let mut child = bench.start(&bench.spec("/bin/cat", &[]));
    let stdin = child.stdin.take().unwrap();
    rustix::io::write(&stdin, b"hello").unwrap();
    drop(stdin);
    expect(&crate::bench::finish(child), "hello");
    Verdict::Passed
}

fn streams() -> Verdict {
    let bench = Bench::new();
    let outcome = bench.run(&bench.shell("echo out > /dev/stdout; echo err > /dev/stderr"));
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    Verdict::Passed
}

fn environment() -> Verdict {
    let bench = Bench::new();
    let mut spec = bench.spec("/usr/bin/env", &[]);
    spec.env.insert("GREETING".into(), "hi there".into());
    let outcome = bench.run(&spec);
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GREETING=hi there",
            "HOME=/home/agent",
            "NODE_OPTIONS=--require=/etc/node-proxy.cjs",
            "PATH=/usr/bin:/bin",
            "TMPDIR=/tmp"
        ]
    );
    Verdict::Passed
}

fn home() -> Verdict {
    let bench = Bench::new();
    let spec = bench.shell("pwd; echo kept > ~/file; stat -c %u ~; id -u");
    let outcome = bench.run(&spec);
    let own = if is_root() {
        IDS.uid
    } else {
        rustix::process::geteuid().as_raw()
    };
    expect(&outcome, &format!("/home/agent\n{own}\n{own}"));
    assert_eq!(
        fs::read_to_string(spec.home.join("file")).unwrap(),
        "kept\n"
    );
    Verdict::Passed
}

fn bundle() -> Verdict {
    let bench = Bench::new();
    let bundle = bench.dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("main.sh"), "echo from the bundle").unwrap();
    let script = "sh /agent/main.sh; touch /agent/x 2>/dev/null || echo read-only";
    let outcome = bench.run(&SandboxSpec {
        bundle: Some(bundle),
        ..bench.shell(script)
    });
    expect(&outcome, "from the bundle\nread-only");
    Verdict::Passed
}

/// Two directories of the host, open to everybody by their modes: only the sandbox keeps the agent out.
fn open_directories(bench: &Bench) -> [String; 2] {
    ["in", "out"].map(|name| {
        let path = fs::canonicalize(bench.dir.path()).unwrap().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

fn granted(bench: &Bench, script: &str, grants: &[(&str, bool)]) -> Outcome {
    let allowed = |(path, read_only): &(&str, bool)| AllowedPath {
        path: path.into(),
        read_only: *read_only,
        as_owner: false,
        note: String::new(),
    };
    let allowed_paths = grants.iter().map(allowed).collect();
    bench.run(&SandboxSpec {
        allowed_paths,
        ..bench.shell(script)
    })
}

fn grants() -> Verdict {
    let bench = Bench::new();
    let [read, write] = open_directories(&bench);
    let script = format!(
        "cat {read}/file; echo; (echo x > {read}/file) 2>/dev/null || echo refused; \
         chmod 600 {read}/file 2>/dev/null || echo refused; echo new > {write}/made; cat {write}/made"
    );
    let outcome = granted(&bench, &script, &[(&read, true), (&write, false)]);
    expect(&outcome, "in\nrefused\nrefused\nnew");
    let outcome = granted(
        &bench,
        &format!("ls {read} 2>/dev/null || echo hidden"),
        &[(&write, false)],
    );
    expect(&outcome, "hidden");
    Verdict::Passed
}

/// daemon-12.
fn as_owner() -> Verdict {
    use std::os::unix::fs::{MetadataExt as _, chown};
    /// Nobody's but this test's.
    const OWNER: u32 = 61_077;
    if !is_root() {
        return Verdict::Skipped("only root has agents stand for other users".into());
    }
    let bench = Bench::new();
    let [path, _] = open_directories(&bench);
    let dir = Path::new(&path);
    for (name, owner, mode) in [
        ("own", OWNER, 0o600),
        // What an earlier agent with this user left, and what others have there.
        ("left", IDS.uid, 0o600),
        ("roots", 0, 0o600),
        ("others", 61_078, 0o666),
    ] {
        fs::write(dir.join(name), name).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        chown(dir.join(name), Some(owner), Some(owner)).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    chown(dir, Some(OWNER), Some(OWNER)).unwrap();
    let run = |read_only, script: &str| {
        let allowed_paths = vec![AllowedPath {
            path: (&path).into(),
            read_only,
            as_owner: true,
            note: String::new(),
        }];
        bench.run(&SandboxSpec {
            allowed_paths,
            ..bench.shell(&format!("cd {path}; {script}"))
        })
    };
    let tries = "for f in own left roots others; do cat $f 2>/dev/null && echo || echo -; done; echo x >> others; \
                 echo made > made; mkdir below; stat -c %u made own; chmod u+s made 2>/dev/null || echo plain; \
                 chown 0 made 2>/dev/null || echo kept";
    let me = IDS.uid;
    let outcome = run(false, tries);
    expect(
        &outcome,
        &format!("own\n-\n-\nothers\n{me}\n{me}\nplain\nkept"),
    );
    for made in ["made", "below"] {
        let meta = fs::metadata(dir.join(made)).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7000),
            (OWNER, OWNER, 0)
        );
    }
    let outcome = run(true, "cat own; (echo x > new) 2>/dev/null || echo; id -u");
    expect(&outcome, &format!("own\n{me}"));
    // For root nobody stands.
    chown(dir, Some(0), Some(0)).unwrap();
    let spec = SandboxSpec {
        allowed_paths: vec![AllowedPath {
            path: (&path).into(),
            read_only: false,
            as_owner: true,
            note: String::new(),
        }],
        ..bench.shell("true")
    };
    let answer = bench.launcher.launch_blocking(bench.plan(&spec)).map(drop);
    assert!(
        matches!(answer, Err(LaunchError::Path { .. })),
        "{answer:?}"
    );
    Verdict::Passed
}

/// What is tried in one place: to read, to change, to create, to remove, to move away, to execute.
const TRIES: &str = r"
tries() {
  cat $1/file >/dev/null 2>&1 && echo -n r; (echo x >> $1/file) 2>/dev/null && echo -n w; (echo x > $1/made) 2>/dev/null && echo -n c
  rm $1/gone 2>/dev/null && echo -n d; mv $1/moved $1/away 2>/dev/null && echo -n m; $1/program 2>/dev/null; echo
}
";

/// What of all that is left under these rights, in a granted path.
fn left(rights: Rights, read_only: bool, execution: Execution) -> String {
    left_beside(rights, read_only, execution, TempAccess::None)
}

fn left_beside(rights: Rights, read_only: bool, execution: Execution, temp: TempAccess) -> String {
    let bench = Bench::new();
    let [path, _] = open_directories(&bench);
    for name in ["gone", "moved", "program"] {
        let at = Path::new(&path).join(name);
        fs::write(&at, "#!/bin/sh\necho -n x\n").unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let outcome = bench.run(&SandboxSpec {
        allowed_paths: vec![AllowedPath {
            path: (&path).into(),
            read_only,
            as_owner: false,
            note: String::new(),
        }],
        execution,
        temp,
        narrowed: Narrowed {
            paths: BTreeMap::from([(path.clone().into(), rights)]),
            ..Narrowed::default()
        },
        ..bench.shell(&format!("{TRIES} tries {path}"))
    });
    outcome.stdout.trim_end().to_owned()
}

fn narrowed_paths() -> Verdict {
    let rights = |write, execute, delete| Rights {
        write,
        execute,
        delete,
    };
    let open = Execution::Anything;
    for (given, expected) in [
        (Rights::ALL, "rwcdmx"),
        (rights(true, false, true), "rwcdm"),
        // To move away is to remove.
        (rights(true, true, false), "rwcx"),
        (rights(true, false, false), "rwc"),
        (rights(false, true, true), "rdx"),
        (rights(false, false, true), "rd"),
        (rights(false, true, false), "rx"),
        (rights(false, false, false), "r"),
    ] {
        assert_eq!(left(given, false, open), expected, "{given:?}");
        // A path that is shown to be read is never changed, whatever the rights.
        let read: String = expected.chars().filter(|c| "rx".contains(*c)).collect();
        assert_eq!(left(given, true, open), read, "{given:?}");
        // The test's directories lie below `/tmp`, whose private one has all rights: they add nothing.
        let private = TempAccess::Private;
        let beside = |read_only| left_beside(given, read_only, open, private);
        assert_eq!(
            (beside(false), beside(true)),
            (expected.to_owned(), read),
            "{given:?}"
        );
    }
    assert_eq!(left(Rights::ALL, false, Execution::Withheld), "rwcdm");
    // Rules about files add up along a path, so what lies in another granted path has at least its rights.
    let granted = |path: &str| AllowedPath {
        path: path.into(),
        read_only: false,
        as_owner: false,
        note: String::new(),
    };
    let spec = SandboxSpec {
        allowed_paths: vec![granted("/tmp/there"), granted("/tmp")],
        narrowed: Narrowed {
            paths: BTreeMap::from([("/tmp/there".into(), rights(true, true, false))]),
            ..Narrowed::default()
        },
        ..Bench::new().shell("true")
    };
    assert!(
        spec.check()
            .is_err_and(|error| error.to_string().contains("rights of the private /tmp"))
    );
    Verdict::Passed
}

fn narrowed_home() -> Verdict {
    let bench = Bench::new();
    let none = Rights {
        write: false,
        execute: false,
        delete: false,
    };
    let script = "cd ~ && (echo x > made) 2>/dev/null || echo refused; ls ~ | wc -l; \
                  cp /usr/bin/true /tmp/own && /tmp/own 2>/dev/null || echo no program of its own; rm /tmp/own && echo removed";
    let outcome = bench.run(&SandboxSpec {
        narrowed: Narrowed {
            home: none,
            temp: Rights {
                execute: false,
                ..Rights::ALL
            },
            ..Narrowed::default()
        },
        ..bench.shell(script)
    });
    expect(&outcome, "refused\n0\nno program of its own\nremoved");
    Verdict::Passed
}

/// What an agent tries that has all rights in `/tmp`, and in a directory below it those to write and not to remove.
const DETOURS: &str = r"
mv $1/moved /tmp/stolen 2>/dev/null && echo moved out
ln $1/file /tmp/second 2>/dev/null && echo linked out
rm -rf $1/gone $1/../*/gone /tmp/*/gone 2>/dev/null; ls $1/gone >/dev/null || echo removed through the link
real=$(readlink -f $1); rm -f $real/gone 2>/dev/null; ls $1/gone > /dev/null || echo removed where it lies
cd $1; rm -f gone ./gone /proc/self/cwd/gone 2>/dev/null; ls gone > /dev/null || echo removed from within
cd /; rm -f $1 2>/dev/null; mkdir -p $1 2>/dev/null; mv /tmp/* /tmp/elsewhere 2>/dev/null
rm -f /tmp/elsewhere/gone 2>/dev/null; rm -rf /run/granted 2>/dev/null
ls $real/gone >/dev/null || echo removed after all
echo x >> $real/file && echo written
";

fn detours_around_a_grant_below_tmp() -> Verdict {
    let bench = Bench::new();
    let [path, _] = open_directories(&bench);
    if !path.starts_with("/tmp/") {
        return Verdict::Skipped(format!("temporary files lie at {path}, not below /tmp"));
    }
    for name in ["gone", "moved"] {
        fs::write(Path::new(&path).join(name), name).unwrap();
    }
    let rights = Rights {
        delete: false,
        ..Rights::ALL
    };
    let outcome = bench.run(&SandboxSpec {
        allowed_paths: vec![AllowedPath {
            path: (&path).into(),
            read_only: false,
            as_owner: false,
            note: String::new(),
        }],
        narrowed: Narrowed {
            paths: BTreeMap::from([(path.clone().into(), rights)]),
            ..Narrowed::default()
        },
        ..bench.shell(&format!("tries() {{ {DETOURS} }}; tries {path}"))
    });
    expect(&outcome, "written");
    for name in ["gone", "moved", "file"] {
        assert!(Path::new(&path).join(name).exists(), "{name} is gone");
    }
    Verdict::Passed
}

fn grant_below_tmp() -> Verdict {
    let bench = Bench::new();
    let [read, _] = open_directories(&bench);
    if !read.starts_with("/tmp/") {
        return Verdict::Skipped(format!("temporary files lie at {read}, not below /tmp"));
    }
    let outcome = granted(
        &bench,
        &format!("cat {read}/file && echo && ls /tmp | wc -l"),
        &[(&read, true)],
    );
    expect(&outcome, "in\n1");
    Verdict::Passed
}

fn tmp() -> Verdict {
    let bench = Bench::new();
    expect(
        &bench.run(&bench.shell("ls -A /tmp | wc -l; echo x > /tmp/x && cat /tmp/x")),
        "0\nx",
    );
    let without = SandboxSpec {
        temp: TempAccess::None,
        ..bench.shell("touch /tmp/x 2>/dev/null || echo none")
    };
    expect(&bench.run(&without), "none");
    Verdict::Passed
}

fn missing_program() -> Verdict {
    let bench = Bench::new();
    let launch = |spec: &SandboxSpec| bench.launcher.launch_blocking(bench.plan(spec)).map(drop);
    let answer = launch(&bench.spec("/usr/bin/no-such-program", &[]));
    assert!(
        matches!(answer, Err(LaunchError::Program { .. })),
        "{answer:?}"
    );
    let workdir = Some("/no/such/directory".into());
    let answer = launch(&SandboxSpec {
        workdir,
        ..bench.shell("true")
    });
    assert!(
        matches!(answer, Err(LaunchError::Setup { .. })),
        "{answer:?}"
    );
    Verdict::Passed
}

fn foreign_home() -> Verdict {
    if !is_root() {
        return Verdict::Skipped("only root gives agents users of their own".into());
    }
    let bench = Bench::new();
    let spec = bench.shell("true");
    fs::create_dir_all(&spec.home).unwrap();
    fs::write(spec.home.join("planted"), "").unwrap();
    let answer = bench.launcher.launch_blocking(bench.plan(&spec)).map(drop);
    assert!(
        matches!(answer, Err(LaunchError::HomeOwner { .. })),
        "{answer:?}"
    );
    Verdict::Passed
}

/// daemon-01.
fn linked_grant() -> Verdict {
    let bench = Bench::new();
    let link = fs::canonicalize(bench.dir.path()).unwrap().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    let allowed_paths = vec![AllowedPath {
        path: link,
        read_only: true,
        as_owner: false,
        note: String::new(),
    }];
    let spec = SandboxSpec {
        allowed_paths,
        ..bench.shell("true")
    };
    let answer = bench.launcher.launch_blocking(bench.plan(&spec)).map(drop);
    assert!(
        matches!(answer, Err(LaunchError::Path { .. })),
        "{answer:?}"
    );
    Verdict::Passed
}

const PYTHON: &str = "
import hashlib, multiprocessing, os, socket, ssl, subprocess, threading
subprocess.run(['true'], check=True)
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
process = multiprocessing.Process(target=print, args=('child',)); process.start(); process.join()
assert process.exitcode == 0
socket.socketpair()
unix = socket.socket(socket.AF_UNIX); unix.bind('own.sock')
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
socket.create_connection(server.getsockname())
assert len(os.urandom(8)) == 8
print('parent')
";

fn python() -> Verdict {
    let bench = Bench::new();
    let Some(spec) = interpreter(&bench, "python3", &["-c", PYTHON]) else {
        return Verdict::Skipped("no python3 on this machine".into());
    };
    expect(&bench.run(&spec), "child\nparent");
    // Without a `/tmp`, too, there is a place for temporary files.
    let script = "import multiprocessing, subprocess, tempfile\nassert tempfile.NamedTemporaryFile().name.startswith('/home/agent/')\n\
                  with multiprocessing.Manager() as manager: print(manager.list([1]))\n\
                  print(subprocess.run(['sort', '-S', '1K'], input='b\\na\\n' * 9999, text=True, stdout=subprocess.PIPE).stdout[0])";
    let spec = interpreter(&bench, "python3", &["-c", script]);
    let bare = SandboxSpec {
        temp: TempAccess::None,
        ..spec.unwrap_or_else(|| bench.shell("true"))
    };
    expect(&bench.run(&bare), "[1]\na");
    Verdict::Passed
}

fn node() -> Verdict {
    let bench = Bench::new();
    let script = "require('child_process').execSync('true'); console.log('ran');
        console.log(Object.keys(require('os').networkInterfaces()).join());
        import('node:os').then(({networkInterfaces}) => console.log(networkInterfaces().lo[0].address))";
    let Some(spec) = interpreter(&bench, "node", &["-e", script]) else {
        return Verdict::Skipped("no node on this machine".into());
    };
    expect(&bench.run(&spec), "ran\nlo\n127.0.0.1");
    Verdict::Passed
}

fn image() -> Verdict {
    let bench = Bench::new();
    let spec = bench.attack(&["hello"]);
    assert_eq!(spec.program, Program::Image);
    expect(&bench.run(&spec), "hello from the image");
    Verdict::Passed
}

fn report() -> Verdict {
    let bench = Bench::new();
    let probe = bench.launcher.probe();
    assert_eq!(probe.root, is_root());
    let plan = bench.plan(&bench.shell("true"));
    let level = |name: &str| {
        let controls = &plan.report().controls;
        controls
            .iter()
            .find(|control| control.control.name() == name)
            .unwrap()
            .level
    };
    for name in [
        "filesystem",
        "processes",
        "network",
        "ipc",
        "privileges",
        "syscalls",
        "descriptors",
        "environment",
    ] {
        assert_eq!(level(name), Level::Kernel, "{name}");
    }
    assert_eq!(
        level("user"),
        if is_root() {
            Level::Kernel
        } else {
            Level::None
        }
    );
    assert_eq!(level("memory") == Level::Kernel, probe.memory.finding.works);
    for finding in [
        &probe.cpu.finding,
        &probe.memory.finding,
        &probe.pids.finding,
    ] {
        assert_eq!(finding.works, finding.remedy.is_none(), "{finding:?}");
    }
    Verdict::Passed
}
