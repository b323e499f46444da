//! Doing what the machine says.

use std::time::Duration;

use mesh_supervision_core::{
    Timestamp,
    supervisor::{ChildId, Effect, Incarnation, Input, Limit},
};
use ractor::ActorRef;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{Message, State};
use crate::{
    handle::Life,
    spec::StartContext,
    start::{Tried, start_and_watch},
};

/// As good as never, and yet within what the clock can hold.
pub(super) const FAR: Duration = Duration::from_hours(24 * 365);

impl State {
    pub(super) fn perform(&mut self, myself: &ActorRef<Message>, effect: Effect) {
        match effect {
            Effect::Report(report) => self.observer.report(&self.name, &report),
            Effect::Adopt { request, child } => {
                let code = self
                    .callers
                    .get_mut(&request)
                    .and_then(|caller| caller.codes.remove(&child));
                if let Some(code) = code {
                    self.codes.insert(child, code);
                }
            }
            Effect::Start { child, incarnation } => self.start(myself, child, incarnation),
            Effect::Stop {
                incarnation,
                deadline,
                ..
            } => {
                let deadline = self.instant(deadline);
                if let Some(slot) = self.slots.get_mut(incarnation) {
                    slot.ask(deadline);
                }
            }
            Effect::Kill { incarnation, .. } => {
                if let Some(slot) = self.slots.get_mut(incarnation) {
                    slot.kill();
                }
            }
            Effect::ArmLimit {
                child,
                incarnation,
                limit,
                at,
            } => {
                self.arm(myself, child, incarnation, limit, at);
            }
            Effect::RetryStart { child, incarnation } => {
                // By way of the mailbox, so that requests that wait there come first.
                drop(myself.send_message(Message::Input(Input::RetryStart { child, incarnation })));
            }
            Effect::Forget { child } => {
                self.codes.remove(&child);
            }
            Effect::Ready => {
                self.life.send_replace(Life::Ready);
            }
            Effect::Reply { id, result } => {
                if let Some(caller) = self.callers.remove(&id) {
                    drop(caller.reply.send(result));
                }
            }
            // Handled by the caller, which has to leave.
            Effect::End(_) => {}
        }
    }

    fn start(&mut self, myself: &ActorRef<Message>, child: ChildId, incarnation: Incarnation) {
        let (give_up, given_up) = oneshot::channel();
        self.slots.start(child.clone(), incarnation, give_up);
        let Some(code) = self.codes.get(&child).cloned() else {
            // Cannot be: the machine knows no child whose code was not adopted. Still, the start must end somehow.
            let tried = Tried::Failed("there is no code to start it".to_owned());
            drop(myself.send_message(Message::StartTried {
                child,
                incarnation,
                tried,
            }));
            return;
        };
        let context = StartContext {
            supervisor: myself.get_cell(),
            child,
            incarnation,
        };
        tokio::spawn(start_and_watch(myself.clone(), code, context, given_up));
    }

    fn arm(
        &mut self,
        myself: &ActorRef<Message>,
        child: ChildId,
        incarnation: Incarnation,
        limit: Limit,
        at: Timestamp,
    ) {
        let (shell, at) = (myself.clone(), self.instant(at));
        let timer = tokio::spawn(async move {
            sleep_until(at).await;
            drop(shell.send_message(Message::Input(Input::LimitReached {
                child,
                incarnation,
                limit,
            })));
        });
        self.slots.limit(incarnation, timer.abort_handle());
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.origin + at.since(Timestamp::ZERO).min(FAR)
    }
}
