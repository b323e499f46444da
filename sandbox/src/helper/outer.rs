//! The helper outside the sandbox's process namespace: it makes the namespaces and waits for pid 1.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, pidfd_open, set_dumpable_behavior, setsid,
    umask, waitpid,
};
use rustix::thread::UnshareFlags;

use super::owners::Owners;
use super::{
    At, Descriptors, EXIT_FAILED, Handover, StatusPipe, StepError, die_with, identity, init,
};
use crate::spec::Execution;
use crate::sys::{self, Fork};
use crate::wire::{self, Control, ORDER_MAX, Order, Stage, UserNamespace};

/// Descriptors that come with every order.
const ORDER_ALWAYS: usize = 6;

/// How readily the kernel ends a sandbox rather than anything else when memory is short.
const OOM_SCORE_ADJ: &str = "500";

/// Runs to the end of the sandbox and returns the exit code.
pub(super) fn run(launcher: Pid) -> i32 {
    // Nothing can be told before the status pipe has come; the launcher then sees the socket close.
    let Ok((control, order, mut descriptors)) = prepare(launcher) else {
        return EXIT_FAILED;
    };
    // While there are the host's `/proc` and process namespace.
    let owners = match Owners::of(&order) {
        Ok(owners) => owners,
        Err(error) => return descriptors.status.fail(error),
    };
    if let Err(error) = separate(&order, launcher) {
        return descriptors.status.fail(error);
    }
    // Meanwhile the launcher made the control groups and moved this process in.
    if !matches!(wire::receive(control.as_fd()), Ok(Some((Control::Fork, _)))) {
        return EXIT_FAILED;
    }
    if let Err(error) = hide_groups() {
        return descriptors.status.fail(error);
    }
    match spawn(order, descriptors, control, owners) {
        Ok(code) | Err(code) => code,
    }
}

fn prepare(launcher: Pid) -> io::Result<(OwnedFd, Order, Descriptors)> {
    die_with(launcher)?;
    // An own session: a Ctrl-C meant for meshd must not end the agents before meshd has drained them.
    setsid()?;
    umask(Mode::RWXG | Mode::RWXO);
    sys::close_from(3)?;
    // Cosmetic, hence `ok`: the kernel would show the descriptor's number.
    rustix::thread::set_name(c"meshd-sandbox").ok();
    let control = sys::take_stdin()?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    rustix::stdio::dup2_stdin(null.as_fd())?;
    // While there is time, if there is: most helpers wait for their order. Whoever needs it hears why it cannot be.
    crate::seccomp::filters(Execution::Anything).ok();
    let gone = || io::Error::other("the launcher is gone");
    let (Control::Order, fds) = wire::receive(control.as_fd())?.ok_or_else(gone)? else {
        return Err(io::Error::other("expected an order"));
    };
    let mut fds = fds;
    // What not every sandbox has; the order says which of them they are.
    let mut more = fds.split_off(fds.len().min(ORDER_ALWAYS)).into_iter();
    let [plan, status, stdin, stdout, stderr, image] = fds
        .try_into()
        .map_err(|_| io::Error::other("an order lacks descriptors"))?;
    let mut status = StatusPipe::new(status);
    match read_order(plan) {
        Ok(order) => {
            let secrets = (!order.secrets.is_empty()).then(|| more.next()).flatten();
            let descriptors = Descriptors {
                status,
                stdio: [stdin, stdout, stderr],
                image,
                secrets,
                home: more.next(),
            };
            Ok((control, order, descriptors))
        }
        Err(error) => {
            let text = error.to_string();
            status.fail(StepError {
                stage: Stage::Order,
                source: error,
                detail: String::new(),
            });
            Err(io::Error::other(text))
        }
    }
}

fn read_order(plan: OwnedFd) -> io::Result<Order> {
    let mut bytes = Vec::new();
    File::from(plan).take(ORDER_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Leaves every namespace of the host but that of control groups, whose top is where a process is when it is made.
fn separate(order: &Order, launcher: Pid) -> Result<(), StepError> {
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).at(Stage::Limits, "oom_score_adj")?;
    if order.user_namespace == UserNamespace::First {
        identity::enter_user_namespace().at(Stage::UserNamespace, "as an ordinary user")?;
        die_with(launcher).at(Stage::UserNamespace, "after changing it")?;
        identity::share_watches();
    }
    let mut flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if order.own_network {
        flags |= UnshareFlags::NEWNET;
    }
    sys::unshare(flags).at(Stage::Namespaces, format!("{flags:?}"))?;
    // From here on nobody of the agent's user may look into the helper or trace it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Privileges, "not dumpable")
}

/// Shows the sandbox its own control groups as the top of all.
fn hide_groups() -> Result<(), StepError> {
    let flag = UnshareFlags::NEWCGROUP;
    sys::unshare(flag).at(Stage::Namespaces, format!("{flag:?}"))
}

/// Starts pid 1, hands everything to it and waits for its end.
fn spawn(
    order: Order,
    mut descriptors: Descriptors,
    control: OwnedFd,
    owners: Owners,
) -> Result<i32, i32> {
    let mut fail = |error: io::Error, detail: &str| {
        descriptors.status.fail(StepError {
            stage: Stage::Fork,
            source: error,
            detail: detail.to_owned(),
        })
    };
    let (lifeline, held) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| fail(error.into(), "pipe"))?;
    match sys::fork().map_err(|error| fail(error, "pid 1"))? {
        Fork::Child => {
            drop(held);
            Err(init::run(Handover {
                order,
                descriptors,
                control,
                lifeline,
                owners,
            }))
        }
        Fork::Parent(pid) => {
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .map_err(|error| fail(error.into(), "pidfd"))?;
            let told = wire::send(
                control.as_fd(),
                &Control::Init(pid.as_raw_pid()),
                &[pidfd.as_fd()],
            );
            told.map_err(|_| EXIT_FAILED)?;
            // What stays open here would hide its end from the launcher.
            drop((descriptors, control, lifeline, pidfd, owners));
            while matches!(
                waitpid(Some(pid), WaitOptions::empty()),
                Err(rustix::io::Errno::INTR)
            ) {}
            drop(held);
            Ok(0)
        }
    }
}
