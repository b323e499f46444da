//! Somebody stopped the supervisor's actor itself, past its handle.
//!
//! ractor then runs `post_stop` and kills what is left, in no order. The machine cannot be used any more, for neither
//! events nor messages arrive; but the children can still be stopped one after the other, each with its own limit.

use std::time::Duration;

use mesh_supervision_core::supervisor::{ChildSpec, End, Shutdown, Strategy};
use tokio::time::Instant;

use super::{
    State,
    children::{Body, Slot},
    effects::FAR,
};

impl State {
    pub(super) async fn stop_children_without_machine(&mut self) {
        let flags = *self.machine.flags();
        let mut slots = self.slots.take();
        let mut order: Vec<(ChildSpec, Slot)> = self
            .machine
            .children()
            .rev()
            .filter_map(|view| Some((view.spec.clone(), slots.remove(&view.incarnation?)?)))
            .collect();
        let limit = |spec: &ChildSpec| match spec.shutdown {
            Shutdown::BrutalKill => Duration::ZERO,
            Shutdown::Timeout(limit) => limit.min(FAR),
            Shutdown::Infinity => flags.infinity_cap.min(FAR),
        };
        if flags.strategy == Strategy::Dynamic {
            for (spec, slot) in &mut order {
                slot.ask(Instant::now() + limit(spec));
            }
        }
        for (spec, mut slot) in order {
            let limit = limit(&spec);
            if spec.shutdown != Shutdown::BrutalKill {
                slot.ask(Instant::now() + limit);
            }
            if let Body::Actor { cell, .. } = &slot.body
                && cell.wait(Some(limit)).await.is_err()
            {
                cell.kill();
                if cell.wait(Some(flags.kill_limit)).await.is_err() {
                    tracing::error!(supervisor = self.name, child = %spec.id, "killed, but still there");
                }
            }
        }
        self.live_no_more(End::Stopped);
    }
}
