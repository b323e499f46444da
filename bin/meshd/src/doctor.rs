//! `meshd doctor`: what this machine gives, found by doing it, and how to get what is missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh_config::{Config, HomeKind};
use mesh_sandbox::{
    ChildHandle, Ids, Launcher, LauncherConfig, Level, Limits, NetworkAccess, Plan, PlanPolicy,
    Probe, Program, SandboxSpec, Shortfall, TempAccess, plan,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::cli::{DoctorArgs, Output};
use crate::exit::{Exit, Failure};
use crate::{settings, show};

mod host;

/// How long the trial agent may take to shake hands.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);
/// Everything that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Diagnosis {
    version: &'static str,
    kernel: String,
    root: bool,
    /// Whether agents run here as shipped.
    agents_can_run: bool,
    findings: Vec<Finding>,
    probe: Probe,
}

/// One line of the diagnosis.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    group: &'static str,
    name: String,
    verdict: Verdict,
    detail: String,
    cure: Option<String>,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Good,
    /// It can be worked with.
    Weak,
    /// Agents cannot run without it.
    Bad,
}

/// `meshd doctor`.
///
/// # Errors
/// When it cannot examine anything at all.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let (config, _) = show::load(&args.run)?;
    let diagnosis = examine(&config)?;
    let text = match args.output {
        Output::Table => diagnosis.to_string(),
        Output::Json => {
            let json = serde_json::to_string_pretty(&diagnosis);
            json.map_err(|error| Failure::new(Exit::Escalated, error))? + "\n"
        }
    };
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(if diagnosis.agents_can_run {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn examine(config: &Config) -> Result<Diagnosis, Failure> {
    let failed = |error| Failure::io("cannot make a temporary directory", error);
    let scratch = tempfile::Builder::new()
        .prefix("meshd-doctor-")
        .tempdir()
        .map_err(failed)?;
    let run_id = format!("doctor-{}", std::process::id());
    let launcher = Launcher::start(LauncherConfig {
        run_dir: scratch.path().join("run"),
        images: config.sandbox.homes == HomeKind::Image,
        run_id: run_id.clone(),
        tag: run_id.clone(),
        helper: None,
    })
    .map_err(|error| Failure::new(Exit::Failed, error))?;
    let probe = launcher.probe().clone();
    let spec = trial_spec(config, &probe, scratch.path(), run_id);
    let mut findings = match plan(&spec, &probe, &settings::sandbox(config)) {
        Ok(accepted) => {
            let mut findings = controls(&accepted, &remedies(&spec, &probe));
            findings.push(trial(&launcher, accepted));
            findings
        }
        Err(mesh_sandbox::Refused::Shortfalls(missing)) => {
            missing.iter().map(missing_control).collect()
        }
        Err(error) => vec![finding(
            "sandbox",
            "plan",
            Verdict::Bad,
            format!("{:#}", anyhow::Error::new(error)),
        )],
    };
    findings.push(cgroups(&probe));
    if probe.root {
        let paths = &config.sandbox.files.as_owner;
        findings.extend(paths.iter().map(|path| owner(&launcher, path)));
    }
    findings.push(host::vault(config));
    findings.push(host::encryption(config));
    findings.extend(host::findings(&config.data));
    Ok(Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        kernel: probe.kernel.clone(),
        root: probe.root,
        agents_can_run: findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Bad),
        findings,
        probe,
    })
}

fn finding(
    group: &'static str,
    name: impl Into<String>,
    verdict: Verdict,
    detail: impl Into<String>,
) -> Finding {
    Finding {
        group,
        name: name.into(),
        verdict,
        detail: detail.into(),
        cure: None,
    }
}

