//! Backups and exports to files: whole or not at all.

use super::run::Meshctl;
use super::stub::{Reply, Stub};

#[test]
fn what_is_no_backup_or_breaks_off_leaves_no_file() {
    for reply in [
        Reply::Text("application/x-tar", "hello".into()),
        Reply::Broken("application/x-tar", "backup.json".into()),
    ] {
        let stub = Stub::new(move |_, _| reply.clone());
        let meshctl = Meshctl::at(&stub.url);
        let ran = meshctl.run(&["backup", "--out", "mesh.tar"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert_eq!(stub.seen()[0].target, "/v1/backup");
        assert_eq!(std::fs::read_dir(meshctl.dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_key_is_read_here_before_anything_is_asked_for() {
    let stub = Stub::new(|_, _| Reply::Lost);
    let meshctl = Meshctl::at(&stub.url);
    let arguments = ["backup", "--out", "mesh.tar", "--include-key"];
    let ran = meshctl.run(&[&arguments[..], &["--data", "nowhere"]].concat());
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("nowhere/node.key"), "{}", ran.err);
    assert_eq!(stub.seen().len(), 0);
}

#[test]
fn the_tables_are_copied_byte_for_byte() {
    let script = "BEGIN;\nINSERT INTO x VALUES ('é');\nCOMMIT;\n";
    let stub = Stub::new(move |_, _| Reply::Text("application/sql", script.into()));
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(meshctl.run(&["export", "--sql"]).out, script);
    assert_eq!(stub.seen()[0].target, "/v1/export/sql");
    // There is no other form.
    assert_eq!(meshctl.run(&["export"]).code, 2);
}
