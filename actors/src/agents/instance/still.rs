//! Standing still by order: all processes of a paused instance are frozen, and go on where they were.
//!
//! ```text
//!  pause ──► hook `pause`, where it was named ──answered, or late──► frozen ──resume──► goes on, hook `resume`
//! ```
//! Time that it stands still counts for nothing in the watch over it. For its tasks it goes on: their timeouts and
//! deadlines are promises to others.

use std::time::Duration;

use mesh_messages::Timestamp;
use mesh_messages::klp::ControlVerb;

use super::{Phase, Session};
use crate::agents::agent::AgentMessage;
use crate::agents::spawn::control_level;
use crate::clock::now;

/// How long one that named the `pause` hook may prepare for it. It is frozen then, whatever it was doing.
const PREPARE_MAX: Duration = Duration::from_secs(2);

/// Whether an instance moves.
#[derive(Debug, Default)]
pub(super) enum Still {
    /// It does.
    #[default]
    Moving,
    /// It was told, and may still prepare.
    Told {
        /// The `CONTROL` that said so.
        control: String,
        /// Until then.
        until: Timestamp,
    },
    /// It does not.
    Frozen {
        /// Since when.
        since: Timestamp,
    },
}

impl Session {
    /// Whether it is frozen, so that its silence says nothing.
    pub(super) const fn stands(&self) -> bool {
        matches!(self.still, Still::Frozen { .. })
    }

    /// Whether nobody ordered it to pause.
    pub(super) const fn moves(&self) -> bool {
        matches!(self.still, Still::Moving)
    }

    /// When it is frozen, prepared or not.
    pub(super) const fn still_due(&self) -> Option<Timestamp> {
        match self.still {
            Still::Told { until, .. } => Some(until),
            Still::Moving | Still::Frozen { .. } => None,
        }
    }

    /// By order. One that is not ready yet is told again when it is.
    pub(super) fn pause(&mut self) {
        if !matches!(self.still, Still::Moving) || self.phase != Phase::Ready {
            return;
        }
        if self.converses() && self.hooks.contains(&ControlVerb::Pause) {
            let control = self.control(ControlVerb::Pause, serde_json::Value::Null, None, None);
            let until = now().plus(PREPARE_MAX);
            self.still = Still::Told { control, until };
        } else {
            self.stand_still();
        }
    }

    /// It answered something; when that was the order to pause, it is prepared.
    pub(super) fn prepared(&mut self, answers: Option<&String>) {
        if matches!(&self.still, Still::Told { control, .. } if Some(control) == answers) {
            self.stand_still();
        }
    }

    /// It had its time.
    pub(super) fn stand_still(&mut self) {
        // What does not move asks for nothing; it asks for another token when it moves again.
        self.pass = None;
        self.still = Still::Frozen { since: now() };
        self.set_frozen(true);
    }

    /// By order.
    pub(super) fn resume(&mut self) {
        self.go_on();
        if self.hooks.contains(&ControlVerb::Resume) {
            self.control(ControlVerb::Resume, serde_json::Value::Null, None, None);
        }
    }

    /// Lets it move again, for whatever reason.
    pub(super) fn go_on(&mut self) {
        if let Still::Frozen { since } = std::mem::take(&mut self.still) {
            let stood = now().since(since);
            self.watch.skip(now(), stood);
            for asked in self.asked.values_mut() {
                asked.until = asked.until.plus(stood);
            }
            self.set_frozen(false);
        }
    }

    fn set_frozen(&self, frozen: bool) {
        let live = std::sync::Arc::clone(&self.args.live);
        live.want_frozen(frozen);
        if live.processes().is_empty() {
            return;
        }
        let (owner, instance, epoch) =
            (self.args.owner.clone(), self.args.instance, self.args.epoch);
        // The kernel may take its time. Not a task of this instance: what was begun is finished.
        ractor::concurrency::spawn(async move {
            let held = tokio::task::spawn_blocking(move || live.settle_frozen()).await;
            let level = held.ok().flatten().map(control_level);
            let _owner_gone = owner.cast(AgentMessage::Frozen {
                instance,
                epoch,
                frozen,
                level,
            });
        });
    }
}
