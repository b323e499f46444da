//! The exchange of a version: the old one is drained, the new one started; if that fails, the old one comes back.

use mesh_messages::agent::Lifecycle;
use mesh_messages::events::AgentEvent;
use mesh_supervision_core::fault::FaultState;

use super::{AgentEffect, AgentMachine, AgentRefusal, StopKind, Turn};
use crate::agent::{pick_rollback, pick_upgrade};

/// The kind of upgrade in which the agent takes part.
const SOFT: &str = "soft";

/// An upgrade under way.
#[derive(Debug, Clone)]
pub(super) struct Upgrade {
    pub(super) from: String,
    pub(super) to: String,
    kind: String,
    /// The new version has been started; its end decides.
    pub(super) started: bool,
}

impl AgentMachine {
    pub(super) fn begin_upgrade(
        &mut self,
        turn: &mut Turn<'_>,
        target: Option<&str>,
        forceful: bool,
        rollback: bool,
        kind: String,
    ) -> Result<(), AgentRefusal> {
        if self.upgrade.is_some() {
            return Err(AgentRefusal::Upgrading(self.id.clone()));
        }
        self.not_in_quarantine(if rollback { "rollback" } else { "upgrade" })?;
        let from = turn.version(&self.id)?;
        let to = if rollback {
            pick_rollback(turn.state, target)?
        } else {
            pick_upgrade(turn.state, target, forceful)?
        };
        let upgrade = Upgrade {
            from,
            to,
            kind,
            started: false,
        };
        if self.policy.record().state == FaultState::Stopped {
            // Nothing runs, so nothing can fail: the next start runs it.
            turn.upgraded(upgrade);
            return Ok(());
        }
        turn.must_be_executing(&self.id, Lifecycle::Upgrading)?;
        turn.lifecycle(Lifecycle::Executing, Lifecycle::Upgrading);
        // An earlier version cannot be expected to know what a later one says; who asks for `hard` asks nobody.
        let asks = upgrade.kind == SOFT;
        self.upgrade = Some(upgrade);
        if asks {
            self.hand_over_all(turn);
        } else {
            self.stop_all(turn, StopKind::Drain);
        }
        Ok(())
    }

    /// All of the new version is up.
    pub(super) fn complete_upgrade(&mut self, turn: &mut Turn<'_>) {
        if let Some(upgrade) = self.upgrade.take_if(|u| u.started) {
            let serving: Vec<_> = turn
                .instances
                .iter()
                .map(|(no, (e, _))| (*no, *e))
                .collect();
            for (instance, epoch) in serving {
                turn.note_restored(instance, epoch);
            }
            turn.upgraded(upgrade);
            turn.lifecycle(Lifecycle::Upgrading, Lifecycle::Executing);
        }
    }

    /// Goes back to the old version, if an upgrade is under way. Whatever still runs has been, or is to be, stopped.
    pub(super) fn abandon_upgrade(&mut self, turn: &mut Turn<'_>, why: &str) {
        if self.upgrade.take().is_some() {
            // What it failed by has an event of its own: the error of an instance, or an order.
            turn.lifecycle(Lifecycle::Upgrading, Lifecycle::Registered);
            let error = Some(why.to_owned());
            turn.out.effects.push(AgentEffect::UpgradeDone { error });
        }
    }
}

impl Turn<'_> {
    fn upgraded(&mut self, upgrade: Upgrade) {
        self.out.events.push(AgentEvent::Upgraded {
            from: upgrade.from,
            to: upgrade.to,
            kind: upgrade.kind,
            success: true,
            error: None,
        });
        self.out
            .effects
            .push(AgentEffect::UpgradeDone { error: None });
    }
}
