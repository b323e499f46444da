//! Bits that rot while the daemon is down, in every kind of file that it has.
//!
//! Afterwards it either shows exactly what it showed before, or says which file it cannot trust: at its start, in an answer,
//! or when the log is exported. It never shows less without saying so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Random, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::load::{copy, echo, home, listed, no_panic, say, seeded, task};
use crate::crash::setting;

/// Flipped bits of each kind of file; `MESH_FLIPS` asks for more.
const FLIPS: u64 = 2;
/// Tasks of the history: several segments of the log, some content.
const TASKS: u64 = 80;
/// How meshd may refuse to start on data that it cannot trust: the data cannot be used, or the mesh has failed on it.
const REFUSED: [i32; 2] = [64, 70];

/// What was there before the damage.
struct Before {
    home: Home,
    /// Every task: its state and what came of it.
    tasks: BTreeMap<String, (Value, Value)>,
    /// Records of the log, at least.
    records: usize,
}

/// How many records an export holds: all its lines but the last, which is the checkpoint.
fn records(export: &str) -> usize {
    fs::read_to_string(export).unwrap().lines().count() - 1
}

/// A state and an output of each task, as far as they can be had; what cannot be had has a reason.
fn testimony(daemon: &Daemon) -> BTreeMap<String, Result<(Value, Value), String>> {
    let ids = listed(daemon.client()).into_keys();
    ids.map(|id| {
        let answer = daemon.client().get(&format!("/v1/tasks/{id}"));
        let told = if answer.status == 200 {
            let task = answer.json();
            Ok((task["state"].clone(), task["output"].clone()))
        } else {
            Err(answer.text())
        };
        (id, told)
    })
    .collect()
}

/// A history with something in every file; ended in order, or by `kill -9`.
fn history(random: &mut Random, in_order: bool) -> Before {
    let daemon = home().start();
    daemon.deploy(&echo());
    daemon.deploy(&Bundle::echo("mind").set("memory", json!({"type": "persistent"})));
    let ids: Vec<String> = (0..TASKS).map(|_| daemon.submit(&task(random))).collect();
    // Erased from the log when its owner goes.
    for key in ["a", "b"] {
        let stored = daemon.client().send(
            "PUT",
            &format!("/v1/memory/mind/{key}"),
            &[("content-type", "application/json")],
            Some(json!({"value": {"secret": key}}).to_string().as_bytes()),
        );
        assert!(stored.status < 300, "{}", stored.text());
    }
    for id in &ids {
        daemon.ended(id, Duration::from_mins(1));
    }
    daemon.ctl(&["audit", "checkpoint"]).exits(0);
    let removed = daemon.client().delete("/v1/agents/mind");
    assert!(removed.status < 300, "{}", removed.text());
    eventually("the memory is erased", Duration::from_secs(30), || {
        let erased = fs::metadata(daemon.home().data().join("journal/erased")).unwrap();
        if erased.len() > 8 {
            Ok(())
        } else {
            Err(format!("{} bytes", erased.len()))
        }
    });
    let tasks: BTreeMap<_, _> = testimony(&daemon)
        .into_iter()
        .map(|(id, told)| (id, told.unwrap()))
        .collect();
    assert_eq!(tasks.len(), ids.len());
    let file = daemon.home().scratch().join("audit.jsonl");
    let file = file.to_str().unwrap();
    daemon.ctl(&["audit", "export", "--out", file]).exits(0);
    let records = records(file);
    let home = if in_order {
        let (home, code) = daemon.stop(Signal::TERM);
        assert_eq!(code, 0);
        home
    } else {
        daemon.kill9()
    };
    Before {
        home,
        tasks,
        records,
    }
}

/// The files below a directory, by their kind, relative to it.
fn files(data: &Path) -> BTreeMap<&'static str, Vec<PathBuf>> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            } else if entry.metadata().unwrap().len() > 0 {
                found.push(entry.path());
            }
        }
    }
    let mut all = Vec::new();
    walk(data, &mut all);
    all.sort();
    let mut kinds = BTreeMap::<_, Vec<PathBuf>>::new();
    for path in all {
        let path = path.strip_prefix(data).unwrap().to_owned();
        let text = path.to_str().unwrap();
        let kind = match text {
            "node.key" => "key",
            "token" => "token",
            "journal/tail" => "tail",
            "journal/hashes" => "hashes",
            "journal/erased" => "erased",
            "journal/checkpoint" => "checkpoint",
            "journal/log/spare" => "spare",
            _ if text.starts_with("journal/log/") => "segment",
            _ if text.starts_with("journal/runs/") => "run",
            _ if text.starts_with("journal/snapshots/") => "snapshot",
            _ if text.starts_with("content/") => "content",
            _ if text.starts_with("bundles/") => "bundle",
            _ if text.starts_with("projections/") => "projection",
            // Written anew at each start, and read by nobody before: the lock, the endpoint, what runs.
            _ => continue,
        };
        kinds.entry(kind).or_default().push(path);
    }
    // The newest segment is read when the journal is opened, the others when somebody wants them.
    let segments = kinds.get_mut("segment").unwrap();
    assert!(segments.len() > 2, "{segments:?}");
    let newest = segments.pop().unwrap();
    kinds.insert("last segment", vec![newest]);
    kinds
}

