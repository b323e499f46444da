//! Power cuts, on file systems that are ended under the daemon's hands and come back with what they had synced.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_tests::{
    Daemon, FileSystem, Home, LoopDisk, Random, descendants, eventually, shim, survivors,
};

use super::load::{Books, CONFIG, echo, home, listed, live, say, seeded};
use crate::crash::{setting, submit};

/// Power cuts of each file system; `MESH_POWER_CUTS` asks for more.
const CUTS: u64 = 3;
/// Clients at once.
const WORKERS: u64 = 2;
/// Nothing of an ended life may be alive after this time.
const GONE_MAX: Duration = Duration::from_secs(10);
/// Syncs of the log before a start is ready; the daemon is killed at one of the next.
const SYNCS_OF_START: u64 = 4;

/// Cuts the power, ends what is left of the daemon, and brings the disk back.
fn cut(daemon: Daemon, disk: &LoopDisk) -> Home {
    let below = descendants(daemon.pid());
    disk.cut();
    let home = daemon.kill9();
    eventually("nothing of it is alive", GONE_MAX, || {
        let left = survivors(&below);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    disk.replay();
    home
}

/// Puts load on a life and cuts it off in the midst of it.
fn one_life(
    daemon: Daemon,
    disk: &LoopDisk,
    books: &Books,
    round: u64,
    random: &mut Random,
) -> Home {
    assert!(books.ask_again(daemon.client()), "no answer");
    let client = daemon.client().clone();
    let stop = AtomicBool::new(false);
    let (home, told) = std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (client, stop, random) = (&client, &stop, Random::new(random.next_u64()));
            scope.spawn(move || books.work(client, &format!("{round}-{worker}"), stop, random));
        }
        live(random, 50, 500);
        // A machine without power tells nobody anything. This one goes on, and its kernel lets a sync that is under way when
        // the file system ends return without an error: what is acknowledged from here on is not counted.
        let told = books.ledger.lock().unwrap().acknowledged.clone();
        let home = cut(daemon, disk);
        stop.store(true, Ordering::Relaxed);
        (home, told)
    });
    books.ledger.lock().unwrap().acknowledged = told;
    home
}

fn cuts(test: &str, kind: FileSystem) {
    if let Some(disk) = LoopDisk::mount(test, kind) {
        cuts_on(test, &disk, home());
    }
}

fn cuts_on(test: &str, disk: &LoopDisk, home: Home) {
    let home = home.data_at(&disk.place().join("data"));
    let mut random = seeded(test);
    let mut books = Books::default();
    let mut daemon = home.start();
    daemon.deploy(&echo());
    let cuts = setting("MESH_POWER_CUTS", CUTS);
    for round in 0..cuts {
        if random.between(0, 3) == 0 {
            books.keep_checkpoint(&daemon);
        }
        let home = one_life(daemon, disk, &books, round, &mut random);
        daemon = home.start();
        books.recent_are_there(&mut daemon, &format!("after cut {}", round + 1));
        if round % 10 == 9 {
            books.hold(&daemon, &format!("after cut {}", round + 1));
        }
    }
    books.hold(&daemon, "after the last cut");
    let tasks = books.close(&daemon);
    say(
        test,
        &format!("{cuts} power cuts, {tasks} acknowledged tasks"),
    );
    drop(daemon);
}

#[test]
fn every_acknowledged_task_survives_power_cuts_on_ext4_and_ends_once() {
    cuts(
        "every_acknowledged_task_survives_power_cuts_on_ext4_and_ends_once",
        FileSystem::Ext4,
    );
}

#[test]
fn every_acknowledged_task_survives_power_cuts_on_an_encrypted_directory_and_ends_once() {
    let test =
        "every_acknowledged_task_survives_power_cuts_on_an_encrypted_directory_and_ends_once";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let home = home();
    let key = home.scratch().join("storage.key");
    let storage = format!(
        "{CONFIG}storage:\n  encryption: required\n  key_file: {}\n",
        key.display()
    );
    cuts_on(test, &disk, home.config(&storage));
}

#[test]
fn every_acknowledged_task_survives_power_cuts_on_xfs_and_ends_once() {
    cuts(
        "every_acknowledged_task_survives_power_cuts_on_xfs_and_ends_once",
        FileSystem::Xfs,
    );
}

/// A start and the agent's own take far fewer syncs than this beyond those that are always there.
const CUTS_BEFORE_WORK_MAX: u64 = 20;

/// `kill -9` between a write and its sync leaves records that only the kernel's memory holds. A start that shows them must
/// have put them on the disk, or a power cut takes back what somebody has seen.
fn shown_is_durable(test: &str, kind: FileSystem) {
    let (Some(shim), Some(disk)) = (shim(test), LoopDisk::mount(test, kind)) else {
        return;
    };
    let home = home().data_at(&disk.place().join("data"));
    let mut random = seeded(test);
    let books = Books::default();
    let daemon = home.start();
    daemon.deploy(&echo());
    let mut home = daemon.kill9();
    let mut unsynced = 0;
    let wanted = setting("MESH_POWER_CUTS", CUTS);
    // How many syncs a start takes differs, so some kills fall before the first submission.
    for nth in 1..=wanted + CUTS_BEFORE_WORK_MAX {
        if nth > wanted && unsynced > 0 {
            break;
        }
        let log = home.scratch().join("disk.log");
        let journal = home.data().join("journal");
        let fault = format!("sync:die:{}", SYNCS_OF_START + nth);
        home = home.only_env(&[
            ("LD_PRELOAD", shim.to_str().unwrap()),
            ("DISK_DIR", journal.to_str().unwrap()),
            ("DISK_FAULT", &fault),
            ("DISK_LOG", log.to_str().unwrap()),
        ]);
        home = match home.try_start() {
            Err((home, _)) => home,
            Ok(daemon) => {
                for number in 0.. {
                    let key = format!("{nth}-{number}");
                    let task = super::load::task(&mut random);
                    if !submit(daemon.client(), &books.ledger, &key, &task) {
                        break;
                    }
                }
                daemon.wait_end(GONE_MAX).0
            }
        };
        unsynced += u64::from(!books.ledger.lock().unwrap().unsure.is_empty());
        let daemon = home.only_env(&[]).start();
        let seen: BTreeSet<String> = listed(daemon.client()).into_keys().collect();
        home = cut(daemon, &disk);
        let daemon = home.start();
        let after = listed(daemon.client());
        let lost: Vec<_> = seen.iter().filter(|id| !after.contains_key(*id)).collect();
        assert!(
            lost.is_empty(),
            "killed at {fault}: shown after it and lost by the power cut: {lost:?}"
        );
        assert!(books.ask_again(daemon.client()));
        home = daemon.kill9();
    }
    assert!(unsynced > 0, "no kill fell between a write and its sync");
    let daemon = home.start();
    books.close(&daemon);
    drop(daemon);
}

#[test]
fn what_a_start_shows_after_kill_9_survives_a_power_cut_on_ext4() {
    shown_is_durable(
        "what_a_start_shows_after_kill_9_survives_a_power_cut_on_ext4",
        FileSystem::Ext4,
    );
}

#[test]
fn what_a_start_shows_after_kill_9_survives_a_power_cut_on_xfs() {
    shown_is_durable(
        "what_a_start_shows_after_kill_9_survives_a_power_cut_on_xfs",
        FileSystem::Xfs,
    );
}
