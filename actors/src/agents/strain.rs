//! What instances run into, out of what the kernel counted and what lies in their homes: what of it is news.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_messages::limits::{Breach, BreachAction, Limit};
use mesh_sandbox::{ExitStatus, HomeUsage, Limits, Strain};

/// A limit that is run into again and again is told once in so long.
const TOLD_AGAIN: Duration = Duration::from_mins(1);

/// Processor time counts as short when most periods were cut off for so many looks in a row.
const SHORT_LOOKS: u32 = 30;

/// `SIGXFSZ`: a file grew to the limit of disk.
const FILE_TOO_LARGE: i32 = 25;

/// What has been seen and told of one incarnation, over all its processes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    // What the kernel has counted of each process that runs.
    counted: BTreeMap<u64, Strain>,
    short: u32,
    told: Vec<(News, Instant)>,
}

/// A limit, and whether it ended a process as a whole: that is told even where it was told before that the limit held.
type News = (Limit, bool);

impl Ledger {
    /// What is new of these processes at a look.
    pub(crate) fn look(
        &mut self,
        seen: &[(u64, Strain)],
        limits: &Limits,
        at: Instant,
    ) -> Vec<Breach> {
        let mut fresh = Strain::default();
        for (number, strain) in seen {
            fresh = sum(fresh, self.since(*number, *strain));
        }
        let mut breaches = counted(fresh, limits);
        self.short = if fresh.throttled > 0 && fresh.throttled * 2 >= fresh.periods {
            self.short + 1
        } else {
            0
        };
        if self.short >= SHORT_LOOKS {
            breaches.push(held(
                Limit::Cpu,
                limits.cpu_millicores.map(u64::from),
                fresh.throttled,
                "its share of processor time was used up most of the time",
            ));
        }
        breaches.retain(|breach| self.is_news((breach.limit, false), at));
        breaches
    }

    /// What is new of a process that has ended, and how it did: nobody will find that by looking.
    pub(crate) fn last(
        &mut self,
        number: u64,
        strain: Strain,
        status: ExitStatus,
        limits: &Limits,
        at: Instant,
    ) -> Vec<Breach> {
        let fresh = self.since(number, strain);
        self.counted.remove(&number);
        let mut breaches = counted(fresh, limits);
        breaches.retain(|breach| {
            let ended = breach.limit == Limit::Memory && status.oom;
            !ended && self.is_news((breach.limit, false), at)
        });
        let mut ended = |limit, allowed, seen, detail| {
            if self.is_news((limit, true), at) {
                breaches.push(held(limit, allowed, seen, detail));
            }
        };
        if status.oom {
            let detail = "the kernel ended processes of it for want of memory, and it ended";
            ended(
                Limit::Memory,
                limits.memory_bytes,
                strain.oom_kills.max(1),
                detail,
            );
        }
        if status.signal == Some(FILE_TOO_LARGE) {
            let detail = "the kernel ended it for a file beyond its limit of disk";
            ended(Limit::Disk, limits.disk_bytes, 1, detail);
        }
        breaches
    }

    /// Whether its home holds more than it may.
    pub(crate) fn home(
        &mut self,
        usage: HomeUsage,
        limits: &Limits,
        at: Instant,
    ) -> Option<Breach> {
        too_much(usage, limits).filter(|breach| self.is_news((breach.limit, false), at))
    }

    /// What was counted of a process since the last look at it.
    fn since(&mut self, number: u64, now: Strain) -> Strain {
        let before = self.counted.insert(number, now).unwrap_or_default();
        Strain {
            oom_kills: now.oom_kills.saturating_sub(before.oom_kills),
            refused_tasks: now.refused_tasks.saturating_sub(before.refused_tasks),
            periods: now.periods.saturating_sub(before.periods),
            throttled: now.throttled.saturating_sub(before.throttled),
            home_full: now.home_full,
        }
    }

    fn is_news(&mut self, news: News, at: Instant) -> bool {
        self.told
            .retain(|(_, told)| at.duration_since(*told) < TOLD_AGAIN);
        let known = self.told.iter().any(|(told, _)| *told == news);
        if !known {
            self.told.push((news, at));
        }
        !known
    }
}

fn counted(fresh: Strain, limits: &Limits) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if fresh.oom_kills > 0 {
        breaches.push(held(
            Limit::Memory,
            limits.memory_bytes,
            fresh.oom_kills,
            "the kernel ended processes of it for want of memory",
        ));
    }
    if fresh.refused_tasks > 0 {
        breaches.push(held(
            Limit::Pids,
            limits.pids.map(u64::from),
            fresh.refused_tasks,
            "the kernel refused it processes or threads",
        ));
    }
    if fresh.home_full > 0 {
        breaches.push(held(
            Limit::Disk,
            limits.disk_bytes,
            fresh.home_full,
            "its home is full, and the kernel refuses it more",
        ));
    }
    breaches
}

