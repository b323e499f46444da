//! One start of one child, in a task of its own that then watches over it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use mesh_supervision_core::supervisor::Input;
use ractor::{ActorCell, ActorProcessingErr, ActorRef, concurrency::JoinHandle};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    handle::SupervisorHandle,
    shell::Message,
    spec::{StartCode, StartContext, Started, StartedKind},
};

/// What became of a start; exactly one for each.
#[derive(Debug)]
pub(crate) enum Tried {
    Failed(String),
    Ignored,
    /// The actor is there. A supervisor counts as started only when its children are.
    Spawned {
        cell: ActorCell,
        supervisor: Option<SupervisorHandle>,
    },
}

/// Starts the child, reports what became of it, and reports when it is gone.
///
/// ractor reports an end to the parent before the task of the actor is over, and a parent handles such events before
/// messages; so when the last report arrives first, the child had unlinked itself, and its reason is not known.
pub(crate) async fn start_and_watch(
    shell: ActorRef<Message>,
    code: StartCode,
    context: StartContext,
    given_up: oneshot::Receiver<()>,
) {
    let (child, incarnation) = (context.child.clone(), context.incarnation);
    let report = |tried| {
        // A supervisor that is gone has killed its children, so nobody needs to be told.
        drop(shell.send_message(Message::StartTried {
            child: child.clone(),
            incarnation,
            tried,
        }));
    };
    let started = match try_start(code, context, given_up).await {
        Ok(Started(started)) => started,
        Err(reason) => return report(Tried::Failed(reason)),
    };
    let (cell, join, supervisor) = match started {
        StartedKind::Ignored => return report(Tried::Ignored),
        StartedKind::Actor {
            cell,
            join,
            supervisor,
        } => (cell, join, supervisor),
    };
    report(Tried::Spawned {
        cell,
        supervisor: supervisor.clone(),
    });
    if let Some(supervisor) = supervisor
        && supervisor.booted().await
    {
        let started = Input::Started {
            child: child.clone(),
            incarnation,
        };
        drop(shell.send_message(Message::Input(started)));
    }
    watch(join).await;
    drop(shell.send_message(Message::Gone { child, incarnation }));
}

async fn try_start(
    code: StartCode,
    context: StartContext,
    given_up: oneshot::Receiver<()>,
) -> Result<Started, String> {
    let limit = code.limit;
    // Within an async block, so that a panic before the first await is caught as well.
    let start = AssertUnwindSafe(async move { (code.start)(context).await }).catch_unwind();
    tokio::select! {
        biased;
        // Also when the sender was dropped: the start is nobody's any more.
        _ = given_up => Err("the start was given up".to_owned()),
        result = timeout(limit, start) => match result {
            Err(_) => Err(format!("the start took longer than {limit:?}")),
            Ok(Err(panic)) => Err(format!("the start panicked: {}", panic_text(panic.as_ref()))),
            Ok(Ok(Err(error))) => Err(chain(&error)),
            Ok(Ok(Ok(started))) => Ok(started),
        },
    }
}

/// An actor's task ends with its actor, however that ends.
async fn watch(join: JoinHandle<()>) {
    drop(join.await);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

/// The error and its causes, in one line.
fn chain(error: &ActorProcessingErr) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
