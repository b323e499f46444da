//! Machines × wishes, as tables.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::probe::{CgroupKind, Controller, Finding, Probe};
use crate::spec::{Execution, Ids, Limits, NetworkAccess, Program, TempAccess};

fn works() -> Finding {
    Finding {
        works: true,
        detail: "fine".into(),
        remedy: None,
    }
}

fn missing(what: &str) -> Finding {
    Finding {
        works: false,
        detail: format!("no {what}"),
        remedy: Some(format!("get {what}")),
    }
}

fn group(kind: CgroupKind) -> Controller {
    let finding = if kind == CgroupKind::None {
        missing("cgroup")
    } else {
        works()
    };
    Controller { kind, finding }
}

/// A machine that gives everything, to root.
fn machine() -> Probe {
    Probe {
        kernel: "6.18".into(),
        root: true,
        user_namespace: works(),
        mounts: works(),
        network: works(),
        ipc: works(),
        privileges: works(),
        landlock: works(),
        landlock_abi: 7,
        seccomp: works(),
        cpu: group(CgroupKind::V2),
        memory: group(CgroupKind::V2),
        pids: group(CgroupKind::V2),
        freezer: group(CgroupKind::V2),
        io: group(CgroupKind::V2),
        images: works(),
    }
}

/// The same to an ordinary user without a delegated group.
fn laptop() -> Probe {
    let none = group(CgroupKind::None);
    Probe {
        root: false,
        cpu: none.clone(),
        memory: none.clone(),
        pids: none.clone(),
        freezer: none.clone(),
        io: none,
        ..machine()
    }
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        label: "echo".into(),
        run_id: "r1".into(),
        name: "echo-0-1".into(),
        program: Program::Path("/bin/true".into()),
        args: Vec::new(),
        env: BTreeMap::new(),
        workdir: None,
        bundle: None,
        home: "/data/home/echo".into(),
        home_form: crate::HomeForm::default(),
        state: "/data".into(),
        allowed_paths: Vec::new(),
        runtime_paths: Vec::new(),
        temp: TempAccess::Private,
        execution: Execution::Anything,
        narrowed: crate::spec::Narrowed::default(),
        network: NetworkAccess::None,
        secrets: Vec::new(),
        limits: Limits {
            cpu_millicores: Some(500),
            memory_bytes: Some(64 << 20),
            pids: Some(32),
            nofile: None,
            disk_bytes: None,
            io_bytes_per_second: None,
        },
        ids: Some(Ids {
            uid: 60_001,
            gid: 60_001,
        }),
    }
}

fn strict() -> PlanPolicy {
    PlanPolicy {
        required: true,
        degradable: Vec::new(),
    }
}

fn shipped() -> PlanPolicy {
    let degradable = ["cpu", "memory", "pids", "disk", "user"].map(|name| name.parse().unwrap());
    PlanPolicy {
        required: true,
        degradable: degradable.to_vec(),
    }
}

/// What falls short, by name; nothing when a plan came out.
fn short(spec: &SandboxSpec, probe: &Probe, policy: &PlanPolicy) -> Vec<&'static str> {
    match plan(spec, probe, policy) {
        Ok(_) => Vec::new(),
        Err(Refused::Shortfalls(list)) => list.iter().map(|one| one.control.name()).collect(),
        Err(other) => vec![Box::leak(other.to_string().into_boxed_str())],
    }
}

fn level(spec: &SandboxSpec, probe: &Probe, control: Control) -> Level {
    let plan = plan(spec, probe, &shipped()).unwrap();
    plan.report
        .controls
        .iter()
        .find(|one| one.control == control)
        .unwrap()
        .level
}

#[test]
fn a_machine_that_gives_everything_is_strict() {
    let plan = plan(&spec(), &machine(), &strict()).unwrap();
    assert_eq!(plan.report.degraded, []);
    assert_eq!(plan.report.controls.len(), 13);
    assert!(
        plan.report
            .controls
            .iter()
            .all(|one| one.level == Level::Kernel || one.control == Control::Disk)
    );
}

#[test]
fn a_laptop_starts_only_as_far_as_the_operator_lets_it_degrade() {
    let open = SandboxSpec {
        ids: None,
        ..spec()
    };
    assert_eq!(
        short(&open, &laptop(), &strict()),
        ["user", "cpu", "memory"]
    );
    assert_eq!(short(&open, &laptop(), &shipped()), Vec::<&str>::new());
    let plan = plan(&open, &laptop(), &shipped()).unwrap();
    assert!(!plan.report.degraded.is_empty());
    assert_eq!(plan.user_namespace, UserNamespace::First);
}