fn sum(one: Strain, other: Strain) -> Strain {
    Strain {
        oom_kills: one.oom_kills + other.oom_kills,
        refused_tasks: one.refused_tasks + other.refused_tasks,
        periods: one.periods + other.periods,
        throttled: one.throttled + other.throttled,
        home_full: one.home_full.max(other.home_full),
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
        "its home cannot be added up: it is nested too deeply, holds too many files, or has directories that are closed to meshd".to_owned()
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
        io_bytes_per_second: None,
    };

    fn short(breaches: Vec<Breach>) -> Vec<(Limit, u64)> {
        breaches
            .into_iter()
            .map(|one| (one.limit, one.seen))
            .collect()
    }

    const fn strain(oom_kills: u64, refused_tasks: u64) -> Strain {
        Strain {
            oom_kills,
            refused_tasks,
            periods: 0,
            throttled: 0,
            home_full: 0,
        }
    }

    const fn end(code: Option<i32>, signal: Option<i32>, oom: bool) -> ExitStatus {
        ExitStatus { code, signal, oom }
    }

    #[test]
    fn what_the_kernel_held_is_told_once_a_minute_and_as_often_as_it_happened() {
        let (mut ledger, at) = (Ledger::default(), Instant::now());
        let mut look = |strain, at| short(ledger.look(&[(1, strain)], &LIMITS, at));
        assert_eq!(
            look(strain(1, 40), at),
            [(Limit::Memory, 1), (Limit::Pids, 40)]
        );
        assert_eq!(look(strain(1, 40), at), []);
        assert_eq!(look(strain(1, 41), at + TOLD_AGAIN / 2), []);
        assert_eq!(look(strain(1, 49), at + TOLD_AGAIN), [(Limit::Pids, 8)]);
    }

    #[test]
    fn a_process_that_comes_and_goes_hides_nothing_of_another() {
        let (mut ledger, at) = (Ledger::default(), Instant::now());
        let over = at + TOLD_AGAIN;
        ledger.look(&[(1, strain(0, 100))], &LIMITS, at);
        // The first is gone, and what it was refused with it.
        let told = ledger.last(1, strain(0, 100), end(Some(0), None, false), &LIMITS, at);
        assert_eq!(short(told), []);
        let told = ledger.look(&[(2, strain(0, 3))], &LIMITS, over);
        assert_eq!(short(told), [(Limit::Pids, 3)]);
    }

    #[test]
    fn what_happened_after_the_last_look_is_told_at_the_end() {
        let (mut ledger, at) = (Ledger::default(), Instant::now());
        let told = ledger.last(1, strain(0, 5), end(Some(0), None, false), &LIMITS, at);
        assert_eq!(short(told), [(Limit::Pids, 5)]);
        // Out of memory is told once, although it was counted, too; and also where it was told that it held.
        ledger.look(&[(2, strain(1, 0))], &LIMITS, at);
        let told = ledger.last(2, strain(3, 0), end(None, Some(9), true), &LIMITS, at);
        assert_eq!(short(told), [(Limit::Memory, 3)]);
        let told = ledger.last(3, strain(0, 0), end(None, Some(25), false), &LIMITS, at);
        assert_eq!(short(told), [(Limit::Disk, 1)]);
        assert!(ledger.counted.is_empty());
    }

    #[test]
    fn a_full_home_is_told_as_held_once_a_minute_also_at_the_end_of_a_process() {
        let (mut ledger, at) = (Ledger::default(), Instant::now());
        let full = Strain {
            home_full: 1 << 20,
            ..Strain::default()
        };
        let told = ledger.look(&[(1, full), (2, full)], &LIMITS, at);
        assert_eq!(told[0].action, BreachAction::Held);
        assert_eq!(short(told), [(Limit::Disk, 1 << 20)]);
        let told = ledger.last(1, full, end(Some(0), None, false), &LIMITS, at);
        assert_eq!(short(told), []);
        let later = at + TOLD_AGAIN;
        let told = ledger.last(2, full, end(Some(1), None, false), &LIMITS, later);
        assert_eq!(short(told), [(Limit::Disk, 1 << 20)]);
    }

    #[test]
    fn processor_time_is_short_only_when_it_is_so_for_long() {
        let (mut ledger, at) = (Ledger::default(), Instant::now());
        let mut strain = Strain::default();
        for look in 1..=SHORT_LOOKS {
            strain.periods += 20;
            strain.throttled += 15;
            assert_eq!(
                ledger.look(&[(0, strain)], &LIMITS, at).len(),
                usize::from(look == SHORT_LOOKS)
            );
        }
        strain.periods += 20;
        assert_eq!(ledger.look(&[(0, strain)], &LIMITS, at + TOLD_AGAIN), []);
    }

    #[test]
    fn a_home_beyond_its_limit_ends_the_instance_and_one_at_it_does_not() {
        let home = |bytes, more| {
            let usage = HomeUsage {
                bytes,
                entries: 1,
                more,
            };
            let breach = Ledger::default().home(usage, &LIMITS, Instant::now());
            breach.map(|one| one.action)
        };
        assert_eq!(home(1 << 20, false), None);
        assert_eq!(home((1 << 20) + 1, false), Some(BreachAction::End));
        assert_eq!(home(0, true), Some(BreachAction::End));
    }
}