/// The sandbox of an agent whose manifest asks for nothing, running the built-in `echo`.
fn trial_spec(config: &Config, probe: &Probe, scratch: &Path, run_id: String) -> SandboxSpec {
    let limits = settings::limits(config);
    let uid = config.sandbox.uid_range.first;
    SandboxSpec {
        label: "doctor".to_owned(),
        run_id,
        name: "doctor-echo".to_owned(),
        program: Program::Image,
        args: vec![mesh_actors::BUILTIN_VERB.to_owned(), "echo".to_owned()],
        env: BTreeMap::new(),
        workdir: None,
        bundle: None,
        home: scratch.join("home"),
        home_form: probe.new_home(
            config.sandbox.homes == HomeKind::Image,
            scratch.join("home.ext4"),
        ),
        state: scratch.to_owned(),
        allowed_paths: Vec::new(),
        runtime_paths: Vec::new(),
        temp: TempAccess::None,
        execution: mesh_sandbox::Execution::Anything,
        narrowed: mesh_sandbox::Narrowed::default(),
        network: NetworkAccess::None,
        secrets: Vec::new(),
        limits: Limits {
            cpu_millicores: Some(limits.cpu_millicores),
            memory_bytes: Some(limits.memory_bytes),
            pids: Some(limits.pids),
            nofile: Some(limits.nofile),
            disk_bytes: Some(limits.disk_bytes),
            io_bytes_per_second: limits.io_bytes_per_second,
        },
        ids: probe.root.then_some(Ids { uid, gid: uid }),
    }
}

/// Waits until nothing of the sandbox is left, so that nothing is left behind either.
fn ended(child: &ChildHandle) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(TRIAL_LIMIT, child.wait()).await })
        .map(|_| ())
        .context("it was killed and did not end")
}

/// How to get each control that falls short of what is asked for, though it may.
fn remedies(spec: &SandboxSpec, probe: &Probe) -> BTreeMap<&'static str, String> {
    let nothing_may_degrade = PlanPolicy {
        required: true,
        degradable: Vec::new(),
    };
    let Err(mesh_sandbox::Refused::Shortfalls(missing)) = plan(spec, probe, &nothing_may_degrade)
    else {
        return BTreeMap::new();
    };
    let remedy = |short: Shortfall| {
        let name = short.control.name();
        // Only what may degrade is asked about here, so this advice has been followed.
        let followed = format!("list `{name}` in sandbox.degradable, or ");
        (name, short.remedy.trim_start_matches(&followed).to_owned())
    };
    missing.into_iter().map(remedy).collect()
}

fn controls(plan: &Plan, remedies: &BTreeMap<&'static str, String>) -> Vec<Finding> {
    let of = |enforcement: &mesh_sandbox::Enforcement| {
        let (verdict, how) = match enforcement.level {
            Level::Kernel => (Verdict::Good, enforcement.mechanism.clone()),
            Level::Advisory => (
                Verdict::Weak,
                format!("{}: {}", enforcement.mechanism, enforcement.detail),
            ),
            Level::None => (
                Verdict::Weak,
                format!("not enforced: {}", enforcement.detail),
            ),
        };
        let name = enforcement.control.name();
        Finding {
            cure: remedies.get(name).cloned(),
            ..finding("sandbox", name, verdict, how)
        }
    };
    plan.report().controls.iter().map(of).collect()
}

fn missing_control(missing: &Shortfall) -> Finding {
    Finding {
        cure: Some(missing.remedy.clone()),
        ..finding(
            "sandbox",
            missing.control.name(),
            Verdict::Bad,
            missing.reason.clone(),
        )
    }
}

/// Starts an agent in a sandbox and waits for its handshake: the proof that all of it works together.
fn trial(launcher: &Launcher, plan: Plan) -> Finding {
    let started = Instant::now();
    let launched = launcher.launch_blocking(plan).map_err(anyhow::Error::new);
    let shaken = launched.and_then(|mut child| {
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| anyhow::anyhow!("it has no standard output"))?;
        let line = first_line(stdout, started + TRIAL_LIMIT)?;
        anyhow::ensure!(
            line.contains("HANDSHAKE"),
            "it said {line:?} instead of shaking hands"
        );
        child.kill()?;
        ended(&child)
    });
    launcher.close();
    match shaken {
        Ok(()) => {
            let took = started.elapsed().as_millis();
            finding(
                "sandbox",
                "trial",
                Verdict::Good,
                format!("an agent started and shook hands in {took} ms"),
            )
        }
        Err(error) => finding(
            "sandbox",
            "trial",
            Verdict::Bad,
            format!("an agent did not start: {error:#}"),
        ),
    }
}

