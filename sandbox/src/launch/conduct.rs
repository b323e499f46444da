//! One sandbox from its preparation to its end, on a thread of its own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::{oneshot, watch};

use super::spawner::Helper;
use super::{Inner, LaunchError};
use crate::cgroup::{self, Group, wait_readable};
use crate::child::{Child, ExitStatus, Shared};
use crate::image::Image;
use crate::order;
use crate::plan::Plan;
use crate::spec::{HomeForm, NetworkAccess, SandboxSpec, SecretFile};
use crate::sweep::Record;
use crate::wire::{self, Control, Failure, Stage, Status};

/// Longest time for a whole set-up, which usually takes some milliseconds; a machine under heavy load
/// may need seconds, and more means that something hangs.
const SETUP_MAX: Duration = Duration::from_secs(30);

/// Stack of a conductor: it does no more than some system calls and one serialisation.
const STACK_BYTES: usize = 256 << 10;

type Answer = oneshot::Sender<Result<Child, LaunchError>>;

/// Starts the thread.
pub(super) fn begin(inner: Arc<Inner>, plan: Plan, answer: Answer) -> Result<(), LaunchError> {
    if plan.spec.run_id != inner.run_id {
        return Err(LaunchError::Run(plan.spec.run_id));
    }
    let builder = std::thread::Builder::new()
        .name("sandbox".to_owned())
        .stack_size(STACK_BYTES);
    let started = builder.spawn(move || conduct(&inner, &plan, answer));
    started
        .map_err(prepare("a thread for the sandbox"))
        .map(drop)
}

fn prepare(what: &str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Prepare {
        what: what.to_owned(),
        source,
    }
}

fn conduct(inner: &Arc<Inner>, plan: &Plan, answer: Answer) {
    let mut remains = Remains::default();
    let (sandbox, stdio, listener) = match set_up(inner, plan, &mut remains) {
        Ok(started) => started,
        Err(error) => {
            remains.clear();
            // A caller that is gone needs no error.
            answer.send(Err(error)).ok();
            return;
        }
    };
    let (publish, ended) = watch::channel(None);
    let shared = Arc::clone(&sandbox.shared);
    let mut child = Child::new(Arc::clone(inner), shared, stdio, ended, plan.report.clone());
    child.listener = listener;
    // A caller that is gone drops the child, and a dropped child is ended.
    answer.send(Ok(child)).ok();
    inner.spawner.began();
    let status = sandbox.wait();
    let strain = sandbox.shared.strained();
    // Set once, here.
    sandbox.shared.strain.set(strain).ok();
    let oom = strain.oom_kills > 0;
    remains.clear();
    // With it the file system is nobody's any more.
    drop(sandbox.shared.home().take());
    inner.spawner.ended();
    publish.send_replace(Some(ExitStatus { oom, ..status }));
}

/// What has to be cleared away, whatever happens.
#[derive(Debug, Default)]
struct Remains {
    helper: Option<process::Child>,
    /// Pid 1 of the sandbox.
    init: Option<OwnedFd>,
    group: Option<Group>,
    record: Option<Record>,
}

impl Remains {
    /// Ends and removes everything; when it returns, nothing of the sandbox lives.
    fn clear(&mut self) {
        if let Some(init) = self.init.take() {
            // It may have ended by itself.
            pidfd_send_signal(&init, Signal::KILL).ok();
            self.thaw();
            // The kernel says so only when the whole process namespace is empty.
            wait_readable(&init, None).ok();
        }
        if let Some(mut helper) = self.helper.take() {
            helper.kill().ok();
            self.thaw();
            helper.wait().ok();
        }
        if let Some(group) = self.group.take()
            && let Err(error) = group.kill().and_then(|()| group.remove())
        {
            tracing::warn!(%error, "a sandbox's control group could not be removed; the next start will");
            return;
        }
        if let Some(record) = self.record.take() {
            record.remove();
        }
    }

    fn thaw(&self) {
        if let Some(group) = &self.group {
            group.release();
        }
    }
}

/// A sandbox whose program runs.
struct Running {
    shared: Arc<Shared>,
}

impl Running {
    /// Waits for the end and says how the agent ended.
    fn wait(&self) -> ExitStatus {
        let mut status = ExitStatus {
            code: None,
            signal: Some(libc::SIGKILL),
            oom: false,
        };
        while let Ok(Some((message, _))) = wire::receive(self.shared.control.as_fd()) {
            match message {
                Control::Exited(code) => {
                    status = ExitStatus {
                        code: Some(code),
                        signal: None,
                        oom: false,
                    }
                }
                Control::Signaled(signal) => status.signal = Some(signal),
                other => tracing::warn!(?other, "a sandbox said something it should not"),
            }
        }
        status
    }
}

