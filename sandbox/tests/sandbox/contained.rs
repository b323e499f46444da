//! What must not work: ways out.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use mesh_sandbox::{Execution, Limits, SandboxSpec};

use crate::attack::ATTEMPTS;
use crate::bench::{Bench, Outcome};
use crate::{Test, Verdict};

pub(crate) const TESTS: &[Test] = &[
    ("every_attempt_from_inside_is_refused", attempts),
    (
        "the_same_attempts_get_through_without_a_sandbox",
        attempts_outside,
    ),
    ("files_outside_the_grants_cannot_be_reached", files),
    ("processes_outside_cannot_be_reached", processes),
    ("sockets_outside_cannot_be_reached", sockets),
    (
        "secrets_of_meshds_environment_are_nowhere_to_be_seen",
        secrets,
    ),
    ("killing_everything_kills_only_the_sandbox", kill_everything),
    (
        "private_memory_file_systems_are_bounded",
        memory_file_systems,
    ),
    ("no_program_gains_a_privilege_by_its_mode", set_user_id),
    (
        "what_is_written_is_executed_only_where_that_was_asked_for",
        execution,
    ),
];

#[track_caller]
fn held(outcome: &Outcome) {
    let said = outcome.stdout.lines().count();
    assert!(
        said > 0 && !outcome.stdout.contains("ESCAPED"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stdout.matches("HELD").count(), said, "{outcome:?}");
}

fn attempts() -> Verdict {
    let bench = Bench::new();
    let outcome = bench.run(&bench.attack(&["all"]));
    assert_eq!(
        outcome.stdout.lines().count(),
        ATTEMPTS.len(),
        "{outcome:?}"
    );
    held(&outcome);
    Verdict::Passed
}

/// An attempt that fails everywhere would prove nothing.
fn attempts_outside() -> Verdict {
    let through = [
        "other processes",
        "sysfs",
        "host's users",
        "old root",
        "device nodes",
        "seccomp off",
    ];
    // Only those that are harmless outside.
    let harmless: Vec<_> = ATTEMPTS
        .iter()
        .filter(|(name, _)| through.contains(name))
        .collect();
    assert_eq!(harmless.len(), through.len());
    for (name, attempt) in harmless {
        assert!(
            attempt(&[]).is_ok(),
            "`{name}` is refused even without a sandbox"
        );
    }
    Verdict::Passed
}

fn files() -> Verdict {
    let bench = Bench::new();
    let secret = fs::canonicalize(bench.dir.path()).unwrap().join("secret");
    fs::write(&secret, "secret").unwrap();
    let secret = secret.to_str().unwrap();
    let own = std::process::id().to_string();
    for args in [
        &["read", secret][..],
        &["link", secret],
        &["through-proc", &own, secret],
        &["through-cwd", secret],
        &["list", bench.dir.path().to_str().unwrap()],
        &["list", "/root"],
        &["list", "/home/agent/.."],
    ] {
        if args == ["list", "/home/agent/.."] {
            // Its own home is all there is.
            assert_eq!(bench.run(&bench.shell("ls /home")).stdout, "agent\n");
            continue;
        }
        held(&bench.run(&bench.attack(args)));
    }
    let outcome = bench.run(&bench.shell(&format!(
        "ln -s {secret} link; cat link 2>/dev/null || echo HELD"
    )));
    held(&outcome);
    Verdict::Passed
}

fn processes() -> Verdict {
    let bench = Bench::new();
    let own = std::process::id().to_string();
    for args in [["signal", &own], ["pidfd", &own]] {
        held(&bench.run(&bench.attack(&args)));
    }
    Verdict::Passed
}

fn sockets() -> Verdict {
    use std::os::linux::net::SocketAddrExt;
    let bench = Bench::new();
    let path = bench.dir.path().join("host.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    let name = format!("mesh-sandbox-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_address = tcp.local_addr().unwrap().to_string();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_address = udp.local_addr().unwrap().to_string();
    held(&bench.run(&bench.attack(&["unix", path.to_str().unwrap()])));
    held(&bench.run(&bench.attack(&["abstract", &name])));
    held(&bench.run(&bench.attack(&["tcp", &tcp_address])));
    // A datagram to its own loopback is lost there, and must be.
    bench.run(&bench.attack(&["udp", &udp_address]));
    udp.set_nonblocking(true).unwrap();
    assert!(udp.recv(&mut [0; 8]).is_err(), "a datagram came out");
    // 192.0.2.0/24 is reserved for documentation and leads nowhere; without a route nothing is even sent.
    held(&bench.run(&bench.attack(&["udp", "192.0.2.77:53"])));
    Verdict::Passed
}

fn secrets() -> Verdict {
    let bench = Bench::new();
    // In brackets, so that the script's own arguments do not match.
    let script =
        "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c top[s]ecret";
    let mut meshd = crate::bench::meshd(&bench, script);
    let told = meshd.env("MESHSECRET", "topsecret").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "0");
    Verdict::Passed
}

fn kill_everything() -> Verdict {
    let bench = Bench::new();
    // The gate: only where the process namespace is seen to hold, everything is killed.
    held(&bench.run(&bench.attack(&["signal", &std::process::id().to_string()])));
    held(&bench.run(&bench.attack(&["kill-everything"])));
    let outcome = bench.run(&bench.shell("test $$ -lt 100 && kill -9 -1; echo alive"));
    assert!(outcome.status.code.is_some() || outcome.status.signal.is_some());
    Verdict::Passed
}

fn memory_file_systems() -> Verdict {
    let bench = Bench::new();
    let mut spec = bench.shell(
        "for where in /tmp /dev/shm; do
           head -c 1g /dev/zero > $where/fill 2>/dev/null && echo ESCAPED $where
           rm -f $where/fill; i=0
           while [ $i -lt 25000 ] && : 2>/dev/null > $where/$i; do i=$((i+1)); done
           [ $i -ge 25000 ] && echo ESCAPED files in $where
           rm -rf $where/*
         done; echo HELD",
    );
    spec.limits = Limits {
        memory_bytes: Some(128 << 20),
        ..spec.limits
    };
    let outcome = bench.run(&spec);
    assert!(!outcome.stdout.contains("ESCAPED"), "{outcome:?}");
    Verdict::Passed
}

fn set_user_id() -> Verdict {
    let bench = Bench::new();
    let script = "cp /usr/bin/id own; chmod 4755 own; ./own -u; id -u; grep -c nosuid /proc/self/mountinfo > /dev/null && echo nosuid";
    let outcome = bench.run(&bench.shell(script));
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        lines.len() == 3 && lines[0] == lines[1] && lines[0] != "0",
        "{outcome:?}"
    );
    Verdict::Passed
}

/// A program that it copied, a script, a library's loader, a file in memory.
const RUN_OWN: &str = "
for where in ~ /tmp /dev/shm; do
  cp /usr/bin/true $where/own && $where/own 2>/dev/null && echo RAN $where
  printf '#!/bin/sh\\necho RAN script in %s\\n' $where > $where/script; chmod +x $where/script; $where/script 2>/dev/null
  /lib64/ld-linux-x86-64.so.2 $where/own 2>/dev/null && echo RAN $where by its loader
done
/usr/bin/python3 -c \"import os;f=os.memfd_create('x');print('RAN memory')\" 2>/dev/null
/usr/bin/true && sh -c 'echo the system runs'";

fn execution() -> Verdict {
    let bench = Bench::new();
    let ran = |execution| {
        let spec = SandboxSpec {
            execution,
            ..bench.shell(RUN_OWN)
        };
        let outcome = bench.run(&spec);
        assert!(outcome.stdout.ends_with("the system runs\n"), "{outcome:?}");
        outcome.stdout.matches("RAN").count()
    };
    assert_eq!(ran(Execution::Installed), 0);
    assert!(ran(Execution::Anything) >= 6);
    // What ordinary programs need still works.
    for script in
        ["import multiprocessing, ssl, threading; print(multiprocessing.Lock() is not None)"]
    {
        if let Some(spec) = crate::bench::interpreter(&bench, "python3", &["-c", script]) {
            let spec = SandboxSpec {
                execution: Execution::Installed,
                ..spec
            };
            assert_eq!(bench.run(&spec).stdout, "True\n");
        }
    }
    Verdict::Passed
}
