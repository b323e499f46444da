//! The main job in one command.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use mesh_tests::{Ended, Home};

#[test]
fn the_demo_reports_on_real_files_survives_its_crashes_and_proves_what_it_did() {
    let home = Home::new();
    let tree = home.scratch().join("project");
    fs::create_dir_all(tree.join("src")).unwrap();
    for n in 0..12 {
        fs::write(
            tree.join(format!("src/part{n}.rs")),
            format!("// TODO part {n}\nfn part{n}() {{}}\n"),
        )
        .unwrap();
    }
    fs::write(tree.join("README.md"), "# A project\n\nWith a page.\n").unwrap();
    let temp = home.scratch().join("tmp");
    fs::create_dir(&temp).unwrap();
    let mut demo = home.command();
    demo.env("TMPDIR", &temp).arg("demo").arg(&tree);
    let ended = Ended::of(demo, Duration::from_mins(3)).exits(0);

    let told = &ended.out;
    for expected in [
        "Rust", "Markdown", "part0.rs", "tasks", "attempts", "crash", "restart", "p50", "p99",
        "verified",
    ] {
        assert!(
            told.contains(expected),
            "{expected} in:\n{told}\nstderr: {}",
            ended.err
        );
    }
    let verified = told.lines().find(|line| line.contains("verified")).unwrap();
    let records: u64 = verified
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    assert!(records > 50, "{verified}");
    // Every file is in the report: twelve of one language, one of another.
    let total: BTreeSet<&str> = told
        .lines()
        .find(|line| line.trim_start().starts_with("total"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert!(total.contains("13"), "{told}");
    let left: Vec<_> = fs::read_dir(&temp).unwrap().collect();
    assert!(
        left.is_empty(),
        "the demo cleans up behind itself: {left:?}"
    );
}

#[test]
fn a_demo_on_nothing_says_so() {
    let home = Home::new();
    let mut demo = home.command();
    demo.arg("demo").arg(home.scratch().join("nowhere"));
    let ended = Ended::of(demo, Duration::from_mins(1));
    assert_ne!(ended.code, 0);
    assert!(ended.err.contains("nowhere"), "{ended:?}");
}