fn set_up(
    inner: &Inner,
    plan: &Plan,
    remains: &mut Remains,
) -> Result<(Running, [OwnedFd; 3], Option<OwnedFd>), LaunchError> {
    let spec = &plan.spec;
    order::prepare_home(spec)?;
    let home = mount_home(spec)?;
    let asked = inner.spawner.helper();
    let asked = asked.map_err(prepare("the helper process"))?;
    let sealed = seal(&order::build(plan)?).map_err(prepare("the sealed order"))?;
    let secrets = contents(&spec.secrets).map_err(prepare("the agent's secrets"))?;
    let Streams {
        inside,
        outside,
        status_inside,
        status,
    } = Streams::new().map_err(prepare("the agent's pipes"))?;
    let Helper { process, control } = asked.wait().map_err(prepare("the helper process"))?;
    let helper_pid = process.id();
    remains.helper = Some(process);
    let [stdin, stdout, stderr] = &inside;
    let image = inner.image.as_fd();
    let mut fds = vec![
        sealed.as_fd(),
        status_inside.as_fd(),
        stdin.as_fd(),
        stdout.as_fd(),
        stderr.as_fd(),
        image,
    ];
    fds.extend(secrets.as_ref().map(AsFd::as_fd));
    let (home, mount) = home.unzip();
    fds.extend(mount.as_ref().map(AsFd::as_fd));
    let told = wire::send(control.as_fd(), &Control::Order, &fds);
    drop((inside, status_inside, sealed, secrets, mount));
    let mut status = Reports {
        pipe: File::from(status),
    };
    if told.is_err() {
        return Err(status.failure(spec));
    }
    // While it leaves the host's namespaces. It has no child until it is told, so everything it will ever start is born inside.
    let group = match enrol(inner, spec, home.as_ref(), helper_pid, remains) {
        Ok(group) => group,
        Err(error) => {
            // It may have failed by itself just then, and know better why.
            remains.clear();
            return Err(status.reason(spec).unwrap_or(error));
        }
    };
    wire::send(control.as_fd(), &Control::Fork, &[]).map_err(|_| status.failure(spec))?;
    group
        .limit(&spec.limits)
        .map_err(prepare("the control groups' limits"))?;
    let Some((init_pid, init)) = await_init(&control)? else {
        return Err(status.failure(spec));
    };
    let copy = init.try_clone().map_err(prepare("pid 1's descriptor"))?;
    remains.init = Some(copy);
    if let Some(record) = remains.record.as_mut() {
        record
            .add(init_pid)
            .map_err(prepare("the record for the sweep"))?;
    }
    wire::send(control.as_fd(), &Control::Go, &[]).map_err(|_| status.failure(spec))?;
    let listener = match spec.network {
        NetworkAccess::Proxy => {
            Some(await_listener(&control)?.ok_or_else(|| status.failure(spec))?)
        }
        NetworkAccess::None | NetworkAccess::Open => None,
    };
    status.ready(spec)?;
    let shared = Arc::new(Shared {
        control,
        init,
        init_pid,
        group,
        home: Mutex::new(home),
        strain: OnceLock::new(),
    });
    Ok((Running { shared }, outside, listener))
}

/// Makes the sandbox's control groups, puts the helper into them and both on record.
fn enrol(
    inner: &Inner,
    spec: &SandboxSpec,
    home: Option<&Image>,
    helper: u32,
    remains: &mut Remains,
) -> Result<Group, LaunchError> {
    let name = format!("{}.{}", spec.run_id, spec.name);
    let group = Group::create(&inner.hierarchies, &name, disks(spec, home))
        .map_err(prepare("the control groups"))?;
    remains.group = Some(group.clone());
    group
        .add(helper)
        .map_err(prepare("the control groups' members"))?;
    let mut record = Record::new(&inner.run_dir, &name, group.clone());
    record
        .add(helper)
        .map_err(prepare("the record for the sweep"))?;
    remains.record = Some(record);
    Ok(group)
}

/// The disks behind what it may use.
fn disks(spec: &SandboxSpec, home: Option<&Image>) -> Vec<String> {
    let allowed = spec.allowed_paths.iter().map(|one| one.path.as_path());
    let own = [spec.home.as_path(), Path::new("/usr")];
    let mut disks = cgroup::devices(own.into_iter().chain(spec.bundle.as_deref()).chain(allowed));
    disks.extend(home.map(Image::device));
    disks
}

/// Its home's image and the mount of it, where the home is one.
fn mount_home(spec: &SandboxSpec) -> Result<Option<(Image, OwnedFd)>, LaunchError> {
    let HomeForm::Image { path } = &spec.home_form else {
        return Ok(None);
    };
    let (Some(bytes), Some(owner)) = (spec.limits.disk_bytes, spec.ids) else {
        let error = io::Error::other("it needs a user of its own and a limit of disk");
        return Err(prepare("a home that is an image")(error));
    };
    let what = format!("the home image {}", path.display());
    let mounted = Image::mount(path, bytes, owner).map_err(prepare(&what))?;
    Ok(Some(mounted))
}

