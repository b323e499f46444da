//! Whether an instance runs into its limits: the kernel's own counts, and what lies in its home.
//!
//! The kernel holds processor, memory and processes by itself; that it had to is told. Nobody holds the sum of an agent's
//! files on an ordinary file system, so it is added up, and an instance whose home holds more than it may is ended.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_messages::limits::{Breach, BreachAction, Limit};
use mesh_sandbox::{ChildHandle, HomeUsage, Limits, Strain, home_usage};

use super::Session;
use crate::agents::agent::AgentMessage;
use crate::agents::live::InstanceLive;
use crate::agents::spawn::home_dir;

/// How often it is looked. A look reads some small files of the kernel's.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Of its time, adding up a home may take one part in so many: a tree of a million files is walked seldom.
const WALK_SHARE: u32 = 50;

/// A limit that is run into again and again is told once in so long.
const TOLD_AGAIN: Duration = Duration::from_mins(1);

/// Processor time counts as short when most periods were cut off for so many looks in a row.
const SHORT_LOOKS: u32 = 15;

/// What has been seen and told of one incarnation.
#[derive(Debug, Default)]
struct Ledger {
    counted: Strain,
    short: u32,
    told: Vec<(Limit, Instant)>,
    next_walk: Option<Instant>,
}

impl Session {
    /// Looks as long as the returned future is polled.
    pub(super) fn watch_strain(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let live = Arc::clone(&self.args.live);
        let home = home_dir(
            &self.args.ctx.settings.data,
            &self.args.manifest,
            self.args.instance,
        );
        let (owner, instance, epoch) =
            (self.args.owner.clone(), self.args.instance, self.args.epoch);
        async move {
            let mut ledger = Ledger::default();
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if live.processes().is_empty() {
                    continue;
                }
                let (live, home) = (Arc::clone(&live), home.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    let breaches = ledger.look(&live, &home);
                    (ledger, breaches)
                });
                // Nobody cancels it; it can only fail at the end of everything.
                let Ok((kept, breaches)) = looked.await else {
                    return;
                };
                ledger = kept;
                for breach in breaches {
                    let _owner_gone = owner.cast(AgentMessage::Breached {
                        instance,
                        epoch,
                        breach: Box::new(breach),
                    });
                }
            }
        }
    }
}

impl Session {
    /// The kernel ended it for want of memory, so nobody will find that by looking.
    pub(super) fn ran_out_of_memory(&self) {
        let allowed = self
            .args
            .live
            .limits()
            .and_then(|limits| limits.memory_bytes);
        let detail = "the kernel ended processes of it for want of memory";
        let _owner_gone = self.args.owner.cast(AgentMessage::Breached {
            instance: self.args.instance,
            epoch: self.args.epoch,
            breach: Box::new(held(Limit::Memory, allowed, 1, detail)),
        });
    }
}

impl Ledger {
    fn look(&mut self, live: &InstanceLive, home: &Path) -> Vec<Breach> {
        let limits = live.limits().unwrap_or_default();
        let strain = live
            .processes()
            .iter()
            .map(ChildHandle::strain)
            .fold(Strain::default(), sum);
        let walked = self.walk(home);
        let at = Instant::now();
        let mut breaches = self.compare(strain, &limits);
        breaches.extend(walked.and_then(|usage| too_much(usage, &limits)));
        breaches.retain(|breach| self.is_news(breach.limit, at));
        breaches
    }

    fn walk(&mut self, home: &Path) -> Option<HomeUsage> {
        let begun = Instant::now();
        if self.next_walk.is_some_and(|next| begun < next) {
            return None;
        }
        let usage = home_usage(home);
        self.next_walk = Some(Instant::now() + begun.elapsed() * WALK_SHARE);
        usage.ok()
    }

