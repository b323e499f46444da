//! Refusals on record: those that have a record each, and the count of all others.
//!
//! Whoever is refused chooses how often, so records of their own are rationed at the [`Door`](super::door::Door). What is
//! beyond is counted by caller, action and code, and the counts are one record a minute: an attack fills no disk, and none
//! of it goes untold.

use std::collections::BTreeMap;
use std::time::Duration;

use ractor::ActorProcessingErr;

use mesh_messages::Timestamp;
use mesh_messages::events::{AuditCount, AuditCounts, SentinelEvent};

use super::State;
use super::door::count;
use super::handle::{SentinelHandle, cut};
use crate::clock;
use crate::partition::Cause;

/// How often what was only counted is put on record.
pub(super) const COUNTED_EVERY: Duration = Duration::from_mins(1);
/// What is counted that was not refused.
const NOTED: &str = "noted";
/// Kinds of refusals that are told apart in one count: names come with tokens, so there are few at a time, and one
/// record must stay small.
const KINDS_MAX: usize = 64;

/// What was refused and has no record yet.
#[derive(Debug, Default)]
pub(super) struct Counted {
    since: Option<Timestamp>,
    // By user, action, code.
    counts: BTreeMap<(String, String, String), u64>,
    others: u64,
}

impl Counted {
    /// One more.
    pub(super) fn note(&mut self, user: &str, action: &str, code: &str, now: Timestamp) {
        self.since.get_or_insert(now);
        let key = (user.to_owned(), action.to_owned(), code.to_owned());
        // However many agents call a lot, what is refused keeps its name.
        let most = if code == NOTED {
            KINDS_MAX / 2
        } else {
            KINDS_MAX
        };
        let room = self.counts.len() < most;
        match self.counts.get_mut(&key) {
            Some(times) => *times += 1,
            None if room => {
                self.counts.insert(key, 1);
            }
            None => self.others += 1,
        }
    }

    /// All of it, as a record; `None` when there is nothing to tell.
    fn take(&mut self, now: Timestamp) -> Option<SentinelEvent> {
        let Self {
            since,
            counts,
            others,
        } = std::mem::take(self);
        let counts = counts.into_iter();
        Some(SentinelEvent::Counted(Box::new(AuditCounts {
            since: since?,
            until: now,
            counts: counts
                .map(|((user, action, code), times)| AuditCount {
                    user,
                    action,
                    code,
                    times,
                })
                .collect(),
            others,
        })))
    }
}

impl SentinelHandle {
    /// Audits that what somebody asked for could not be taken, by its code. One more of a caller that was refused too
    /// often lately is counted with others; one that was denied while this request was served is on record already. Never
    /// waits.
    pub fn record_refused(&self, user: &str, action: &str, resource: &str, code: &str) {
        if crate::request::was_denied() {
            return;
        }
        let event = SentinelEvent::Refused {
            action: action.to_owned(),
            resource: cut(resource),
            user: user.to_owned(),
            code: code.to_owned(),
        };
        if self.door.is_worth_recording(Some(user)) {
            self.cast_audit(event, (user, action, code));
        } else {
            self.door.note_refusal(user, action, code);
        }
    }

    /// Audits that an agent calls something beside meshd, or that such a call is over, for the reason that it works at all.
    /// More than an agent does who thinks is counted instead. Never waits.
    pub(crate) fn record_call(&self, event: SentinelEvent, led: Option<Cause>) {
        let (SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call)) = &event else {
            return;
        };
        let user = format!("agent:{}", call.agent);
        let told = self.audit_all_actions;
        if told && !self.door.is_call_worth_recording(&call.agent) {
            return self.door.note_refusal(&user, event.kind(), NOTED);
        }
        let led = led.map_or((None, None), |led| (led.cause, led.correlation));
        if told {
            self.cast_for(led, event, (&user, "call", NOTED));
        }
    }
}

impl State {
    /// Puts on record what was only counted so far. Where nothing can be written it is kept.
    pub(super) async fn count_refusals(&mut self) -> Result<(), ActorProcessingErr> {
        if self.writable().is_err() {
            return Ok(());
        }
        let counted = self.handle.door.counted().take(clock::now());
        let Some(event) = counted else {
            return Ok(());
        };
        let written = self.commit(vec![event], &Cause::meshd(), Vec::new()).await;
        if written.is_err() {
            count(&self.handle.door.counts.unrecorded);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Timestamp {
        Timestamp::from_millis(n)
    }

    #[test]
    fn refusals_are_counted_by_who_what_and_why_and_told_once() {
        let mut counted = Counted::default();
        assert_eq!(counted.take(at(1)), None);
        counted.note("user:eve", "message.send", "bad_signature", at(5));
        counted.note("anonymous", "authenticate", "unauthenticated", at(6));
        counted.note("user:eve", "message.send", "bad_signature", at(7));
        let Some(SentinelEvent::Counted(told)) = counted.take(at(9)) else {
            panic!("there is something to tell");
        };
        assert_eq!((told.since, told.until, told.others), (at(5), at(9), 0));
        let rows: Vec<_> = told
            .counts
            .iter()
            .map(|row| (row.user.as_str(), row.code.as_str(), row.times))
            .collect();
        assert_eq!(
            rows,
            [
                ("anonymous", "unauthenticated", 1),
                ("user:eve", "bad_signature", 2)
            ]
        );
        assert_eq!(counted.take(at(10)), None);
    }

    #[test]
    fn a_count_has_a_bound_and_loses_none() {
        let mut counted = Counted::default();
        for n in 0..1000 {
            counted.note(&format!("user:{n}"), "message.send", "replayed", at(1));
        }
        let Some(SentinelEvent::Counted(told)) = counted.take(at(2)) else {
            panic!("there is something to tell");
        };
        assert_eq!(told.counts.len(), KINDS_MAX);
        assert_eq!(told.others, 1000 - KINDS_MAX as u64);
    }
}
