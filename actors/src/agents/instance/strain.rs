//! Whether an instance runs into its limits: the kernel's own counts, and what lies in its home.
//!
//! The kernel holds processor, memory and processes by itself; that it had to is told. Nobody holds the sum of an agent's
//! files on an ordinary file system, so it is added up, and an instance whose home holds more than it may is ended. What of
//! it is news, the [`Ledger`](crate::agents::strain::Ledger) says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::ActorRef;

use mesh_messages::limits::Breach;
use mesh_messages::{Epoch, InstanceNo};
use mesh_sandbox::{ChildHandle, HomeUsage, home_usage};

use super::Session;
use crate::agents::agent::AgentMessage;
use crate::agents::live::InstanceLive;
use crate::agents::spawn::home_dir;

/// How often it is looked, so that a breach is on record within two seconds. A look reads some small files of the kernel's.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Of its time, adding up a home may take one part in so many: a tree of a million files is walked seldom.
const WALK_SHARE: u32 = 50;

/// Tells an agent's actor what an incarnation ran into.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    owner: ActorRef<AgentMessage>,
    instance: InstanceNo,
    epoch: Epoch,
}

impl Bell {
    fn ring(&self, breaches: impl IntoIterator<Item = Breach>) {
        for breach in breaches {
            let _owner_gone = self.owner.cast(AgentMessage::Breached {
                instance: self.instance,
                epoch: self.epoch,
                breach: Box::new(breach),
            });
        }
    }

    /// A process has ended: what it ran into since the last look, and how it ended.
    pub(super) fn ended(&self, live: &InstanceLive, number: u64, process: &ChildHandle) {
        let Some(status) = process.try_wait() else {
            return;
        };
        let limits = live.limits().unwrap_or_default().kernel;
        let at = Instant::now();
        self.ring(
            live.ledger()
                .last(number, process.strain(), status, &limits, at),
        );
    }
}

impl Session {
    pub(super) fn bell(&self) -> Bell {
        Bell {
            owner: self.args.owner.clone(),
            instance: self.args.instance,
            epoch: self.args.epoch,
        }
    }

    /// Looks as long as the returned future is polled.
    pub(super) fn watch_strain(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (live, bell) = (Arc::clone(&self.args.live), self.bell());
        let mut walker = Walker {
            home: home_dir(
                &self.args.ctx.settings.data,
                &self.args.manifest,
                self.args.instance,
            ),
            next: None,
        };
        async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if live.processes().is_empty() {
                    continue;
                }
                let (live, bell) = (Arc::clone(&live), bell.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    look(&live, &bell, &mut walker);
                    walker
                });
                // Nobody cancels it; it can only fail at the end of everything.
                let Ok(kept) = looked.await else {
                    return;
                };
                walker = kept;
            }
        }
    }
}

fn look(live: &InstanceLive, bell: &Bell, walker: &mut Walker) {
    look_at_counts(live, bell);
    // This may take a while, so it comes after the rest, and limits may be others when it is done.
    if let Some(usage) = walker.walk(live) {
        let limits = live.limits().unwrap_or_default().kernel;
        bell.ring(live.ledger().home(usage, &limits, Instant::now()));
    }
}

fn look_at_counts(live: &InstanceLive, bell: &Bell) {
    let limits = live.limits().unwrap_or_default().kernel;
    let mut ledger = live.ledger();
    let at = Instant::now();
    // Read while the ledger is held, so that what ends meanwhile is counted after this.
    let seen: Vec<_> = live
        .numbered()
        .into_iter()
        .map(|(number, process)| (number, process.strain()))
        .collect();
    bell.ring(ledger.look(&seen, &limits, at));
}

/// Adds up a home now and then.
#[derive(Debug)]
struct Walker {
    home: PathBuf,
    next: Option<Instant>,
}

impl Walker {
    fn walk(&mut self, live: &InstanceLive) -> Option<HomeUsage> {
        let begun = Instant::now();
        if self.next.is_some_and(|next| begun < next) {
            return None;
        }
        let usage = home_usage(Path::new(&self.home)).map(|mut usage| {
            // What was removed and is still open takes its place on the disk, too.
            let held = live.numbered().into_iter();
            let held = held.filter_map(|(_, process)| process.nameless_bytes(&self.home).ok());
            usage.bytes = usage.bytes.saturating_add(held.sum());
            usage
        });
        self.next = Some(Instant::now() + begun.elapsed() * WALK_SHARE);
        usage.ok()
    }
}
