//! Whose key is whose, and what was co-signed: what the sentinel does with each message about them.

use ractor::{ActorProcessingErr, RpcReplyPort};

use mesh_actors_core::sentinel::{KeyRefusal, WitnessRefusal, Witnessed};
use mesh_messages::address::Address;
use mesh_messages::events::{LogSuccession, SentinelEvent};
use mesh_messages::identity::DidKey;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::KeyInfo;
use mesh_persistence::Succession;

use super::handle::CALL_LIMIT;
use super::{Effect, Message, Reply, SentinelHandle, State, answer};
use crate::partition::Cause;

/// What the sentinel is sent about keys.
#[derive(Debug)]
pub(crate) enum KeyMessage {
    /// A key is somebody's. Idempotent.
    Register {
        by: Cause,
        key: DidKey,
        owner: Address,
        reply: Reply<KeyInfo>,
    },
    /// A key is nobody's any more. Idempotent.
    Revoke {
        by: Cause,
        key: DidKey,
        reason: String,
        reply: Reply<KeyInfo>,
    },
    /// Show all of them.
    List { reply: RpcReplyPort<Vec<KeyInfo>> },
    /// The last checkpoint of a log that was co-signed.
    Witnessed {
        origin: String,
        reply: RpcReplyPort<Option<Witnessed>>,
    },
    /// A checkpoint is about to be co-signed; its proof has been checked.
    Witness {
        by: Cause,
        origin: String,
        old: u64,
        new: Witnessed,
        reply: Reply<()>,
    },
    /// Whether it is known that another key signs for another log.
    Knows {
        new: LogSuccession,
        reply: Reply<bool>,
    },
    /// Another key signs for another log; its signatures and its proof, which begins at size `old`, have been checked.
    Succeed {
        by: Cause,
        old: u64,
        new: LogSuccession,
        reply: Reply<()>,
    },
    /// Other keys sign for this node's log: all of them, of which those are put on record that are not yet. Answers how many
    /// tokens that ends.
    Rotated {
        by: Cause,
        successions: Vec<Succession>,
        reason: String,
        reply: Reply<u64>,
    },
}

impl State {
    pub(super) async fn key(&mut self, message: KeyMessage) -> Result<(), ActorProcessingErr> {
        match message {
            KeyMessage::Register {
                by,
                key,
                owner,
                reply,
            } => {
                let decided = self.partition.state().keys().register(key, &owner);
                self.decided_key(&by, &key, decided, reply).await
            }
            KeyMessage::Revoke {
                by,
                key,
                reason,
                reply,
            } => {
                let decided = self.partition.state().keys().revoke(key, &reason);
                self.decided_key(&by, &key, decided, reply).await
            }
            KeyMessage::List { reply } => {
                let keys = self.partition.state().keys().list();
                let effects = vec![Effect::KeysListed { keys, reply }];
                self.commit(Vec::new(), &Cause::meshd(), effects).await
            }
            KeyMessage::Witnessed { origin, reply } => {
                let witnessed = self.partition.state().keys().witnessed(&origin).cloned();
                let effects = vec![Effect::WitnessedShown { witnessed, reply }];
                self.commit(Vec::new(), &Cause::meshd(), effects).await
            }
            KeyMessage::Witness {
                by,
                origin,
                old,
                new,
                reply,
            } => match self.partition.state().keys().witness(&origin, old, &new) {
                Ok(event) => self.revoke(&by, event.into_iter().collect(), reply).await,
                Err(refusal) => {
                    answer(reply, Err(not_witnessed(&refusal)));
                    Ok(())
                }
            },
            KeyMessage::Knows { new, reply } => {
                let known = self.partition.state().keys().known_successor(&new);
                let known = known.transpose().map(|known| known.is_some());
                let known = known.map_err(|refusal| not_witnessed(&refusal));
                let effects = vec![Effect::SuccessionShown { known, reply }];
                self.commit(Vec::new(), &Cause::meshd(), effects).await
            }
            KeyMessage::Succeed {
                by,
                old,
                new,
                reply,
            } => {
                let decided = self.partition.state().keys().succeed(old, new);
                let problem = match decided {
                    Ok(event) => match event.as_ref().map_or(Ok(()), |_| self.writable()) {
                        Ok(()) => {
                            let events = event.into_iter().collect();
                            let effects = vec![Effect::Succeeded { reply }];
                            return self.commit(events, &by, effects).await;
                        }
                        Err(problem) => problem,
                    },
                    Err(refusal) => not_witnessed(&refusal),
                };
                answer(reply, Err(problem));
                Ok(())
            }
            KeyMessage::Rotated {
                by,
                successions,
                reason,
                reply,
            } => {
                self.record_rotations(&by, successions, &reason, reply)
                    .await
            }
        }
    }