/// Flips a bit of what is used of a file; says which.
fn flip(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) + 1;
    let at = usize::try_from(random.between(0, used as u64)).unwrap();
    let bit = random.between(0, 8);
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
    format!("bit {bit} of byte {at}")
}

/// Starts a daemon on damaged data and holds what it shows, or how it refuses, against what was there.
fn judge(before: &Before, data: &Path, damaged: &Path) -> Result<&'static str, String> {
    let home = home().data_at(data);
    // A file of the content store is named by a digest, cut in two; a key is named by what it opens.
    let name = damaged.file_name().unwrap().to_str().unwrap().to_owned();
    let names = |text: &str| text.contains(&name) || text.contains("the log belongs to");
    let daemon = match home.try_start() {
        Err((home, code)) => {
            no_panic(&home);
            let log = home.log();
            return if REFUSED.contains(&code) && names(&log) {
                Ok("refused")
            } else {
                Err(format!("exit {code} without the file's name:\n{log}"))
            };
        }
        Ok(daemon) => daemon,
    };
    let mut outcome = "the same";
    let after = testimony(&daemon);
    for (id, was) in &before.tasks {
        match after.get(id) {
            Some(Ok(is)) if is == was => {}
            Some(Ok(is)) => return Err(format!("task {id} is {is:?}, was {was:?}")),
            Some(Err(why)) if names(why) => outcome = "told by an answer",
            Some(Err(why)) => return Err(format!("task {id}: {why}")),
            None => return Err(format!("task {id} is gone, and nobody said so")),
        }
    }
    if after.len() != before.tasks.len() {
        return Err("there are tasks that never were".to_owned());
    }
    let file = daemon.home().scratch().join("audit.jsonl");
    let file = file.to_str().unwrap();
    let exported = daemon.ctl(&["audit", "export", "--out", file]);
    if exported.code == 0 {
        daemon.ctl(&["audit", "verify", file]).exits(0);
        if records(file) < before.records {
            return Err("records are gone, and nobody said so".to_owned());
        }
    } else if names(&exported.err) || names(&daemon.home().log()) {
        outcome = "told by the export";
    } else {
        return Err(format!(
            "the export failed without the file's name: {}",
            exported.err
        ));
    }
    no_panic(&daemon.kill9());
    Ok(outcome)
}

fn flips(test: &str, in_order: bool) {
    let mut random = seeded(test);
    let before = history(&mut random, in_order);
    let kinds = files(before.home.data());
    // Snapshots are taken at an orderly end, or after many more records.
    assert!(!in_order || kinds.contains_key("snapshot"), "{kinds:?}");
    for kind in [
        "key",
        "tail",
        "hashes",
        "erased",
        "checkpoint",
        "spare",
        "content",
        "projection",
        "last segment",
        "segment",
    ] {
        assert!(
            kinds.contains_key(kind) || kind == "spare",
            "{kind}: no such file in {kinds:?}"
        );
    }
    let mut outcomes = BTreeMap::<_, u64>::new();
    let mut wrong = Vec::new();
    for (kind, paths) in &kinds {
        for _ in 0..setting("MESH_FLIPS", FLIPS) {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            copy(before.home.data(), &data);
            let chosen = usize::try_from(random.between(0, paths.len() as u64)).unwrap();
            let path = &paths[chosen];
            let place = flip(&data.join(path), &mut random);
            match judge(&before, &data, path) {
                Ok(outcome) => *outcomes.entry((*kind, outcome)).or_default() += 1,
                Err(why) => wrong.push(format!("{place} of {}: {why}", path.display())),
            }
        }
    }
    say(test, &format!("{outcomes:?}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_flipped_bit_after_an_orderly_end_is_told_or_mended() {
    flips("a_flipped_bit_after_an_orderly_end_is_told_or_mended", true);
}

#[test]
fn a_flipped_bit_after_kill_9_is_told_or_mended() {
    flips("a_flipped_bit_after_kill_9_is_told_or_mended", false);
}

#[test]
fn projections_that_are_half_deleted_are_rebuilt() {
    let test = "projections_that_are_half_deleted_are_rebuilt";
    let mut random = seeded(test);
    for in_order in [true, false] {
        let before = history(&mut random, in_order);
        let paths = files(before.home.data()).remove("projection").unwrap();
        for path in &paths {
            for half in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let data = dir.path().join("data");
                copy(before.home.data(), &data);
                let damaged = data.join(path);
                if half {
                    let file = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
                    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
                } else {
                    fs::remove_file(&damaged).unwrap();
                }
                let what = format!("{}, half of it left: {half}", path.display());
                assert_eq!(judge(&before, &data, path), Ok("the same"), "{what}");
            }
        }
    }
}
