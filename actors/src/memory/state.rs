//! What the memory actor does with each message.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorProcessingErr, RpcReplyPort};
use serde_json::Value;

use mesh_actors_core::memory::{Once, Place, Range, Read, SetRequest, Write};
use mesh_messages::agent::Page;
use mesh_messages::events::MemoryEvent;
use mesh_messages::manifest::MemoryConfig;
use mesh_messages::problem::Problem;
use mesh_messages::system::{MemoryEntry, MemoryStats};
use mesh_messages::{AgentId, Timestamp};

use super::problem::refused;
use super::{Effect, Message, Owner, Reply, State, erase};
use crate::partition::{Cause, Entry, Led};

/// How long the expiry of what should have been cleared is put off while the journal takes nothing.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

impl State {
    pub(super) async fn get(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        key: &str,
        reply: Reply<Option<MemoryEntry>>,
    ) -> Result<(), ActorProcessingErr> {
        let read = {
            let mut working = self.handle.working.lock();
            working.touch(agent, now);
            self.partition.state().get(&working, now, agent, key)
        };
        match read {
            Ok(read) => {
                let entry = read.map(|read| shown(key.to_owned(), read));
                self.after_all(Effect::Got { entry, reply }).await
            }
            Err(refusal) => {
                answer(reply, Err(refused(&refusal)));
                Ok(())
            }
        }
    }

    pub(super) async fn list(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        range: &Range,
        reply: Reply<Page<MemoryEntry>>,
    ) -> Result<(), ActorProcessingErr> {
        let listing = {
            let mut working = self.handle.working.lock();
            working.touch(agent, now);
            self.partition.state().list(&working, now, agent, range)
        };
        match listing {
            Ok(listing) => {
                let last = listing.rows.last().map(|(key, _)| key.clone());
                let items = listing
                    .rows
                    .into_iter()
                    .map(|(key, read)| shown(key, read))
                    .collect();
                let page = Page {
                    items,
                    next_cursor: last.filter(|_| listing.more),
                };
                self.after_all(Effect::Listed { page, reply }).await
            }
            Err(refusal) => {
                answer(reply, Err(refused(&refusal)));
                Ok(())
            }
        }
    }

    pub(super) fn stats(
        &self,
        now: Timestamp,
        agent: AgentId,
        rules: &MemoryConfig,
    ) -> MemoryStats {
        let stats = self
            .partition
            .state()
            .stats(&self.handle.working.lock(), now, &agent);
        // Sizes are far below 2^53, and megabytes are for people.
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
        let size = stats.bytes as f64 / 1e6;
        MemoryStats {
            id: agent,
            kind: name_of(rules.kind),
            backend: name_of(rules.effective_backend()),
            size,
            entry_count: stats.entries,
            last_accessed: stats.accessed,
        }
    }

    pub(super) async fn set(
        &mut self,
        now: Timestamp,
        owner: Owner,
        (key, value, ttl): (String, Value, Option<Duration>),
        reply: Reply<MemoryEntry>,
    ) -> Result<(), ActorProcessingErr> {
        let Owner { agent, rules, by } = owner;
        let request = SetRequest {
            agent: agent.clone(),
            key: key.clone(),
            value,
            ttl,
        };
        let decided = {
            let mut working = self.handle.working.lock();
            working.touch(&agent, now);
            self.partition
                .state()
                .set(&working, &rules, now, request)
                .map_err(|r| refused(&r))
        };
        let decided = decided.and_then(|write| self.writable(&write.events).map(|()| write));
        let write = match decided {
            Ok(write) => write,
            Err(problem) => {
                answer(reply, Err(problem));
                return Ok(());
            }
        };
        let Write {
            item,
            place,
            events,
        } = write;
        let entry = shown(
            key.clone(),
            Read {
                item: item.clone(),
                place,
            },
        );
        // The journal first: if it fails, the actor ends and nothing was written anywhere.
        self.commit(&agent, &by, events, Effect::Written { entry, reply })
            .await?;
        let mut working = self.handle.working.lock();
        match place {
            Place::Working => working.put(&agent, key, item),
            Place::Journal => working.remove(&agent, &key),
        }
        Ok(())
    }

    /// Records something once. The answer waits until it is durable, also that of who came second.
    pub(super) async fn once(
        &mut self,
        now: Timestamp,
        owner: Owner,
        (key, value, ttl): (String, Value, Option<Duration>),
        reply: Reply<(MemoryEntry, bool)>,
    ) -> Result<(), ActorProcessingErr> {
        let Owner { agent, rules, by } = owner;
        let request = SetRequest {
            agent: agent.clone(),
            key: key.clone(),
            value,
            ttl,
        };
        let decided = {
            let mut working = self.handle.working.lock();
            working.touch(&agent, now);
            self.partition
                .state()
                .once(&working, &rules, now, request)
                .map_err(|r| refused(&r))
        };
        let (read, events, first) = match decided {
            Ok(Once::There(read)) => (read, Vec::new(), false),
            Ok(Once::First(write)) => {
                if let Err(problem) = self.writable(&write.events) {
                    answer(reply, Err(problem));
                    return Ok(());
                }
                let (item, place) = (write.item, write.place);
                (Read { item, place }, write.events, true)
            }
            Err(problem) => {
                answer(reply, Err(problem));
                return Ok(());
            }
        };
        let entry = shown(key, read);
        let effect = Effect::Recorded {
            entry,
            first,
            reply,
        };
        if first {
            self.commit(&agent, &by, events, effect).await
        } else {
            self.after_all(effect).await
        }
    }

