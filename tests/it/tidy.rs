//! Rules about the source itself, so that they are kept without anybody having to remember them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates a crate may depend on. Arrows point down only, and no crate reaches past what it needs.
const LAYERS: [(&str, &[&str]); 16] = [
    ("mesh-messages", &[]),
    ("mesh-config", &["mesh-messages"]),
    ("mesh-supervision-core", &[]),
    (
        "mesh-actors-core",
        &["mesh-messages", "mesh-supervision-core"],
    ),
    ("mesh-persistence", &["mesh-messages"]),
    ("mesh-supervision", &["mesh-supervision-core"]),
    ("mesh-sandbox", &[]),
    ("mesh-egress", &[]),
    ("mesh-vault", &[]),
    (
        "mesh-actors",
        &[
            "mesh-messages",
            "mesh-config",
            "mesh-supervision-core",
            "mesh-actors-core",
            "mesh-persistence",
            "mesh-supervision",
            "mesh-sandbox",
            "mesh-egress",
            "mesh-vault",
        ],
    ),
    (
        "mesh-api",
        &["mesh-messages", "mesh-supervision", "mesh-actors"],
    ),
    (
        "meshd",
        &[
            "mesh-messages",
            "mesh-config",
            "mesh-actors-core",
            "mesh-persistence",
            "mesh-supervision-core",
            "mesh-supervision",
            "mesh-sandbox",
            "mesh-egress",
            "mesh-vault",
            "mesh-actors",
            "mesh-api",
        ],
    ),
    // Wire types, and the verifier, which needs no daemon.
    (
        "meshctl",
        &["mesh-messages", "mesh-actors-core", "mesh-persistence"],
    ),
    // The cores alone: everything that performs is simulated.
    (
        "mesh-sim",
        &["mesh-messages", "mesh-supervision-core", "mesh-actors-core"],
    ),
    // Sees what users see; the simulation is for its runner.
    ("mesh-tests", &["mesh-sim"]),
    // Measures the crate alone, and a tree in its own process.
    (
        "mesh-benches",
        &[
            "mesh-messages",
            "mesh-sandbox",
            "mesh-egress",
            "mesh-supervision-core",
            "mesh-supervision",
            "mesh-persistence",
            "mesh-actors",
            "mesh-api",
        ],
    ),
];

/// Crates that decide and do nothing, and what they must therefore not know.
const PURE: [&str; 3] = ["mesh-messages", "mesh-supervision-core", "mesh-actors-core"];
const IMPURE: [&str; 5] = ["tokio", "ractor", "rustix", "getrandom", "sled"];

/// Lines of a file without its tests; more is two files.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The workspace's packages, as cargo sees them.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    let metadata: Value = serde_json::from_slice(&told.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Normal and build dependencies: what tests use is their own affair.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|dependency| dependency["kind"] != "dev")
        .map(name)
}

/// Every Rust file of ours, with its path relative to the root.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    assert!(found.len() > 100, "the sources were not found");
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_owned();
    found
        .iter()
        .map(|path| (relative(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Fails with all that is wrong at once.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dependencies_point_down_only() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(name).collect();
    let known: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, known, "every crate has its place in LAYERS");
    let mut wrong = Vec::new();
    for package in &packages {
        let (_, allowed) = LAYERS
            .iter()
            .find(|(known, _)| *known == name(package))
            .unwrap();
        for dependency in dependencies(package).filter(|dependency| ours.contains(dependency)) {
            if !allowed.contains(&dependency) {
                wrong.push(format!("{} must not depend on {dependency}", name(package)));
            }
        }
    }
    none(&wrong);
}

#[test]
fn crates_that_only_decide_know_no_input_and_output() {
    let mut wrong = Vec::new();
    for package in packages()
        .iter()
        .filter(|package| PURE.contains(&name(package)))
    {
        for dependency in dependencies(package).filter(|dependency| IMPURE.contains(dependency)) {
            wrong.push(format!(
                "{} decides only; it must not depend on {dependency}",
                name(package)
            ));
        }
    }
    none(&wrong);
}

#[test]
fn every_crate_says_what_it_is_and_takes_the_common_lints() {
    let mut wrong = Vec::new();
    for package in &packages() {
        let described = package["description"]
            .as_str()
            .is_some_and(|text| text.len() > 20);
        if !described {
            wrong.push(format!(
                "{}: its description does not say what it is",
                name(package)
            ));
        }
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        if !manifest.contains("[lints]\nworkspace = true\n") {
            wrong.push(format!(
                "{}: its manifest lacks `[lints] workspace = true`",
                name(package)
            ));
        }
    }
    none(&wrong);
}

#[test]
fn files_stay_readable_at_a_sitting() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        // Tables of cases are long and none the worse for it.
        let is_test =
            path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        if is_test && !path.starts_with("tests") {
            continue;
        }
        // Tests at the end of a file do not make its code harder to hold in mind.
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&text);
        let lines = code.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!(
                "{}: {lines} lines, more than {LINES_MAX}",
                path.display()
            ));
        }
    }
    none(&wrong);
}

#[test]
fn modules_are_files_of_their_own_name_and_lints_are_expected_with_a_reason() {
    // Put together here, so that this file does not find itself.
    let allow = ["#[", "allow("].concat();
    let allow_all = ["#![", "allow("].concat();
    let ignore = ["#[", "ignore"].concat();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let file = path.file_name().unwrap().to_string_lossy();
        if ["mod.rs", "utils.rs", "imp.rs"].contains(&&*file) {
            wrong.push(format!("{}: name it for what is in it", path.display()));
        }
        if text.contains(&allow) || text.contains(&allow_all) {
            wrong.push(format!(
                "{}: expect a lint, with a reason, rather than allow it",
                path.display()
            ));
        }
        if text.contains(&ignore) {
            wrong.push(format!("{}: an ignored test is none", path.display()));
        }
    }
    none(&wrong);
}
