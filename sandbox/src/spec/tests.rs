//! What is accepted and what is not.

use super::*;

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        label: "echo".into(),
        run_id: "r1".into(),
        name: "echo-0-1".into(),
        program: Program::Path("/bin/true".into()),
        args: Vec::new(),
        env: BTreeMap::new(),
        workdir: None,
        bundle: None,
        home: "/data/home/agents/echo/0".into(),
        home_form: HomeForm::default(),
        state: "/data".into(),
        allowed_paths: Vec::new(),
        runtime_paths: Vec::new(),
        temp: TempAccess::Private,
        execution: Execution::Anything,
        narrowed: crate::spec::Narrowed::default(),
        network: NetworkAccess::None,
        secrets: Vec::new(),
        limits: Limits::default(),
        ids: None,
    }
}

#[track_caller]
fn refused(path: &str, read_only: bool) {
    let allowed_paths = vec![AllowedPath {
        path: path.into(),
        read_only,
        as_owner: false,
        note: String::new(),
    }];
    let answer = SandboxSpec {
        allowed_paths,
        ..spec()
    }
    .check();
    assert!(
        answer.is_err(),
        "{path:?} (read_only {read_only}) was granted"
    );
}

/// daemon-02.
#[test]
fn grants_that_would_open_the_sandbox_are_refused() {
    for path in [
        "/", "/proc", "/proc/1", "/sys", "/dev", "/dev/mem", "/etc", "/run", "/home",
    ] {
        refused(path, true);
    }
    for path in ["/usr", "/usr/lib", "/lib64", "/bin"] {
        refused(path, false);
    }
}

/// daemon-04.
#[test]
fn grants_of_meshds_own_state_are_refused_from_either_side() {
    refused("/data", true);
    refused("/data/token", true);
    let state = PathBuf::from("/srv/mesh/data");
    let allowed_paths = vec![AllowedPath {
        path: "/srv/mesh".into(),
        read_only: true,
        as_owner: false,
        note: String::new(),
    }];
    assert!(
        SandboxSpec {
            state,
            allowed_paths,
            ..spec()
        }
        .check()
        .is_err()
    );
}

/// daemon-03.
#[test]
fn paths_that_are_not_plain_are_refused() {
    for path in [
        "",
        "a/b",
        "~/x",
        "~/../x",
        "a/../../b",
        "/a/../b",
        "/a/./b",
        "/a\0b",
        "\0",
        "..",
    ] {
        refused(path, true);
    }
}

#[test]
fn ordinary_grants_pass() {
    let allowed = |path: &str, read_only| AllowedPath {
        path: path.into(),
        read_only,
        as_owner: false,
        note: String::new(),
    };
    let allowed_paths = vec![
        allowed("/srv/in", true),
        allowed("/srv/out", false),
        allowed("/usr/share", true),
    ];
    assert_eq!(
        SandboxSpec {
            allowed_paths,
            ..spec()
        }
        .check(),
        Ok(())
    );
}

/// daemon-13: they are the names of control groups, too.
#[test]
fn names_that_would_leave_their_directory_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "A",
        "a b",
        &"a".repeat(NAME_MAX + 1),
    ] {
        assert!(
            SandboxSpec {
                name: bad.into(),
                ..spec()
            }
            .check()
            .is_err(),
            "{bad:?}"
        );
        assert!(
            SandboxSpec {
                run_id: bad.into(),
                ..spec()
            }
            .check()
            .is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn user_zero_is_refused() {
    for ids in [Ids { uid: 0, gid: 1 }, Ids { uid: 1, gid: 0 }] {
        assert_eq!(
            SandboxSpec {
                ids: Some(ids),
                ..spec()
            }
            .check(),
            Err(SpecError::Root)
        );
    }
}

#[test]
fn nul_in_arguments_and_environment_is_refused() {
    assert!(
        SandboxSpec {
            args: vec!["a\0".into()],
            ..spec()
        }
        .check()
        .is_err()
    );
    for (key, value) in [("A", "\0"), ("A=B", ""), ("", "x")] {
        let env = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(
            SandboxSpec { env, ..spec() }.check().is_err(),
            "{key:?}={value:?}"
        );
    }
}

#[test]
fn limits_too_small_to_start_are_refused() {
    let limits = Limits {
        memory_bytes: Some(1),
        ..Limits::default()
    };
    let answer = SandboxSpec { limits, ..spec() }.check();
    assert!(matches!(
        answer,
        Err(SpecError::Limit {
            field: "memoryBytes",
            ..
        })
    ));
}

/// Of writing and removing alone only Landlock knows, and it adds up along a path: a grant within one that has more of them could not
/// be held to its own.
#[test]
fn a_grant_within_one_that_may_change_more_is_refused() {
    let all = [false, true];
    let each = all.into_iter().flat_map(|write| {
        all.into_iter().flat_map(move |delete| {
            all.into_iter()
                .map(move |read_only| (write, delete, read_only))
        })
    });
    let each: Vec<_> = each.collect();
    for outer in &each {
        for inner in &each {
            let mut spec = spec();
            for (path, (write, delete, read_only)) in [("/srv/a", outer), ("/srv/a/b", inner)] {
                spec.allowed_paths.push(AllowedPath {
                    path: path.into(),
                    read_only: *read_only,
                    as_owner: false,
                    note: String::new(),
                });
                let rights = Rights {
                    write: *write,
                    execute: true,
                    delete: *delete,
                };
                spec.narrowed.paths.insert(path.into(), rights);
            }
            let held = |(write, delete, read_only): &(bool, bool, bool)| {
                (*write && !read_only, *delete && !read_only)
            };
            let (outer_held, inner_held) = (held(outer), held(inner));
            // What may change nothing is mounted read-only, whatever holds around it.
            let read_only = inner_held == (false, false);
            let within = outer_held.0 <= inner_held.0 && outer_held.1 <= inner_held.1;
            let answer = spec.check();
            assert_eq!(
                answer.is_ok(),
                read_only || within,
                "{outer:?} holds {inner:?}: {answer:?}"
            );
        }
    }
}
