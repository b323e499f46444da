//! What an agent hands on to its next incarnation: asked for when its work is done, given when hands are shaken.

use std::time::Duration;

use mesh_messages::klp::{ControlVerb, StatusUpdate};
use mesh_messages::{Failure, FailureClass, json};
use serde_json::{Value, json};

use super::{Phase, Session};
use crate::agents::agent::AgentMessage;
use crate::clock::now;

/// Largest state, in bytes of its canonical form: with what is around it, it fits into a line.
pub(crate) const STATE_BYTES_MAX: usize = 512 * 1024;
/// How long an agent may take to say what it is.
const SAVE_MAX: Duration = Duration::from_secs(10);
/// How long putting that on record may take on top: a busy disk fits in. Beyond, it is let go all the same.
const KEPT_MAX: Duration = Duration::from_secs(20);

/// How far the handing on has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hand {
    /// There is nothing to hand on, or nothing any more.
    #[default]
    Empty,
    /// It is to be asked before it ends.
    Full,
    /// It was asked; it ends when its answer is on record.
    Asked,
}

impl Session {
    /// Has it finish what is in hand, say what it is, and end.
    pub(super) fn hand_over(&mut self) {
        self.hand = Hand::Full;
        self.drain();
    }

    /// Whether its end has to wait for what it hands on.
    pub(super) fn holds_state(&mut self) -> bool {
        match self.hand {
            Hand::Empty => false,
            Hand::Asked => true,
            // Half of its work is in hand: what it would say now is not what it is when that is done.
            Hand::Full if self.names_save() && !self.flights.is_empty() => {
                self.hand = Hand::Asked;
                self.phase = Phase::Draining {
                    until: now().plus(KEPT_MAX),
                };
                self.state_is(Err("its work was not done in time".to_owned()));
                true
            }
            Hand::Full if self.names_save() && self.out.is_some() => {
                self.hand = Hand::Asked;
                self.phase = Phase::Draining {
                    until: now().plus(SAVE_MAX).plus(KEPT_MAX),
                };
                self.control(ControlVerb::SaveState, Value::Null, None, Some(SAVE_MAX));
                true
            }
            Hand::Full => {
                self.hand = Hand::Empty;
                false
            }
        }
    }

    fn names_save(&self) -> bool {
        self.hooks.contains(&ControlVerb::SaveState)
    }

    /// It has said what it is.
    pub(super) fn state_told(&mut self, update: &StatusUpdate) {
        let state = update.state.clone().unwrap_or_default();
        let bytes = json::canonical(&state).len();
        self.state_is(match &update.error {
            Some(why) => Err(format!("its save_state hook failed: {why}")),
            None if bytes > STATE_BYTES_MAX => Err(format!(
                "its state has {bytes} bytes, and {STATE_BYTES_MAX} at most are kept"
            )),
            None => Ok(state),
        });
    }

    /// It has not said so in time.
    pub(super) fn state_untold(&mut self) {
        self.state_is(Err(format!(
            "it did not answer `save_state` within {SAVE_MAX:?}"
        )));
    }

    fn state_is(&mut self, answer: Result<Value, String>) {
        let saved = AgentMessage::InstanceSaved {
            instance: self.args.instance,
            epoch: self.args.epoch,
            answer: answer.map(Box::new),
        };
        let _owner_gone = self.args.owner.cast(saved);
    }

    /// That is on record, or given up.
    pub(super) fn let_go(&mut self) {
        self.hand = Hand::Empty;
        if matches!(self.phase, Phase::Draining { .. }) {
            self.shut_down();
        }
    }

    /// The arguments of `restore_state`, where something was handed on.
    pub(super) fn handed_on(&self) -> Option<Value> {
        let saved = self.args.restore.as_ref()?;
        Some(json!({"state": *saved.state, "version": saved.version, "epoch": saved.epoch}))
    }

    /// Ends a new version that cannot take what the one before handed on: else it would be lost without a word. True when
    /// it did.
    pub(super) fn would_lose_state(&mut self) -> bool {
        let (Some(saved), Some(_)) = (&self.args.restore, &self.args.upgraded_from) else {
            return false;
        };
        if self.hooks.contains(&ControlVerb::RestoreState) {
            return false;
        }
        let text = format!(
            "version {} hands on its state, and this one names no hook `restore_state`",
            saved.version
        );
        self.kill(Some(Failure::new(FailureClass::Start, text)));
        true
    }
}