    /// Records what the log's own file says, also on a disk that takes no new work: it has happened.
    async fn record_rotations(
        &mut self,
        by: &Cause,
        successions: Vec<Succession>,
        reason: &str,
        reply: Reply<u64>,
    ) -> Result<(), ActorProcessingErr> {
        let state = self.partition.state();
        let known = state.keys().rotations();
        let new: Vec<_> = successions
            .into_iter()
            .filter(|one| one.number > known)
            .collect();
        let ended = if new.iter().any(|one| one.compromised) {
            state.resting_on_keys().len() as u64
        } else {
            0
        };
        let event = |one: Succession| SentinelEvent::KeyRotated {
            number: one.number,
            old: Box::new(one.old),
            new: Box::new(one.new),
            size: one.size,
            compromised: one.compromised,
            reason: reason.to_owned(),
            note: one.note,
        };
        let events = new.into_iter().map(event).collect();
        self.commit(events, by, vec![Effect::Rotated { ended, reply }])
            .await
    }

    async fn decided_key(
        &mut self,
        by: &Cause,
        key: &DidKey,
        decided: Result<Option<SentinelEvent>, KeyRefusal>,
        reply: Reply<KeyInfo>,
    ) -> Result<(), ActorProcessingErr> {
        let events: Vec<_> = match decided {
            Ok(event) => event.into_iter().collect(),
            Err(refusal) => {
                answer(reply, Err(refused(&refusal)));
                return Ok(());
            }
        };
        if !events.is_empty()
            && let Err(problem) = self.writable()
        {
            answer(reply, Err(problem));
            return Ok(());
        }
        let effects = vec![Effect::KeyChanged {
            key: Box::new(*key),
            reply,
        }];
        self.commit(events, by, effects).await
    }
}

impl SentinelHandle {
    /// The key of an agent, a user or whoever else signs under this owner's name. Never waits.
    #[must_use]
    pub fn key_of(&self, owner: &Address) -> Option<DidKey> {
        self.door
            .key_of(&mesh_actors_core::sentinel::owner_of(owner)?)
    }

    /// Whether a key is somebody's. Never waits.
    #[must_use]
    pub fn knows_key(&self, key: &DidKey) -> bool {
        self.door.knows_key(key)
    }

    /// The key that signs for another log whose owner is known here, if it holds. Never waits.
    #[must_use]
    pub fn log_key(&self, origin: &DidKey) -> Option<DidKey> {
        self.door.log_key(origin)
    }

    /// Whether it is known here that another key signs for another log.
    ///
    /// # Errors
    /// `bad_succession` when another one is known, or it is not the next; that the sentinel is not there.
    pub async fn knows_succession(&self, new: &LogSuccession) -> Result<bool, Problem> {
        let new = new.clone();
        self.ask_key(|reply| KeyMessage::Knows { new, reply })
            .await?
    }

    /// Remembers that another key signs for another log; answers when that is durable. `old` is where its proof began.
    ///
    /// # Errors
    /// `witness_conflict`, `bad_succession`, `too_many_logs`, or that it cannot be written now.
    pub async fn succeed(&self, by: &str, old: u64, new: LogSuccession) -> Result<(), Problem> {
        let by = Cause::by(by);
        self.ask_key(|reply| KeyMessage::Succeed {
            by,
            old,
            new,
            reply,
        })
        .await?
    }