/// Pid 1 of the sandbox, or nothing when the helper failed before it had one.
fn await_init(control: &OwnedFd) -> Result<Option<(u32, OwnedFd)>, LaunchError> {
    let readable =
        wait_readable(control, Some(SETUP_MAX)).map_err(prepare("the control socket"))?;
    if !readable {
        return Err(LaunchError::Timeout);
    }
    let Ok(Some((Control::Init(pid), mut fds))) = wire::receive(control.as_fd()) else {
        return Ok(None);
    };
    let pid = u32::try_from(pid).ok();
    Ok(pid.zip(fds.pop()))
}

/// The proxy's listener, or nothing when the helper failed before it had one.
fn await_listener(control: &OwnedFd) -> Result<Option<OwnedFd>, LaunchError> {
    if !wait_readable(control, Some(SETUP_MAX)).map_err(prepare("the control socket"))? {
        return Err(LaunchError::Timeout);
    }
    let Ok(Some((Control::Listener, mut fds))) = wire::receive(control.as_fd()) else {
        return Ok(None);
    };
    Ok(fds.pop())
}

/// What the secrets hold, in a memory file of its own: they are in no order, and in no serialiser's buffers.
fn contents(secrets: &[SecretFile]) -> io::Result<Option<OwnedFd>> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let mut file = File::from(memfd_create("meshd-secrets", MemfdFlags::CLOEXEC)?);
    for secret in secrets {
        file.write_all(&secret.content)?;
    }
    file.rewind()?;
    Ok(Some(file.into()))
}

/// The order in a memory file that nobody can change any more.
fn seal(order: &wire::Order) -> io::Result<OwnedFd> {
    let file = memfd_create(
        "meshd-order",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = File::from(file);
    let bytes = serde_json::to_vec(order)?;
    if bytes.len() as u64 > wire::ORDER_MAX {
        return Err(io::Error::other(
            "arguments, environment and paths are too long",
        ));
    }
    file.write_all(&bytes)?;
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The agent's pipes and the status pipe; the outer ends never block.
struct Streams {
    inside: [OwnedFd; 3],
    outside: [OwnedFd; 3],
    status_inside: OwnedFd,
    status: OwnedFd,
}

impl Streams {
    fn new() -> io::Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdin, to), (from, stdout), (log, stderr)) = (pipe()?, pipe()?, pipe()?);
        for end in [&to, &from, &log] {
            fcntl_setfl(end, OFlags::NONBLOCK)?;
        }
        let (status, status_inside) = pipe()?;
        Ok(Self {
            inside: [stdin, stdout, stderr],
            outside: [to, from, log],
            status_inside,
            status,
        })
    }
}

/// The launcher's end of the status pipe.
struct Reports {
    pipe: File,
}

impl Reports {
    /// Waits until the program runs, or says why it does not.
    fn ready(&mut self, spec: &crate::spec::SandboxSpec) -> Result<(), LaunchError> {
        let told = self.read()?;
        let failed = told.iter().find_map(|status| match status {
            Status::Failed(failure) => Some(failure.clone()),
            Status::Ready => None,
        });
        match failed {
            Some(failure) => Err(explain(failure, spec)),
            None if told.contains(&Status::Ready) => Ok(()),
            // The end of the pipe alone is no success: a killed helper closes it too.
            None => Err(LaunchError::Died),
        }
    }

    /// Why the helper failed, if it did; it is gone by now.
    fn reason(&mut self, spec: &crate::spec::SandboxSpec) -> Option<LaunchError> {
        match self.ready(spec) {
            Err(LaunchError::Died) | Ok(()) => None,
            Err(error) => Some(error),
        }
    }

    /// Why the helper went away.
    fn failure(&mut self, spec: &crate::spec::SandboxSpec) -> LaunchError {
        self.ready(spec).err().unwrap_or(LaunchError::Died)
    }

    /// Everything until the end of the pipe.
    fn read(&mut self) -> Result<Vec<Status>, LaunchError> {
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if !wait_readable(&self.pipe, Some(SETUP_MAX)).map_err(prepare("the status pipe"))? {
                return Err(LaunchError::Timeout);
            }
            match self
                .pipe
                .read(&mut chunk)
                .map_err(prepare("the status pipe"))?
            {
                0 => break,
                length => text.extend_from_slice(&chunk[..length]),
            }
        }
        // A line cut short by a dying helper says nothing.
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        Ok(lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }
}

fn explain(failure: Failure, spec: &crate::spec::SandboxSpec) -> LaunchError {
    let source = match failure.errno {
        0 => io::Error::other(failure.detail.clone()),
        errno => io::Error::from_raw_os_error(errno),
    };
    if failure.stage == Stage::Exec {
        let program = match &spec.program {
            crate::spec::Program::Path(path) => path.display().to_string(),
            crate::spec::Program::Image => "meshd's own image".to_owned(),
        };
        return LaunchError::Program { program, source };
    }
    LaunchError::Setup {
        stage: failure.stage,
        detail: failure.detail,
        source,
    }
}
