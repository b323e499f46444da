//! Refusals on record: those that have a record each, and the count of all others.
//!
//! Whoever is refused chooses how often, so records of their own are rationed at the [`Door`](super::door::Door). What is
//! beyond is counted by caller, action and code, and the counts are one record a minute: an attack fills no disk, and none
//! of it goes untold. What an agent did, and was not refused, is told sooner, and with a digest of each.

use std::collections::BTreeMap;
use std::time::Duration;

use ractor::ActorProcessingErr;
use sha2::{Digest as _, Sha256};

use mesh_messages::Timestamp;
use mesh_messages::events::{AuditCount, AuditCounts, SentinelEvent};

use super::door::{Door, count};
use super::handle::{AUTHENTICATE, DENIED, SentinelHandle, UNKNOWN, cut};
use super::{Message, State};
use crate::clock;
use crate::partition::Cause;

/// How often it is looked whether there are counts to put on record; those of what was done then are. A kill loses no more
/// than that.
pub(super) const COUNTED_EVERY: Duration = Duration::from_secs(5);
/// How old counts become of which all was refused.
const REFUSED_EVERY: Duration = Duration::from_mins(1);
/// What is counted that was not refused.
const NOTED: &str = "noted";
/// Kinds of refusals that are told apart in one count: names come with tokens, so there are few at a time, and one
/// record must stay small.
const KINDS_MAX: usize = 64;

/// What was refused, or done, and has no record yet.
#[derive(Debug, Default)]
pub(super) struct Counted {
    since: Option<Timestamp>,
    // By user, action, code.
    counts: BTreeMap<(String, String, String), Tally>,
    others: Tally,
}

/// How often, and of what was done, which.
#[derive(Debug, Default)]
struct Tally {
    times: u64,
    done: Option<[u8; 32]>,
}

impl Tally {
    fn add(&mut self, times: u64, done: Option<[u8; 32]>) {
        self.times += times;
        if let Some(digest) = done {
            let so_far = self.done.unwrap_or_default();
            self.done = Some(Sha256::digest([so_far, digest].concat()).into());
        }
    }

    fn digest(&self) -> Option<String> {
        self.done
            .map(|digest| format!("sha256:{}", hex::encode(digest)))
    }
}

impl Counted {
    /// One more that was refused.
    pub(super) fn note(&mut self, user: &str, action: &str, code: &str, now: Timestamp) {
        self.add((user, action, code), 1, None, now);
    }

    /// One more that was done.
    fn note_done(&mut self, user: &str, event: &SentinelEvent, now: Timestamp) {
        // An event is text and numbers, and always has a form; without one it is counted all the same.
        let written = serde_json::to_vec(event).unwrap_or_default();
        let digest = Sha256::digest(written).into();
        self.add((user, event.kind(), NOTED), 1, Some(digest), now);
    }

    fn add(
        &mut self,
        (user, action, code): (&str, &str, &str),
        times: u64,
        done: Option<[u8; 32]>,
        now: Timestamp,
    ) {
        self.since.get_or_insert(now);
        let key = (user.to_owned(), action.to_owned(), code.to_owned());
        // However many agents call a lot, what is refused keeps its name.
        let most = if done.is_some() {
            KINDS_MAX / 2
        } else {
            KINDS_MAX
        };
        let room = self.counts.len() < most;
        match self.counts.get_mut(&key) {
            Some(tally) => tally.add(times, done),
            None if room => self.counts.entry(key).or_default().add(times, done),
            None => self.others.add(times, done),
        }
    }

    /// Whether it is time to tell: something was done, or the oldest refusal is old enough.
    fn is_due(&self, now: Timestamp) -> bool {
        let done = self.others.done.is_some() || self.counts.values().any(|t| t.done.is_some());
        let old = |since| now.since(since) >= REFUSED_EVERY;
        done || self.since.is_some_and(old)
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
                .map(|((user, action, code), tally)| AuditCount {
                    user,
                    action,
                    code,
                    times: tally.times,
                    digest: tally.digest(),
                    verb: None,
                    resource: None,
                })
                .collect(),
            others: others.times,
            others_digest: others.digest(),
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
        if !self.audit_all_actions {
            return;
        }
        if !self.door.is_call_worth_recording(&call.agent) {
            return self.door.note_done(&event);
        }
        let request = led.map_or((None, None), |led| (led.cause, led.correlation));
        let message = Message::Audit {
            event: event.clone(),
            request,
            reply: None,
        };
        if self.slot.cast(message).is_err() {
            self.door.note_done(&event);
        }
    }
}

