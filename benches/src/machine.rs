//! The process that measures, and the machine under it.

use std::fs;
use std::io;
use std::process::Command;

/// How much of this process is in memory, in bytes.
///
/// # Errors
/// If the kernel does not tell.
pub fn resident_bytes() -> io::Result<u64> {
    let told = fs::read_to_string("/proc/self/status")?;
    let kilobytes: Option<u64> = told
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    kilobytes
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| io::Error::other("/proc/self/status has no VmRSS"))
}

/// The machine in one line.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split(':').nth(1))
            .map_or_else(|| "?".to_owned(), |value| value.trim().to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cpus} × {}, {} of memory, Linux {}, {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        load(&read("/proc/loadavg")),
    )
}

fn load(told: &str) -> String {
    let one_minute = told.split_whitespace().next().unwrap_or("?");
    format!("load {one_minute} at the start")
}

/// Runs this program again with one argument more, and gives the number that it prints last: memory is measured in a
/// process in which nothing has happened yet.
///
/// # Errors
/// If the program cannot be run, fails, or prints no number.
pub fn fresh(measure: &str, of: usize) -> io::Result<f64> {
    let ran = Command::new(std::env::current_exe()?)
        .env(FRESH, format!("{measure} {of}"))
        .output()?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(io::Error::other(format!("{measure} failed: {said}")));
    }
    let printed = String::from_utf8_lossy(&ran.stdout);
    printed
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("{measure} printed no number: {printed}")))
}

/// What a fresh process is to measure.
const FRESH: &str = "MESH_BENCH_FRESH";

/// What this process is to measure and on how many, if it is a fresh one, see [`fresh`].
pub fn measure() -> Option<(String, usize)> {
    let told = std::env::var(FRESH).ok()?;
    let (measure, of) = told.split_once(' ')?;
    Some((measure.to_owned(), of.parse().ok()?))
}