/// Reads up to the first line break; the descriptor does not block.
fn first_line(fd: OwnedFd, until: Instant) -> anyhow::Result<String> {
    let mut file = std::fs::File::from(fd);
    let (mut line, mut byte) = (Vec::new(), [0_u8; 1]);
    loop {
        match file.read(&mut byte) {
            Ok(0) => anyhow::bail!("it ended without a word"),
            Ok(_) if byte == [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = until.saturating_duration_since(Instant::now());
                anyhow::ensure!(
                    !left.is_zero(),
                    "it did not shake hands within {TRIAL_LIMIT:?}"
                );
                let left = Timespec::try_from(left)?;
                poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&left))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether agents can stand for the owner of what lies there.
fn owner(launcher: &Launcher, path: &str) -> Finding {
    match launcher.stands_for_owner(Path::new(path)) {
        Ok(()) => finding(
            "sandbox",
            "as_owner",
            Verdict::Good,
            format!("{path}: agents can stand for its owner"),
        ),
        Err(why) => finding(
            "sandbox",
            "as_owner",
            Verdict::Weak,
            format!("{path}: {why}"),
        ),
    }
}

/// Freezing is no control of its own; without it a quarantined agent is stopped instead.
fn cgroups(probe: &Probe) -> Finding {
    let freezer = &probe.freezer.finding;
    let verdict = if freezer.works {
        Verdict::Good
    } else {
        Verdict::Weak
    };
    Finding {
        cure: freezer.remedy.clone(),
        ..finding("sandbox", "freezer", verdict, freezer.detail.clone())
    }
}

/// The groups of findings, in the order in which they are shown.
const GROUPS: [(&str, &str); 3] = [
    ("sandbox", "Sandbox"),
    ("host", "Host"),
    ("secrets", "Secrets"),
];

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = if self.root {
            "as root"
        } else {
            "as an ordinary user"
        };
        writeln!(f, "meshd {} on Linux {}, {who}", self.version, self.kernel)?;
        for (group, title) in GROUPS {
            writeln!(f, "\n{title}")?;
            for finding in self
                .findings
                .iter()
                .filter(|finding| finding.group == group)
            {
                f.write_str(&row(finding))?;
            }
        }
        let weak = self
            .findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Weak)
            .count();
        let verdict = match (self.agents_can_run, weak) {
            (true, 0) => "Agents can run here, with every control enforced.".to_owned(),
            (true, 1) => "Agents can run here; one thing could be better (~).".to_owned(),
            (true, weak) => format!("Agents can run here; {weak} things could be better (~)."),
            (false, _) => "Agents cannot run here as shipped; see the lines marked ✗.".to_owned(),
        };
        writeln!(f, "\n{verdict}")
    }
}

fn row(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => '✓',
        Verdict::Weak => '~',
        Verdict::Bad => '✗',
    };
    let mut text = format!("  {mark} {:<12} {}\n", finding.name, finding.detail);
    if let Some(cure) = &finding.cure {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{:17}{cure}", "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_missing_and_how_to_get_it() {
        let finding = Finding {
            cure: Some("install it".to_owned()),
            ..finding("host", "node", Verdict::Weak, "not found in PATH")
        };
        assert_eq!(
            row(&finding),
            "  ~ node         not found in PATH\n                 install it\n"
        );
    }

    #[test]
    fn descriptors_pass_the_first_line_on_and_no_more() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        std::fs::File::from(write)
            .write_all(b"{\"type\":\"HANDSHAKE\"}\nmore")
            .unwrap();
        let line = first_line(read, Instant::now() + TRIAL_LIMIT).unwrap();
        assert_eq!(line, "{\"type\":\"HANDSHAKE\"}");
    }
}