    /// Puts on record which keys took over for this node's own log, as far as they are not yet; answers, when that is durable,
    /// how many tokens ended with it.
    ///
    /// # Errors
    /// That it cannot be written now.
    pub async fn record_rotations(
        &self,
        by: &str,
        successions: Vec<Succession>,
        reason: String,
    ) -> Result<u64, Problem> {
        let by = Cause::by(by);
        self.ask_key(|reply| KeyMessage::Rotated {
            by,
            successions,
            reason,
            reply,
        })
        .await?
    }

    /// Registers a key as somebody's; the one before it does not hold any more.
    ///
    /// # Errors
    /// `invalid_owner`, `key_used`, `too_many_keys`, or that it cannot be written now.
    pub async fn register_key(
        &self,
        by: &str,
        key: DidKey,
        owner: Address,
    ) -> Result<KeyInfo, Problem> {
        let by = Cause::by(by);
        self.ask_key(|reply| KeyMessage::Register {
            by,
            key,
            owner,
            reply,
        })
        .await?
    }

    /// Revokes a key, for ever.
    ///
    /// # Errors
    /// `key_not_found`, `invalid_reason`, or that it cannot be written now.
    pub async fn revoke_key(
        &self,
        by: &str,
        key: DidKey,
        reason: String,
    ) -> Result<KeyInfo, Problem> {
        let by = Cause::by(by);
        self.ask_key(|reply| KeyMessage::Revoke {
            by,
            key,
            reason,
            reply,
        })
        .await?
    }

    /// All keys, those of the past included.
    ///
    /// # Errors
    /// That the sentinel is not there.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, Problem> {
        self.ask_key(|reply| KeyMessage::List { reply }).await
    }

    /// The last checkpoint of a log that this node co-signed.
    ///
    /// # Errors
    /// That the sentinel is not there.
    pub async fn witnessed(&self, origin: &str) -> Result<Option<Witnessed>, Problem> {
        let origin = origin.to_owned();
        self.ask_key(|reply| KeyMessage::Witnessed { origin, reply })
            .await
    }

    /// Remembers that a checkpoint is about to be co-signed; answers when that is durable.
    ///
    /// # Errors
    /// `witness_conflict`, `too_many_logs`, or that it cannot be written now.
    pub async fn witness(
        &self,
        by: &str,
        origin: &str,
        (old, new): (u64, Witnessed),
    ) -> Result<(), Problem> {
        let (by, origin) = (Cause::by(by), origin.to_owned());
        self.ask_key(|reply| KeyMessage::Witness {
            by,
            origin,
            old,
            new,
            reply,
        })
        .await?
    }

    async fn ask_key<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> KeyMessage,
    ) -> Result<T, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Key(Box::new(message(reply))))
            .await?)
    }
}

fn refused(refusal: &KeyRefusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        KeyRefusal::Owner(_) => Problem::invalid("invalid_owner", "owner", detail),
        KeyRefusal::Reason => Problem::invalid("invalid_reason", "reason", detail),
        KeyRefusal::Used { .. } => {
            Problem::new(ProblemKind::Conflict, "key_used", detail).field("key")
        }
        KeyRefusal::TooMany => Problem::new(ProblemKind::Conflict, "too_many_keys", detail),
        KeyRefusal::Unknown(_) => Problem::new(ProblemKind::NotFound, "key_not_found", detail),
    }
}

fn not_witnessed(refusal: &WitnessRefusal) -> Problem {
    let detail = refusal.to_string();
    let code = match refusal {
        WitnessRefusal::Conflict { .. } => "witness_conflict",
        WitnessRefusal::TooMany => "too_many_logs",
        WitnessRefusal::NotNext(_) => "bad_succession",
    };
    let kind = match refusal {
        WitnessRefusal::NotNext(_) => ProblemKind::Forbidden,
        WitnessRefusal::Conflict { .. } | WitnessRefusal::TooMany => ProblemKind::Conflict,
    };
    Problem::new(kind, code, detail)
}
