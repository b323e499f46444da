//! The real daemon: its home, its lives, its ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::{MESHD, binary};
use crate::http::Client;
use crate::meshctl::{Ran, meshctl};
use crate::slots::Slot;

/// A start replays the log and tries out the sandbox; on a busy machine that takes seconds.
const READY_MAX: Duration = Duration::from_mins(1);
/// Longest orderly end: drain and stop of agents are shortened in [`CONFIG`].
const STOP_MAX: Duration = Duration::from_secs(30);
/// Lines of the daemon's log that a failed test shows.
const LOG_TAIL: usize = 80;
/// What begins the one line that the daemon writes to standard output.
const READY: &str = "meshd ready at ";

/// As shipped, but for waits that tests need not sit out.
const CONFIG: &str = "supervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\ntelemetry:\n  log_format: human\n";

/// A place for a daemon to live in, from one life to the next.
#[derive(Debug)]
pub struct Home {
    root: tempfile::TempDir,
    data: PathBuf,
    listen: String,
    agents: Option<PathBuf>,
    env: Vec<(String, String)>,
    through: Vec<String>,
    arguments: Vec<String>,
    _slot: Slot,
}

/// How a run of `meshd` to its end came out.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Home {
    /// An empty one, with the configuration of tests. Waits while too many daemons run already.
    pub fn new() -> Self {
        let slot = Slot::take();
        let root = tempfile::Builder::new()
            .prefix("mesh-it-")
            .tempdir()
            .expect("a temporary directory");
        let data = root.path().join("data");
        let home = Self {
            root,
            data,
            listen: "127.0.0.1:0".to_owned(),
            agents: None,
            env: Vec::new(),
            through: Vec::new(),
            arguments: Vec::new(),
            _slot: slot,
        };
        home.config(CONFIG)
    }

    /// With this configuration file instead.
    pub fn config(self, yaml: &str) -> Self {
        fs::write(self.config_file(), yaml).expect("a configuration file");
        self
    }

    /// With these arguments beside its own, instead of those that were given before.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        self
    }

    /// With another address to listen at.
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// With a data directory elsewhere.
    pub fn data_at(mut self, data: &Path) -> Self {
        data.clone_into(&mut self.data);
        self
    }

    /// With bundles that are deployed at start.
    pub fn agents(mut self, dir: &Path) -> Self {
        self.agents = Some(dir.to_owned());
        self
    }

    /// With a variable in the daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these variables instead of those that were set before.
    pub fn only_env(mut self, env: &[(&str, &str)]) -> Self {
        self.env.clear();
        env.iter()
            .fold(self, |home, (name, value)| home.env(name, value))
    }

    /// Through another program, which becomes the daemon or leaves it where it is; through none when there are no words.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A directory for whatever else the test needs; it ends with the home.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// All that the daemon has logged so far, over all its lives.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.root.path().join("meshd.log")
    }

    fn open_log(&self) -> File {
        let mut options = File::options();
        options.create(true).append(true);
        options.open(self.log_file()).expect("a log file")
    }

    fn config_file(&self) -> PathBuf {
        self.root.path().join("meshd.yaml")
    }

    /// `meshd` with nothing of the caller's environment.
    pub fn command(&self) -> Command {
        let mut words = self.through.iter().map(PathBuf::from).collect::<Vec<_>>();
        words.push(binary(MESHD));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.root.path())
            .env_clear()
            // Not the caller's: an interpreter under somebody's home is none that another user may run.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn run_command(&self) -> Command {
        let mut command = self.command();
        command
            .arg("--config")
            .arg(self.config_file())
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.listen])
            .args(&self.arguments);
        if let Some(agents) = &self.agents {
            command.arg("--agents").arg(agents);
        }
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Daemon {
        self.try_start().unwrap_or_else(|(home, code)| {
            panic!(
                "meshd ended with {code} before it was ready\n{}",
                home.log_tail()
            )
        })
    }

    /// Starts the daemon and waits until it says that it is ready, or has ended: then home and exit code come back.
    #[expect(
        clippy::result_large_err,
        reason = "the home goes back to whoever starts it again"
    )]
    pub fn try_start(self) -> Result<Daemon, (Self, i32)> {
        let mut child = self
            .run_command()
            .stdout(Stdio::piped())
            .stderr(self.open_log())
            .spawn()
            .expect("meshd starts");
        let lines = read_lines(child.stdout.take().expect("its standard output"));
        let line = match lines.recv_timeout(READY_MAX) {
            Ok(line) => line,
            Err(why) => match wait(&mut child, STOP_MAX) {
                Some(status) => return Err((self, code(status))),
                None => panic!(
                    "meshd was not ready within {READY_MAX:?} ({why})\n{}",
                    self.log_tail()
                ),
            },
        };
        let url = line.strip_prefix(READY).map(str::trim_end);
        let url = url.unwrap_or_else(|| panic!("an unexpected line on standard output: {line}"));
        let token = fs::read_to_string(self.data.join("token")).expect("the first start's token");
        let client = Client::new(url, Some(token.trim().to_owned()));
        Ok(Daemon {
            url: url.to_owned(),
            home: Some(self),
            child,
            client,
            lines,
        })
    }

    /// Starts the daemon and kills it after so long, ready or not.
    #[must_use]
    pub fn start_and_kill9(self, after: Duration) -> Self {
        let child = self
            .run_command()
            .stdout(Stdio::null())
            .stderr(self.open_log())
            .spawn()
            .expect("meshd starts");
        kill9_after(child, after);
        self
    }

    /// Runs `meshd` where it should end by itself, and soon.
    #[track_caller]
    pub fn run_to_end(&self) -> Ended {
        finish(self.run_command(), READY_MAX)
    }

    /// Runs `meshd storage VERB` on the data directory, while no daemon does.
    #[track_caller]
    pub fn storage(&self, verb: &str) -> Ended {
        finish(self.storage_command(verb), READY_MAX)
    }

    /// The same, killed after so long, ended or not.
    #[must_use]
    pub fn storage_and_kill9(self, verb: &str, after: Duration) -> Self {
        let mut command = self.storage_command(verb);
        let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
        kill9_after(silent.spawn().expect("meshd starts"), after);
        self
    }

    fn storage_command(&self, verb: &str) -> Command {
        let mut command = self.command();
        command
            .args(["storage", verb, "--config"])
            .arg(self.config_file())
            .arg("--data")
            .arg(&self.data);
        command
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL);
        format!(
            "--- the end of meshd's log ---\n{}\n---",
            lines[from..].join("\n")
        )
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read_lines(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Ended {
    /// Runs a command to its end.
    #[track_caller]
    pub fn of(command: Command, within: Duration) -> Self {
        finish(command, within)
    }

    /// The same, once the exit code is the expected one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code of meshd\nstdout: {}\nstderr: {}",
            self.out, self.err
        );
        self
    }
}