    pub(super) async fn delete(
        &mut self,
        now: Timestamp,
        (agent, by): (AgentId, &Cause),
        key: String,
        reply: Reply<bool>,
    ) -> Result<(), ActorProcessingErr> {
        let decided = {
            let mut working = self.handle.working.lock();
            working.touch(&agent, now);
            self.partition
                .state()
                .delete(&working, now, &agent, &key)
                .map_err(|r| refused(&r))
        };
        let decided = decided.and_then(|events| match events {
            Some(events) => self.writable(&events).map(|()| Some(events)),
            None => Ok(None),
        });
        match decided {
            Ok(Some(events)) => {
                self.commit(&agent, by, events, Effect::Deleted { there: true, reply })
                    .await?;
                self.handle.working.lock().remove(&agent, &key);
                Ok(())
            }
            Ok(None) => {
                self.after_all(Effect::Deleted {
                    there: false,
                    reply,
                })
                .await
            }
            Err(problem) => {
                answer(reply, Err(problem));
                Ok(())
            }
        }
    }

    /// Journals an event, if it takes one; the effect comes after it.
    pub(super) async fn settle(
        &mut self,
        (agent, by): (AgentId, &Cause),
        event: Option<MemoryEvent>,
        effect: Effect,
    ) -> Result<(), ActorProcessingErr> {
        let events: Vec<_> = event.into_iter().collect();
        if let Err(problem) = self.writable(&events) {
            if let Effect::Done { reply } | Effect::Erase { reply, .. } = effect {
                answer(reply, Err(problem));
            }
            return Ok(());
        }
        self.commit(&agent, by, events, effect).await
    }

    pub(super) async fn sweep(&mut self, now: Timestamp) -> Result<(), ActorProcessingErr> {
        self.timer = None;
        self.handle.working.lock().clear_expired(now);
        let expired = self.partition.state().clear_expired(now);
        let entries: Vec<_> = expired
            .into_iter()
            .map(|(agent, event)| Entry {
                event,
                agent: Some(agent),
                task: None,
                led: Led::default(),
            })
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        if self.partition.journal().admission().is_err() {
            // They cannot be read already; clearing them would only write to a full disk.
            self.not_before = now.plus(RETRY_PAUSE);
            return Ok(());
        }
        self.partition
            .commit(entries, &Cause::meshd(), Vec::new())
            .await?;
        Ok(())
    }

    /// Arms the timer for the next expiry, unless an earlier one is armed.
    pub(super) fn arm(&mut self, now: Timestamp) {
        let next = [
            self.partition.state().next_expiry(),
            self.handle.working.lock().next_expiry(),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            return;
        };
        let due = next.max(self.not_before);
        if self.timer.as_ref().is_some_and(|(armed, _)| *armed <= due) {
            return;
        }
        self.disarm();
        self.timer = Some((
            due,
            self.myself.send_after(due.since(now), || Message::Sweep),
        ));
    }

    pub(super) fn disarm(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
    }

    pub(super) fn writable(&self, events: &[MemoryEvent]) -> Result<(), Problem> {
        if events.is_empty() {
            return Ok(());
        }
        let admitted = self.partition.journal().admission();
        admitted.map_err(|error| Problem::unavailable("read_only", error.to_string()))
    }

    pub(super) async fn commit(
        &mut self,
        agent: &AgentId,
        by: &Cause,
        events: Vec<MemoryEvent>,
        effect: Effect,
    ) -> Result<(), ActorProcessingErr> {
        let entry = |event| Entry {
            event,
            agent: Some(agent.clone()),
            task: by.task.clone(),
            led: Led::default(),
        };
        let entries = events.into_iter().map(entry).collect();
        self.partition.commit(entries, by, vec![effect]).await?;
        Ok(())
    }

    /// An answer about the state waits until all that made the state is durable.
    pub(super) async fn after_all(&mut self, effect: Effect) -> Result<(), ActorProcessingErr> {
        self.partition
            .commit(Vec::new(), &Cause::meshd(), vec![effect])
            .await?;
        Ok(())
    }

    pub(super) fn release(&mut self) {
        for effect in self.partition.released(self.durable) {
            match effect {
                Effect::Got { entry, reply } => answer(reply, Ok(entry)),
                Effect::Listed { page, reply } => answer(reply, Ok(page)),
                Effect::Written { entry, reply } => answer(reply, Ok(entry)),
                Effect::Recorded {
                    entry,
                    first,
                    reply,
                } => answer(reply, Ok((entry, first))),
                Effect::Deleted { there, reply } => answer(reply, Ok(there)),
                Effect::Done { reply } => answer(reply, Ok(())),
                Effect::Erase { agent, reply } => {
                    erase::in_background(Arc::clone(self.partition.journal()), agent, reply);
                }
            }
        }
        self.partition.snapshot_when_due(self.durable);
    }
}

/// Answers a caller; one that does not wait any more need not be told.
pub(super) fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

fn shown(key: String, read: Read) -> MemoryEntry {
    MemoryEntry {
        key,
        value: read.item.value,
        updated_at: read.item.at,
        expires_at: read.item.expires_at,
        persistent: read.place == Place::Journal,
    }
}

/// The name in the manifest.
fn name_of(value: impl serde::Serialize) -> String {
    let name = serde_json::to_value(value).ok();
    name.as_ref()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
