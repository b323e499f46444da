//! Processes as `/proc` shows them, to find what should no longer be there.

use std::collections::BTreeMap;
use std::fs;

/// A process that cannot be mistaken for a later one with its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Ticks from boot to its start.
    started: u64,
    /// Its command line, for people.
    pub command: String,
}

#[derive(Debug)]
struct Stat {
    parent: u32,
    started: u64,
    is_dead: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets; what follows the last bracket has fixed places.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        is_dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

fn all() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc")
        .expect("/proc is readable")
        .filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| !stat.is_dead)
        .collect()
}

/// Living processes below this one, whatever they did with sessions and groups.
pub fn descendants(root: u32) -> Vec<Process> {
    let all = all();
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
            open.push(*pid);
            found.push(Process {
                pid: *pid,
                started: stat.started,
                command: command(*pid),
            });
        }
    }
    found
}

/// Living processes that bear this mark in their command line or environment.
pub fn marked(mark: &str) -> Vec<Process> {
    let own = std::process::id();
    let bears = |pid: u32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes
            .windows(mark.len())
            .any(|window| window == mark.as_bytes())
    };
    all()
        .into_iter()
        .filter(|(pid, _)| *pid != own && (bears(*pid, "cmdline") || bears(*pid, "environ")))
        .map(|(pid, stat)| Process {
            pid,
            started: stat.started,
            command: command(pid),
        })
        .collect()
}

/// Those of the processes that still live.
pub fn survivors(processes: &[Process]) -> Vec<Process> {
    let lives = |process: &&Process| {
        stat(process.pid).is_some_and(|stat| stat.started == process.started && !stat.is_dead)
    };
    processes.iter().filter(lives).cloned().collect()
}
