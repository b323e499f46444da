//! Pid 1 of the sandbox: builds its file system, starts the agent, reaps, and obeys the launcher.
//!
//! When it ends, the kernel ends every process of the namespace before anybody can see it ended.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal, wait,
};

use super::secrets::Secrets;
use super::{At, EXIT_FAILED, Handover, StepError, agent, hung_up, identity, mounts};
use crate::sys::{self, Fork};
use crate::wire::{self, Control, Stage};

/// Runs to the end of the sandbox and returns the exit code.
pub(super) fn run(mut handover: Handover) -> i32 {
    let (signals, listener) = match build(&handover) {
        Ok(built) => built,
        Err(error) => return handover.descriptors.status.fail(error),
    };
    if !matches!(
        wire::receive(handover.control.as_fd()),
        Ok(Some((Control::Go, _)))
    ) {
        return EXIT_FAILED;
    }
    handover.descriptors.secrets = None;
    handover.descriptors.home = None;
    if let Some(listener) = listener
        && wire::send(
            handover.control.as_fd(),
            &Control::Listener,
            &[listener.as_fd()],
        )
        .is_err()
    {
        return EXIT_FAILED;
    }
    match sys::fork() {
        Ok(Fork::Child) => {
            let Handover {
                order,
                descriptors,
                control,
                lifeline,
                owners,
            } = handover;
            drop((control, lifeline, signals, owners));
            agent::run(&order, descriptors)
        }
        Ok(Fork::Parent(agent)) => {
            let Handover {
                order,
                mut descriptors,
                control,
                lifeline,
                owners,
            } = handover;
            if let Err(error) = lower(order.ids, &lifeline) {
                return descriptors.status.fail(error);
            }
            // What stays open here would hide its end from the launcher.
            drop((descriptors, owners));
            watch(agent, &control, &lifeline, &signals).map_or(EXIT_FAILED, |()| 0)
        }
        Err(error) => {
            let error = StepError {
                stage: Stage::Fork,
                source: error,
                detail: "the agent".into(),
            };
            handover.descriptors.status.fail(error)
        }
    }
}

fn build(handover: &Handover) -> Result<(OwnedFd, Option<TcpListener>), StepError> {
    live_with(&handover.lifeline).at(Stage::Fork, "pid 1")?;
    if handover.order.own_network {
        sys::loopback_up().at(Stage::Network, "loopback")?;
    }
    let listen = |port: u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).at(Stage::Network, "the proxy's listener")
    };
    let listener = handover.order.proxy_port.map(listen).transpose()?;
    rustix::system::sethostname(handover.order.hostname.as_bytes())
        .at(Stage::Namespaces, "host name")?;
    let secrets = handover
        .descriptors
        .secrets
        .as_ref()
        .map(|content| Secrets {
            files: &handover.order.secrets,
            content: content.as_fd(),
            owner: handover.order.ids,
        });
    let home = handover.descriptors.home.as_ref();
    mounts::build(
        &handover.order.root,
        secrets.as_ref(),
        home,
        &handover.owners,
    )?;
    let signals = sys::child_signals().at(Stage::Fork, "signals of ended children")?;
    Ok((signals, listener))
}

/// Dies with the outer helper, whose process id cannot be seen from in here.
fn live_with(lifeline: &OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if hung_up(lifeline.as_fd())? {
        return Err(io::Error::other("the launcher is gone"));
    }
    Ok(())
}

/// Pid 1 keeps no more rights than the agent it watches.
fn lower(ids: Option<crate::spec::Ids>, lifeline: &OwnedFd) -> Result<(), StepError> {
    if let Some(ids) = ids {
        identity::become_user(ids).at(Stage::Identity, "pid 1")?;
    }
    identity::drop_privileges().at(Stage::Privileges, "pid 1")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Privileges, "pid 1")?;
    live_with(lifeline).at(Stage::Privileges, "pid 1")
}

/// Reaps until the agent itself has ended, and does what the launcher says meanwhile.
fn watch(agent: Pid, control: &OwnedFd, lifeline: &OwnedFd, signals: &OwnedFd) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(control, PollFlags::IN),
            PollFd::new(lifeline, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            answer => answer?,
        };
        let [ended, spoken, orphaned] = [0, 1, 2].map(|index| !fds[index].revents().is_empty());
        if orphaned {
            return Err(io::Error::other("the outer helper is gone"));
        }
        if ended {
            // Only a reminder to reap; a signal that comes later makes it readable again.
            rustix::io::read(signals, &mut [0_u8; 1024]).ok();
            if let Some(end) = reap(agent)? {
                return wire::send(control.as_fd(), &end, &[]);
            }
        }
        if spoken && !obey(agent, control)? {
            return Err(io::Error::other("the launcher is gone"));
        }
    }
}

/// Collects every ended child; answers how the agent ended, when it did.
fn reap(agent: Pid) -> io::Result<Option<Control>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == agent => return Ok(Some(ending(status))),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn ending(status: WaitStatus) -> Control {
    status.terminating_signal().map_or_else(
        || Control::Exited(status.exit_status().unwrap_or(EXIT_FAILED)),
        Control::Signaled,
    )
}

/// Obeys one message; false when there is nobody left to obey.
fn obey(agent: Pid, control: &OwnedFd) -> io::Result<bool> {
    let Some((message, _)) = wire::receive(control.as_fd())? else {
        return Ok(false);
    };
    // A process that is just gone needs no signal, hence `ok`.
    match message {
        Control::Terminate => kill_process(agent, Signal::TERM).ok(),
        Control::Signal(number) => {
            Signal::from_named_raw(number).and_then(|signal| kill_process(agent, signal).ok())
        }
        Control::Stop => sys::kill_all(Signal::STOP).ok(),
        Control::Continue => sys::kill_all(Signal::CONT).ok(),
        Control::Order
        | Control::Fork
        | Control::Init(_)
        | Control::Go
        | Control::Listener
        | Control::Exited(_)
        | Control::Signaled(_) => {
            return Err(io::Error::other("not a message for pid 1"));
        }
    };
    Ok(true)
}