/// Runs a command to its end; one that does not end is killed and fails the test.
#[track_caller]
fn finish(mut command: Command, within: Duration) -> Ended {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Files rather than pipes: nothing has to be read for the command to go on.
    let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
    let mut child = command
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .expect("the command starts");
    let ended = wait(&mut child, within);
    let text = |name: &str| {
        String::from_utf8_lossy(&fs::read(dir.path().join(name)).unwrap_or_default()).into_owned()
    };
    match ended {
        Some(status) => Ended {
            code: code(status),
            out: text("out"),
            err: text("err"),
        },
        None => panic!(
            "{command:?} did not end within {within:?}\nstdout: {}\nstderr: {}",
            text("out"),
            text("err")
        ),
    }
}

fn kill9_after(mut child: Child, after: Duration) {
    std::thread::sleep(after);
    drop(child.kill());
    drop(child.wait());
}

/// Waits for an end; kills what does not end in time.
fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            return Some(status);
        }
        if Instant::now() > end {
            drop(child.kill());
            drop(child.wait());
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A daemon that is ready.
#[derive(Debug)]
pub struct Daemon {
    // Taken only by what ends the daemon.
    home: Option<Home>,
    child: Child,
    url: String,
    client: Client,
    lines: Receiver<String>,
}

impl Daemon {
    /// One with the configuration of tests and an empty data directory.
    #[track_caller]
    pub fn start() -> Self {
        Home::new().start()
    }

    /// Where it lives.
    pub fn home(&self) -> &Home {
        self.home
            .as_ref()
            .expect("a daemon has a home until it ends")
    }

    /// The address that it named on standard output.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with the admin's token.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs `meshctl` against it.
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        meshctl(self.home().data(), arguments)
    }

    /// Lines on standard output after the first; there should be none.
    pub fn further_output(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Ends it with `SIGKILL`. Its home is left as it is.
    pub fn kill9(mut self) -> Home {
        drop(self.child.kill());
        drop(self.child.wait());
        self.home.take().expect("a daemon has a home until it ends")
    }

    /// Sends a signal and waits for the end; returns the home and the exit code.
    #[track_caller]
    pub fn stop(mut self, signal: Signal) -> (Home, i32) {
        self.signal(signal);
        let ended = wait(&mut self.child, STOP_MAX);
        let home = self.home.take().expect("a daemon has a home until it ends");
        match ended {
            Some(status) => (home, code(status)),
            None => panic!(
                "meshd did not end within {STOP_MAX:?} of {signal:?}\n{}",
                home.log_tail()
            ),
        }
    }

    /// Waits for it to end by itself; returns the home and the exit code.
    #[track_caller]
    pub fn wait_end(mut self, within: Duration) -> (Home, i32) {
        let ended = wait(&mut self.child, within);
        let home = self.home.take().expect("a daemon has a home until it ends");
        let status = ended.unwrap_or_else(|| panic!("meshd did not end within {within:?}"));
        (home, code(status))
    }

    /// Its exit code, once it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        let ended = self.child.try_wait().expect("the state of a child");
        ended.map(code)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; whoever sent the signal waits for the end and sees.
            let _gone_already = kill_process(pid, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        if std::thread::panicking() {
            use std::io::Write as _;
            drop(writeln!(std::io::stdout(), "{}", home.log_tail()));
        }
        // In order where it can be had, so that what it made outside its directory (groups) is taken away.
        self.signal(Signal::TERM);
        let _killed_if_late = wait(&mut self.child, STOP_MAX);
    }
}
