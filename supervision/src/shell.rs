//! The actor around the machine. It translates: ractor's events and messages to inputs, effects to actors and tasks.
//!
//! ```text
//!  SupervisorHandle ──► Message::{Request, Children, Counts, Stop} ──┐
//!  start tasks ───────► Message::{StartTried, Input(Started), Gone} ─┼─► machine.step ─► effects
//!  limits, retries ───► Message::Input                               │
//!  ractor ────────────► SupervisionEvent ────────────────────────────┘
//! ```
//!
//! Nothing is ever awaited in a handler: starts run in tasks that post back, stops are asked for and reported by
//! ractor, limits are timers.

mod children;
mod effects;
mod last_resort;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_supervision_core::{
    Timestamp,
    supervisor::{
        ChildId, ChildView, Counts, Effect, End, ExitReason, Incarnation, Input, Refusal, Reply,
        Request, RequestId, SpecError, Supervisor as Machine,
    },
};
use ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent,
    concurrency::JoinHandle,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot, watch},
    time::Instant,
};

use self::children::Slots;
use crate::{
    exit::{Escalation, SHUTDOWN, classify_failure, classify_stop},
    handle::{ChildInfo, Life, SupervisorHandle},
    observer::Observer,
    spec::{StartCode, SupervisorSpec},
    start::Tried,
};

/// Starts supervisors. What runs is reached by its [`SupervisorHandle`].
#[derive(Debug, Clone, Copy)]
pub struct Supervisor;

/// Why a supervisor could not be started. None of its children was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Flags or specs are wrong.
    #[error("the specification is invalid")]
    Spec(#[from] SpecError),
    /// ractor refused, such as for a name that is taken.
    #[error("the supervisor's actor could not be spawned")]
    Actor(#[from] SpawnErr),
}

impl Supervisor {
    /// Starts a root. It returns before the children run; wait for [`SupervisorHandle::ready`].
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub async fn spawn(
        name: Option<String>,
        spec: SupervisorSpec,
    ) -> Result<(SupervisorHandle, JoinHandle<()>), SpawnError> {
        let (args, life) = prepare(name.as_deref(), spec)?;
        let (actor, join) = Actor::spawn(name, Shell, args).await?;
        Ok((SupervisorHandle::new(actor, life), join))
    }

    /// Starts a supervisor under any actor. It ends with an error, see [`Escalation`], when it gives up.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub async fn spawn_linked(
        name: Option<String>,
        spec: SupervisorSpec,
        parent: ActorCell,
    ) -> Result<(SupervisorHandle, JoinHandle<()>), SpawnError> {
        let (args, life) = prepare(name.as_deref(), spec)?;
        let (actor, join) = Actor::spawn_linked(name, Shell, args, parent).await?;
        Ok((SupervisorHandle::new(actor, life), join))
    }
}

fn prepare(
    name: Option<&str>,
    spec: SupervisorSpec,
) -> Result<(Args, watch::Receiver<Life>), SpecError> {
    let SupervisorSpec {
        flags,
        children,
        observer,
    } = spec;
    let specs = children.iter().map(|child| child.spec.clone()).collect();
    let machine = Machine::new(flags, specs)?;
    let codes = children
        .into_iter()
        .map(|child| (child.spec.id, child.code))
        .collect();
    let (life, receiver) = watch::channel(Life::Booting);
    let name = name.map_or_else(anonymous, ToOwned::to_owned);
    Ok((
        Args {
            name,
            machine,
            codes,
            observer,
            life,
        },
        receiver,
    ))
}