impl Door {
    /// Something that should have a record of its own and gets none, because nothing can be written or the sentinel is
    /// being restarted.
    pub(super) fn note_untold(&self, event: &SentinelEvent) {
        match event {
            SentinelEvent::Refused {
                user, action, code, ..
            } => self.note_refusal(user, action, code),
            // Whoever they claim to be.
            SentinelEvent::Denied { action, .. } if action == AUTHENTICATE => {
                self.note_refusal("anonymous", action, UNKNOWN);
            }
            SentinelEvent::Denied { user, action, .. } => self.note_refusal(user, action, DENIED),
            SentinelEvent::EgressDenied(denial) => {
                let (user, code) = (format!("agent:{}", denial.agent), &denial.code);
                let mut counted = self.counted();
                counted.add(
                    (&user, event.kind(), code),
                    denial.count,
                    None,
                    clock::now(),
                );
            }
            _ => self.note_done(event),
        }
    }

    /// One more call of an agent that gets no record of its own.
    pub(super) fn note_done(&self, event: &SentinelEvent) {
        if let SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call) = event {
            let user = format!("agent:{}", call.agent);
            self.counted().note_done(&user, event, clock::now());
        }
    }
}

impl State {
    /// Puts on record what was only counted so far, if it is time to, or at the `end`. Where nothing can be written it is
    /// kept.
    pub(super) async fn tell_counted(&mut self, end: bool) -> Result<(), ActorProcessingErr> {
        let due = end || self.handle.door.counted().is_due(clock::now());
        if !due || self.writable().is_err() {
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
    use mesh_messages::Epoch;
    use mesh_messages::events::CallNote;

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
        assert_eq!(told.others_digest, None);
    }

    fn call(agent: &str, id: u32) -> SentinelEvent {
        SentinelEvent::CallEnded(Box::new(CallNote {
            agent: agent.parse().unwrap(),
            epoch: Epoch(1),
            task: None,
            id: id.to_string(),
            name: None,
            fingerprint: None,
            bound_ms: None,
        }))
    }

    #[test]
    fn what_was_done_is_counted_with_a_digest_that_says_which() {
        let told = |ids: &[u32]| {
            let mut counted = Counted::default();
            for id in ids {
                counted.note_done("agent:a", &call("a", *id), at(1));
            }
            let Some(SentinelEvent::Counted(told)) = counted.take(at(2)) else {
                panic!("there is something to tell");
            };
            let row = &told.counts[0];
            assert_eq!(
                (row.user.as_str(), row.action.as_str(), row.code.as_str()),
                ("agent:a", "call.ended", NOTED)
            );
            (row.times, row.digest.clone().unwrap())
        };
        let (times, digest) = told(&[1, 2, 3]);
        assert_eq!(times, 3);
        // As the documents say, worked out once more.
        let mut expected = [0_u8; 32];
        for id in 1..=3 {
            let one = Sha256::digest(serde_json::to_vec(&call("a", id)).unwrap());
            expected = Sha256::digest([expected.as_slice(), one.as_slice()].concat()).into();
        }
        assert_eq!(digest, format!("sha256:{}", hex::encode(expected)));
        for others in [&[1, 3, 2][..], &[1, 2, 4], &[1, 2]] {
            assert_ne!(told(others).1, digest, "{others:?}");
        }
    }

    #[test]
    fn what_was_done_beyond_the_kinds_that_are_told_apart_has_a_digest_too() {
        let mut counted = Counted::default();
        let agents = 0..KINDS_MAX;
        for n in agents.clone() {
            counted.note_done("agent:a", &call("a", 1), at(1));
            counted.note_done(&format!("agent:b{n}"), &call("b", 1), at(1));
        }
        let Some(SentinelEvent::Counted(told)) = counted.take(at(2)) else {
            panic!("there is something to tell");
        };
        assert!(told.others > 0 && told.others_digest.is_some());
        let named: u64 = told.counts.iter().map(|row| row.times).sum();
        assert_eq!(named + told.others, 2 * agents.count() as u64);
    }

    #[test]
    fn what_was_done_is_told_at_once_and_refusals_each_minute() {
        let minute = REFUSED_EVERY.as_millis().try_into().unwrap();
        let mut counted = Counted::default();
        assert!(!counted.is_due(at(1)));
        counted.note("user:eve", "message.send", "replayed", at(1));
        assert!(!counted.is_due(at(minute)));
        assert!(counted.is_due(at(minute + 1)));
        counted.note_done("agent:a", &call("a", 1), at(2));
        assert!(counted.is_due(at(3)));
        counted.take(at(3));
        assert!(!counted.is_due(at(10 * minute)));
    }
}