/// daemon-06.
#[test]
fn what_must_not_degrade_refuses_whatever_the_policy() {
    let broken: [(&[&str], Probe); 6] = [
        (
            &["filesystem", "processes"],
            Probe {
                mounts: missing("userns"),
                ..machine()
            },
        ),
        (
            &["filesystem"],
            Probe {
                landlock: missing("landlock"),
                landlock_abi: 0,
                ..machine()
            },
        ),
        (
            &["network"],
            Probe {
                network: missing("netns"),
                ..machine()
            },
        ),
        (
            &["ipc"],
            Probe {
                ipc: missing("ipcns"),
                ..machine()
            },
        ),
        (
            &["privileges"],
            Probe {
                privileges: missing("capset"),
                ..machine()
            },
        ),
        (
            &["syscalls"],
            Probe {
                seccomp: missing("seccomp"),
                ..machine()
            },
        ),
    ];
    for (expected, probe) in broken {
        for policy in [
            strict(),
            shipped(),
            PlanPolicy {
                required: false,
                degradable: Vec::new(),
            },
        ] {
            assert_eq!(short(&spec(), &probe, &policy), expected);
        }
    }
}

#[test]
fn a_refusal_names_the_control_and_the_remedy() {
    let probe = Probe {
        network: missing("netns"),
        ..machine()
    };
    let text = plan(&spec(), &probe, &shipped()).unwrap_err().to_string();
    assert!(
        text.contains("network: no netns (remedy: get netns)"),
        "{text}"
    );
}

#[test]
fn root_without_a_user_for_the_agent_is_always_refused() {
    let nobody = SandboxSpec {
        ids: None,
        ..spec()
    };
    for policy in [
        strict(),
        shipped(),
        PlanPolicy {
            required: false,
            degradable: Vec::new(),
        },
    ] {
        assert_eq!(short(&nobody, &machine(), &policy), ["user"]);
    }
}

#[test]
fn open_network_is_reported_as_unenforced_and_is_no_shortfall() {
    let open = SandboxSpec {
        network: NetworkAccess::Open,
        ..spec()
    };
    assert_eq!(short(&open, &machine(), &strict()), Vec::<&str>::new());
    assert_eq!(level(&open, &machine(), Control::Network), Level::None);
    // An old Landlock leaves the host's abstract sockets open then, and that is a shortfall.
    let old = Probe {
        landlock_abi: 5,
        ..machine()
    };
    assert_eq!(short(&open, &old, &shipped()), ["ipc"]);
}

#[test]
fn what_was_not_asked_for_is_no_shortfall_and_not_claimed() {
    let boundless = SandboxSpec {
        limits: Limits::default(),
        ..spec()
    };
    let probe = Probe {
        root: true,
        ..Probe {
            user_namespace: works(),
            ..laptop()
        }
    };
    assert_eq!(short(&boundless, &probe, &strict()), Vec::<&str>::new());
    for control in [Control::Cpu, Control::Memory, Control::Pids, Control::Disk] {
        assert_eq!(level(&boundless, &probe, control), Level::None, "{control}");
    }
}

#[test]
fn limits_are_the_kernels_only_where_a_group_or_a_namespace_holds_them() {
    let table = [
        (Control::Memory, machine(), Level::Kernel),
        (Control::Memory, laptop(), Level::Advisory),
        (Control::Cpu, machine(), Level::Kernel),
        (Control::Cpu, laptop(), Level::None),
        (Control::Pids, laptop(), Level::Kernel),
        (
            Control::Pids,
            Probe {
                root: true,
                user_namespace: missing("userns"),
                ..laptop()
            },
            Level::Advisory,
        ),
    ];
    for (control, probe, expected) in table {
        assert_eq!(level(&spec(), &probe, control), expected, "{control}");
    }
}