    /// What the kernel counted since the last look.
    fn compare(&mut self, now: Strain, limits: &Limits) -> Vec<Breach> {
        let before = std::mem::replace(&mut self.counted, now);
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let mut breaches = Vec::new();
        let killed = since(now.oom_kills, before.oom_kills);
        if killed > 0 {
            breaches.push(held(
                Limit::Memory,
                limits.memory_bytes,
                killed,
                "the kernel ended processes of it for want of memory",
            ));
        }
        let refused = since(now.refused_tasks, before.refused_tasks);
        if refused > 0 {
            breaches.push(held(
                Limit::Pids,
                limits.pids.map(u64::from),
                refused,
                "the kernel refused it processes or threads",
            ));
        }
        let (periods, cut) = (
            since(now.periods, before.periods),
            since(now.throttled, before.throttled),
        );
        self.short = if cut > 0 && cut * 2 >= periods {
            self.short + 1
        } else {
            0
        };
        if self.short >= SHORT_LOOKS {
            breaches.push(held(
                Limit::Cpu,
                limits.cpu_millicores.map(u64::from),
                cut,
                "its share of processor time was used up most of the time",
            ));
        }
        breaches
    }

    fn is_news(&mut self, limit: Limit, at: Instant) -> bool {
        self.told
            .retain(|(_, told)| at.duration_since(*told) < TOLD_AGAIN);
        let known = self.told.iter().any(|(told, _)| *told == limit);
        if !known {
            self.told.push((limit, at));
        }
        !known
    }
}

fn sum(one: Strain, other: Strain) -> Strain {
    Strain {
        oom_kills: one.oom_kills + other.oom_kills,
        refused_tasks: one.refused_tasks + other.refused_tasks,
        periods: one.periods + other.periods,
        throttled: one.throttled + other.throttled,
    }
}

fn held(limit: Limit, allowed: Option<u64>, seen: u64, detail: &str) -> Breach {
    Breach {
        limit,
        allowed,
        seen,
        action: BreachAction::Held,
        detail: detail.to_owned(),
    }
}

fn too_much(usage: HomeUsage, limits: &Limits) -> Option<Breach> {
    let allowed = limits.disk_bytes?;
    let detail = if usage.more {
        "its home is nested too deeply, or holds too many files, to be added up".to_owned()
    } else if usage.bytes > allowed {
        format!(
            "its home holds {} bytes; the limit is {allowed}",
            usage.bytes
        )
    } else {
        return None;
    };
    Some(Breach {
        limit: Limit::Disk,
        allowed: Some(allowed),
        seen: usage.bytes,
        action: BreachAction::End,
        detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cpu_millicores: Some(1000),
        memory_bytes: Some(1 << 20),
        pids: Some(8),
        nofile: None,
        disk_bytes: Some(1 << 20),
    };

    #[test]
    fn what_the_kernel_held_is_told_once_a_minute_and_as_often_as_it_happened() {
        let mut ledger = Ledger::default();
        let strain = Strain {
            oom_kills: 1,
            refused_tasks: 40,
            ..Strain::default()
        };
        let told: Vec<_> = ledger
            .compare(strain, &LIMITS)
            .into_iter()
            .map(|one| (one.limit, one.seen))
            .collect();
        assert_eq!(told, [(Limit::Memory, 1), (Limit::Pids, 40)]);
        assert_eq!(ledger.compare(strain, &LIMITS), []);
        let at = Instant::now();
        assert!(ledger.is_news(Limit::Pids, at));
        assert!(!ledger.is_news(Limit::Pids, at + TOLD_AGAIN / 2));
        assert!(ledger.is_news(Limit::Memory, at) && ledger.is_news(Limit::Pids, at + TOLD_AGAIN));
    }

    #[test]
    fn processor_time_is_short_only_when_it_is_so_for_long() {
        let mut ledger = Ledger::default();
        let mut strain = Strain::default();
        for look in 1..=SHORT_LOOKS {
            strain.periods += 20;
            strain.throttled += 15;
            assert_eq!(
                ledger.compare(strain, &LIMITS).len(),
                usize::from(look == SHORT_LOOKS)
            );
        }
        strain.periods += 20;
        assert_eq!(ledger.compare(strain, &LIMITS), []);
    }

    #[test]
    fn a_home_beyond_its_limit_ends_the_instance_and_one_at_it_does_not() {
        let home = |bytes, more| {
            too_much(
                HomeUsage {
                    bytes,
                    entries: 1,
                    more,
                },
                &LIMITS,
            )
            .map(|one| one.action)
        };
        assert_eq!(home(1 << 20, false), None);
        assert_eq!(home((1 << 20) + 1, false), Some(BreachAction::End));
        assert_eq!(home(0, true), Some(BreachAction::End));
    }
}