/// A name for reports only.
fn anonymous() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("supervisor-{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

struct Args {
    name: String,
    machine: Machine,
    codes: BTreeMap<ChildId, StartCode>,
    observer: Arc<dyn Observer>,
    life: watch::Sender<Life>,
}

/// What a supervisor is sent.
pub(crate) enum Message {
    /// A caller wants something; `codes` belong to the specs in it.
    Request {
        request: Request,
        codes: BTreeMap<ChildId, StartCode>,
        reply: oneshot::Sender<Result<Reply, Refusal>>,
        permit: OwnedSemaphorePermit,
    },
    /// A caller looks.
    Children {
        reply: oneshot::Sender<Vec<ChildInfo>>,
        permit: OwnedSemaphorePermit,
    },
    /// A caller looks at one.
    Child {
        child: ChildId,
        reply: oneshot::Sender<Option<ChildInfo>>,
        permit: OwnedSemaphorePermit,
    },
    /// A caller counts.
    Counts {
        reply: oneshot::Sender<Counts>,
        permit: OwnedSemaphorePermit,
    },
    /// Stop all children and leave. Always legal.
    Stop { deadline: Option<Instant> },
    /// A start is over. Sent once by each start's task.
    StartTried {
        child: ChildId,
        incarnation: Incarnation,
        tried: Tried,
    },
    /// A child's task is over. Sent once by each start's task whose child was spawned.
    Gone {
        child: ChildId,
        incarnation: Incarnation,
    },
    /// A limit passed, a retry is due, a supervisor's children are up. Sent by tasks and by itself.
    Input(Input),
}

// It never leaves this process, and so keeps the defaults for what could.
impl ractor::Message for Message {}

/// The caller of a request, and the permit that it holds until it is answered.
struct Caller {
    reply: oneshot::Sender<Result<Reply, Refusal>>,
    codes: BTreeMap<ChildId, StartCode>,
    _permit: OwnedSemaphorePermit,
}

struct Shell;

struct State {
    name: String,
    machine: Machine,
    origin: Instant,
    observer: Arc<dyn Observer>,
    life: watch::Sender<Life>,
    codes: BTreeMap<ChildId, StartCode>,
    callers: BTreeMap<RequestId, Caller>,
    request_last: u64,
    slots: Slots,
}

impl Actor for Shell {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let Args {
            name,
            machine,
            codes,
            observer,
            life,
        } = args;
        Ok(State {
            name,
            machine,
            origin: Instant::now(),
            observer,
            life,
            codes,
            callers: BTreeMap::new(),
            request_last: 0,
            slots: Slots::default(),
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.input(&myself, Input::Boot)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Request {
                request,
                codes,
                reply,
                permit,
            } => {
                state.request_last += 1;
                let id = RequestId(state.request_last);
                state.callers.insert(
                    id,
                    Caller {
                        reply,
                        codes,
                        _permit: permit,
                    },
                );
                state.input(&myself, Input::Request { id, request })
            }
            Message::Children { reply, permit } => {
                // Whoever does not wait any more need not be told; so it is with every answer.
                _ = reply.send(state.children());
                drop(permit);
                Ok(())
            }
            Message::Child {
                child,
                reply,
                permit,
            } => {
                let view = state.machine.child(&child);
                _ = reply.send(view.map(|view| state.info(view)));
                drop(permit);
                Ok(())
            }
            Message::Counts { reply, permit } => {
                _ = reply.send(state.machine.counts());
                drop(permit);
                Ok(())
            }
            Message::Stop { deadline } => {
                let deadline = deadline.map(|at| state.timestamp(at));
                state.input(&myself, Input::Stop { deadline })
            }
            Message::StartTried {
                child,
                incarnation,
                tried,
            } => state.start_tried(&myself, child, incarnation, tried),
            Message::Gone { child, incarnation } => {
                if state.slots.is_current(incarnation) {
                    return state.exited(&myself, child, incarnation, ExitReason::Unknown);
                }
                Ok(())
            }
            Message::Input(input) => state.input(&myself, input),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, classify_stop(reason.as_deref()))
            }
            SupervisionEvent::ActorFailed(cell, error) => (cell, classify_failure(&error)),
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        match state.slots.ended(cell.get_id(), reason) {
            Some((child, incarnation, reason)) => state.exited(&myself, child, incarnation, reason),
            None => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !state.machine.has_ended() {
            state.stop_children_without_machine().await;
        }
        Ok(())
    }
}

impl State {
    /// Steps the machine and does what it says; `Err` when the supervisor must leave with a failure.
    fn input(
        &mut self,
        myself: &ActorRef<Message>,
        input: Input,
    ) -> Result<(), ActorProcessingErr> {
        let mut effects = Vec::new();
        self.machine
            .step(self.timestamp(Instant::now()), input, &mut effects);
        for effect in effects {
            if let Effect::End(end) = effect {
                return self.end(myself, end);
            }
            self.perform(myself, effect);
        }
        Ok(())
    }

    fn end(&self, myself: &ActorRef<Message>, end: End) -> Result<(), ActorProcessingErr> {
        self.live_no_more(end.clone());
        if end.is_abnormal() {
            return Err(Escalation {
                supervisor: self.name.clone(),
                end,
            }
            .into());
        }
        myself.stop(Some(SHUTDOWN.to_owned()));
        Ok(())
    }

    fn live_no_more(&self, end: End) {
        self.life.send_modify(|life| {
            let was_ready = life.was_ready();
            *life = Life::Ended { end, was_ready };
        });
    }

    fn children(&self) -> Vec<ChildInfo> {
        self.machine
            .children()
            .map(|view| self.info(view))
            .collect()
    }

    fn info(&self, view: ChildView<'_>) -> ChildInfo {
        ChildInfo {
            spec: view.spec.clone(),
            status: view.status,
            incarnation: view.incarnation,
            actor: view
                .incarnation
                .and_then(|incarnation| self.slots.cell(incarnation)),
        }
    }

    fn timestamp(&self, at: Instant) -> Timestamp {
        Timestamp::ZERO.plus(at.saturating_duration_since(self.origin))
    }
}
