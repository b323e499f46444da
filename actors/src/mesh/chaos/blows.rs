//! The blows at an instance's processes, and finding the instance.

use std::time::Duration;

use mesh_messages::chaos::{ChaosBlow, ChaosOrder};
use mesh_messages::problem::Problem;
use mesh_messages::{Epoch, InstanceNo};
use mesh_sandbox::ChildHandle;

use super::{UnderWay, conflict, duration};
use crate::directory::{AgentEntry, LiveInstance};

/// The instance that an order means, with a process of its own.
pub(super) fn prey(
    entry: &AgentEntry,
    order: &ChaosOrder,
) -> Result<(InstanceNo, LiveInstance), Problem> {
    let all = entry.live();
    let running = |live: &LiveInstance| !live.live.processes().is_empty();
    let found = if let Some(wanted) = order.instance {
        all.into_iter().find(|(no, _)| *no == wanted)
    } else {
        let mut those = all.iter().filter(|(_, live)| running(live));
        let first = those.next().or_else(|| all.iter().next());
        first.map(|(no, live)| (*no, live.clone()))
    };
    let state = entry.state();
    let Some((no, live)) = found else {
        let which = order.instance.map_or_else(
            || "no instance".to_owned(),
            |no| format!("no instance {no}"),
        );
        let text = format!(
            "{which} of {} runs: it is {}",
            entry.id,
            state.fault_state().name()
        );
        return Err(conflict("chaos_no_target", text));
    };
    if !running(&live) {
        let text = format!(
            "instance {no} of {} has no process just now: it is starting, idle, or of a kind that has none",
            entry.id
        );
        return Err(conflict("chaos_no_target", text));
    }
    Ok((no, live))
}

pub(super) fn gone(epoch: Epoch) -> Problem {
    conflict(
        "chaos_missed",
        format!("epoch {epoch} ended before the blow fell on it"),
    )
}

pub(super) fn missed(error: &std::io::Error) -> Problem {
    let code = if error.kind() == std::io::ErrorKind::Unsupported {
        "chaos_unsupported"
    } else {
        "chaos_missed"
    };
    conflict(code, error.to_string())
}

pub(super) fn kill(live: &LiveInstance) -> Result<String, Problem> {
    let processes = live.live.processes();
    if processes.is_empty() {
        return Err(gone(live.epoch));
    }
    for process in &processes {
        process.kill().map_err(|error| missed(&error))?;
    }
    Ok(format!("SIGKILL to {} and all below it", pids(&processes)))
}

fn pids(processes: &[ChildHandle]) -> String {
    let pids: Vec<String> = processes.iter().map(|p| p.pid().to_string()).collect();
    pids.join(", ")
}

/// Runs what waits for the kernel on a thread where that harms nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
}

pub(super) async fn pause(
    live: &LiveInstance,
    time: Duration,
    under_way: Option<UnderWay>,
) -> Result<String, Problem> {
    let processes = live.live.processes();
    if processes.is_empty() {
        return Err(gone(live.epoch));
    }
    let named = pids(&processes);
    let frozen = processes.clone();
    let stopped = blocking(move || {
        for process in &frozen {
            process.freeze().map_err(|error| missed(&error))?;
        }
        Ok(())
    })
    .await;
    // Thawed in any case: some of them may be frozen when another could not be.
    let after = if stopped.is_ok() {
        time
    } else {
        Duration::ZERO
    };
    ractor::concurrency::spawn(async move {
        tokio::time::sleep(after).await;
        let thawed = blocking(move || {
            for process in &processes {
                // One that has ended meanwhile needs no thawing.
                if let Err(error) = process.thaw() {
                    tracing::debug!(%error, pid = process.pid(), "a paused process could not be thawed");
                }
            }
            Ok(())
        });
        let _shutting_down = thawed.await;
        drop(under_way);
    });
    stopped.map(|()| format!("{named} and all below it stand still for {time:?}"))
}

pub(super) async fn leak(
    live: &LiveInstance,
    blow: &ChaosBlow,
    under_way: Option<UnderWay>,
) -> Result<String, Problem> {
    let Some(process) = live.live.processes().into_iter().next() else {
        return Err(gone(live.epoch));
    };
    let Some(bytes) = blow.bytes else {
        let text = "the agent's memory has no limit, so all of the host's would be eaten";
        return Err(conflict("chaos_unsupported", text));
    };
    let eater = process.clone();
    let balloon = blocking(move || eater.eat_memory(bytes).map_err(|error| missed(&error))).await?;
    let held = balloon.held();
    let time = duration(blow);
    let holding = tokio::task::spawn_blocking(move || {
        balloon.hold(time);
        drop(under_way);
    });
    // It ends by itself.
    drop(holding);
    let pid = process.pid();
    Ok(match held {
        Some(held) if process.try_wait().is_none() => {
            format!("{held} bytes of the memory of {pid} are taken for {time:?}")
        }
        Some(held) => {
            format!("{held} bytes were taken, and the kernel ended {pid} for want of memory")
        }
        None => {
            format!("all memory of {pid} was taken until the kernel ended something in its group")
        }
    })
}
