//! What callers looked at, on record: counted by caller, verb and minute.
//!
//! What changes something has a record of its own, before it is done. A look changes nothing, and whoever looks chooses how
//! often, so looks are counted, and the counts are one record a minute at most: a page that is polled all day costs as much of
//! the disk as one that is looked at once a minute.

use std::collections::BTreeMap;
use std::time::Duration;

use ractor::ActorProcessingErr;

use mesh_messages::Timestamp;
use mesh_messages::events::{AuditCount, AuditCounts, SentinelEvent};
use mesh_messages::system::Caller;

use super::State;
use super::door::count;
use super::handle::{SentinelHandle, cut};
use crate::clock;
use crate::operations::Action;
use crate::partition::Cause;

/// How long looks are gathered.
const GRANTED_EVERY: Duration = Duration::from_mins(1);
/// Kinds of looks that are told apart in one record: it has to stay small. The rest are counted together.
const GRANTED_MAX: usize = 256;
/// What is counted.
const GRANTED: &str = "allowed";

/// Paths below which is what people said, did or were told, and not only how the mesh is.
const SENSITIVE: [&str; 4] = ["/v1/audit", "/v1/inbox", "/v1/events", "/v1/export"];
/// The end of the path of an agent's logs.
const LOGS: &str = "/logs";

/// Whose look at what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    user: String,
    action: &'static str,
    verb: String,
    /// What exactly, where that matters.
    resource: Option<String>,
}

/// Looks that have no record yet.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    since: Option<Timestamp>,
    looks: BTreeMap<Look, u64>,
    others: u64,
}

impl Accesses {
    fn note(&mut self, look: Look, now: Timestamp) {
        self.since.get_or_insert(now);
        let room = self.looks.len() < GRANTED_MAX;
        match self.looks.get_mut(&look) {
            Some(times) => *times += 1,
            None if room => drop(self.looks.insert(look, 1)),
            None => self.others += 1,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.since
            .is_some_and(|since| now.since(since) >= GRANTED_EVERY)
    }

    /// All of it, as a record; `None` when nobody looked at anything.
    fn take(&mut self, now: Timestamp) -> Option<SentinelEvent> {
        let Self {
            since,
            looks,
            others,
        } = std::mem::take(self);
        let row = |(look, times): (Look, u64)| AuditCount {
            user: look.user,
            action: look.action.to_owned(),
            code: GRANTED.to_owned(),
            times,
            digest: None,
            verb: Some(look.verb),
            resource: look.resource,
        };
        Some(SentinelEvent::Granted(Box::new(AuditCounts {
            since: since?,
            until: now,
            counts: looks.into_iter().map(row).collect(),
            others,
            others_digest: None,
        })))
    }
}

/// Whether a look at this is counted whatever the configuration says, and with what exactly was looked at.
fn is_sensitive(action: Action, resource: &str) -> bool {
    matches!(
        action,
        Action::Memory | Action::Secrets | Action::Tokens | Action::Keys | Action::Backup
    ) || resource.ends_with(LOGS)
        || SENSITIVE.iter().any(|path| {
            let rest = resource.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

impl SentinelHandle {
    /// Counts that the caller was let look at something, by the verb that it used. What has a record of its own is not
    /// counted. Never waits.
    pub fn note_access(&self, caller: &Caller, action: Action, verb: &str, resource: &str) {
        let sensitive = is_sensitive(action, resource);
        let told = self.audit_all_actions && action != Action::Read;
        if told || !(sensitive || self.audit_all_actions) {
            return;
        }
        self.count_look(
            caller.name.clone(),
            action,
            verb,
            sensitive.then_some(resource),
        );
    }

    /// The same for what an agent looks at on its own channel, where nothing that changes nothing has a record of its own.
    pub(crate) fn note_look(&self, user: String, action: Action, verb: &str, resource: &str) {
        let sensitive = is_sensitive(action, resource);
        if sensitive || self.audit_all_actions {
            self.count_look(user, action, verb, sensitive.then_some(resource));
        }
    }

    fn count_look(&self, user: String, action: Action, verb: &str, resource: Option<&str>) {
        let look = Look {
            user,
            action: action.name(),
            verb: verb.to_owned(),
            resource: resource.map(cut),
        };
        self.door.accesses().note(look, clock::now());
    }
}

impl State {
    /// Puts on record what was looked at, if it is time to, or at the `end`. Where nothing can be written it is kept.
    pub(super) async fn tell_accesses(&mut self, end: bool) -> Result<(), ActorProcessingErr> {
        let due = end || self.handle.door.accesses().is_due(clock::now());
        if !due || self.writable().is_err() {
            return Ok(());
        }
        let looked = self.handle.door.accesses().take(clock::now());
        let Some(event) = looked else {
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

    fn look(user: &str, verb: &str) -> Look {
        Look {
            user: user.to_owned(),
            action: "read",
            verb: verb.to_owned(),
            resource: None,
        }
    }

    fn told(accesses: &mut Accesses, now: u64) -> AuditCounts {
        let Some(SentinelEvent::Granted(told)) = accesses.take(at(now)) else {
            panic!("there is something to tell");
        };
        *told
    }

    #[test]
    fn looks_are_counted_by_who_and_verb_and_told_once_a_minute() {
        let minute = u64::try_from(GRANTED_EVERY.as_millis()).unwrap();
        let mut accesses = Accesses::default();
        assert!(!accesses.is_due(at(minute)) && accesses.take(at(1)).is_none());
        for n in 0..1000 {
            accesses.note(look("user:ada", "listTasks"), at(5 + n));
        }
        accesses.note(look("user:ben", "listTasks"), at(7));
        accesses.note(look("user:ada", "getTask"), at(8));
        assert!(!accesses.is_due(at(minute)) && accesses.is_due(at(minute + 5)));
        let told = told(&mut accesses, minute + 5);
        assert_eq!((told.since, told.others), (at(5), 0));
        let rows: Vec<_> = told
            .counts
            .iter()
            .map(|row| (&*row.user, row.verb.as_deref().unwrap(), row.times))
            .collect();
        assert_eq!(
            rows,
            [
                ("user:ada", "getTask", 1),
                ("user:ada", "listTasks", 1000),
                ("user:ben", "listTasks", 1)
            ]
        );
        assert!(!accesses.is_due(at(9 * minute)));
    }

    #[test]
    fn a_record_has_a_bound_and_loses_none() {
        let mut accesses = Accesses::default();
        for n in 0..1000 {
            accesses.note(look(&format!("user:{n}"), "listTasks"), at(1));
        }
        let told = told(&mut accesses, 2);
        assert_eq!(told.counts.len(), GRANTED_MAX);
        assert_eq!(told.others, 1000 - GRANTED_MAX as u64);
        // Rows without a resource, as most are.
        assert!(serde_json::to_vec(&told).unwrap().len() < 64 * 1024);
    }

    #[test]
    fn what_people_said_and_did_is_sensitive_and_how_the_mesh_is_is_not() {
        for (action, path) in [
            (Action::Read, "/v1/audit"),
            (Action::Read, "/v1/audit/export"),
            (Action::Read, "/v1/inbox/t-1"),
            (Action::Read, "/v1/agents/a/logs"),
            (Action::Memory, "/v1/memory/a"),
            (Action::Secrets, "/v1/secrets"),
            (Action::Tokens, "/v1/tokens"),
        ] {
            assert!(is_sensitive(action, path), "{path}");
        }
        for path in ["/v1/tasks", "/v1/agents/a", "/v1/auditors", "/v1/health"] {
            assert!(!is_sensitive(Action::Read, path), "{path}");
        }
    }
}