#[test]
fn a_disk_limit_is_the_kernels_only_in_an_image() {
    let limits = Limits {
        disk_bytes: Some(1 << 30),
        ..Limits::default()
    };
    let disk = SandboxSpec { limits, ..spec() };
    assert_eq!(level(&disk, &machine(), Control::Disk), Level::Advisory);
    assert_eq!(short(&disk, &machine(), &strict()), ["disk"]);
    let path = std::path::PathBuf::from("/data/home/images/echo.ext4");
    let image = SandboxSpec {
        home_form: machine().new_home(true, path.clone()),
        ..disk.clone()
    };
    assert_eq!(level(&image, &machine(), Control::Disk), Level::Kernel);
    assert_eq!(short(&image, &machine(), &strict()), [""; 0]);
    // Where none can be had, a new home is a directory and says why; an old image is never called the kernel's.
    let missing = Probe {
        images: missing("loop devices"),
        ..machine()
    };
    assert_eq!(level(&image, &missing, Control::Disk), Level::None);
    let directory = SandboxSpec {
        home_form: missing.new_home(true, path.clone()),
        ..disk
    };
    assert_eq!(level(&directory, &missing, Control::Disk), Level::Advisory);
    let Err(Refused::Shortfalls(short)) = plan(&directory, &missing, &strict()) else {
        panic!("it was accepted");
    };
    assert!(short[0].reason.contains("no loop devices"), "{short:?}");
    assert_eq!(missing.new_home(false, path), crate::HomeForm::default());
}

#[test]
fn only_six_controls_can_be_named_as_degradable() {
    for name in [
        "filesystem",
        "processes",
        "network",
        "privileges",
        "syscalls",
        "ipc",
        "CPU",
        "",
    ] {
        assert_eq!(
            name.parse::<Degradable>(),
            Err(NotDegradable(name.to_owned()))
        );
    }
}

#[test]
fn the_report_is_spelled_as_the_contract_says() {
    let plan = plan(&spec(), &machine(), &strict()).unwrap();
    let json = serde_json::to_value(plan.report()).unwrap();
    let first = &json["controls"][0];
    assert_eq!(json["degraded"], serde_json::json!([]));
    assert_eq!(
        (&first["control"], &first["level"]),
        (&"filesystem".into(), &"kernel".into())
    );
    assert!(
        first["requested"].is_string()
            && first["mechanism"].is_string()
            && first["detail"].is_string()
    );
}

fn any_finding() -> impl Strategy<Value = Finding> {
    any::<bool>().prop_map(|yes| if yes { works() } else { missing("it") })
}

fn any_group() -> impl Strategy<Value = Controller> {
    prop_oneof![
        Just(CgroupKind::V2),
        Just(CgroupKind::V1),
        Just(CgroupKind::None)
    ]
    .prop_map(group)
}

fn any_machine() -> impl Strategy<Value = Probe> {
    let findings = proptest::collection::vec(any_finding(), 7);
    let groups = proptest::collection::vec(any_group(), 5);
    (any::<bool>(), 0..10, findings, groups).prop_map(|(root, landlock_abi, findings, groups)| {
        let [
            user_namespace,
            mounts,
            network,
            ipc,
            privileges,
            landlock,
            seccomp,
        ] = findings.try_into().unwrap();
        let [cpu, memory, pids, freezer, io] = groups.try_into().unwrap();
        let kernel = String::new();
        Probe {
            kernel,
            root,
            user_namespace,
            mounts,
            network,
            ipc,
            privileges,
            landlock,
            landlock_abi,
            seccomp,
            cpu,
            memory,
            pids,
            freezer,
            io,
            images: works(),
        }
    })
}

proptest! {
    /// Whatever the machine: a plan never claims or accepts less than the kernel for what must not degrade,
    /// and a plan that calls itself strict has nothing short.
    #[test]
    fn no_plan_is_weaker_than_it_says(probe in any_machine(), required: bool, own_user: bool) {
        let spec = SandboxSpec { ids: spec().ids.filter(|_| own_user), ..spec() };
        let policy = PlanPolicy { required, ..shipped() };
        if let Ok(plan) = plan(&spec, &probe, &policy) {
            for one in &plan.report.controls {
                let may = matches!(one.control, Control::Cpu | Control::Memory | Control::Pids | Control::Disk | Control::User);
                prop_assert!(may || one.level == Level::Kernel, "{one:?}");
            }
            let asked = |one: &&Enforcement| one.requested != "unlimited";
            let all = plan.report.controls.iter().filter(asked).all(|one| one.level == Level::Kernel);
            prop_assert_eq!(plan.report.degraded.is_empty(), all);
            prop_assert!(!probe.root || own_user);
        }
    }
}
