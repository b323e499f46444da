//! What the sentinel does with each message.

use ractor::{ActorProcessingErr, RpcReplyPort};
use zeroize::Zeroizing;

use mesh_actors_core::sentinel::{IssueRefusal, NewToken, UnknownToken};
use mesh_messages::capability::{Capability, Root};
use mesh_messages::chaos::ChaosBlow;
use mesh_messages::events::SentinelEvent;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{IssuedToken, Role, TokenOrder};
use mesh_messages::{AgentId, Position, Timestamp};

use super::door::count;
use super::{Effect, Reply, State, token};
use crate::clock;
use crate::partition::{Cause, Entry, Led};

impl State {
    pub(super) async fn issue(
        &mut self,
        by: &Cause,
        order: TokenOrder,
        reply: Reply<IssuedToken>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer(reply, Err(problem));
            return Ok(());
        }
        let fresh = match token::generate() {
            Ok(fresh) => fresh,
            Err(error) => {
                answer(reply, Err(no_randomness(error)));
                return Ok(());
            }
        };
        let TokenOrder {
            role,
            subject,
            ttl,
            attenuable,
        } = order;
        let now = clock::now();
        let expires_at = ttl.map(|ttl| now.plus(ttl));
        let (text, digest) = if attenuable {
            let bearer = subject.clone().unwrap_or_else(|| role.name().to_owned());
            match self.chain((&fresh.id, role, bearer, expires_at)) {
                Ok(made) => made,
                Err(problem) => {
                    answer(reply, Err(problem));
                    return Ok(());
                }
            }
        } else {
            (fresh.text, fresh.digest.to_hex())
        };
        let new = NewToken {
            id: fresh.id.clone(),
            digest,
            role,
            subject,
            expires_at,
            attenuable,
        };
        match self.partition.state().issue(now, new) {
            Ok(events) => {
                let token = IssuedToken {
                    id: fresh.id,
                    token: text.to_string(),
                    role,
                    expires: expires_at,
                };
                let effects = vec![Effect::Issued { token, reply }];
                self.commit(events, by, effects).await
            }
            Err(refusal) => {
                answer(reply, Err(not_issued(&refusal)));
                Ok(())
            }
        }
    }

    /// The text of a token that can be narrowed, and what is kept of it.
    fn chain(
        &self,
        (id, role, subject, expires): (&str, Role, String, Option<Timestamp>),
    ) -> Result<(Zeroizing<String>, String), Problem> {
        let Some(node) = &self.handle.signer else {
            return Err(Problem::internal(
                "this node has no key to sign tokens with",
            ));
        };
        let signer = node.signer();
        let key = signer.secret();
        let root = Root {
            mesh: key.public(),
            id: id.to_owned(),
            role,
            subject,
            expires,
        };
        let mut next = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *next).map_err(no_randomness)?;
        let token = Capability::issue(key, &root, &next);
        let proven = token.verify(&root.mesh);
        let proven = proven.map_err(|error| Problem::internal(error.to_string()))?;
        Ok((token.text(), proven.digest))
    }

    pub(super) async fn revoke(
        &mut self,
        by: &Cause,
        events: Vec<SentinelEvent>,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        if !events.is_empty()
            && let Err(problem) = self.writable()
        {
            answer(reply, Err(problem));
            return Ok(());
        }
        self.commit(events, by, vec![Effect::Done { reply }]).await
    }

    pub(super) async fn audit(
        &mut self,
        event: SentinelEvent,
        (led_by, correlation): (Option<Position>, Option<String>),
        reply: Option<Reply<Option<Position>>>,
    ) -> Result<(), ActorProcessingErr> {
        let mut cause = match &event {
            SentinelEvent::Allowed { user, .. }
            | SentinelEvent::Denied { user, .. }
            | SentinelEvent::Refused { user, .. } => Cause::by(user.clone()),
            SentinelEvent::EgressDenied(denial) => Cause::by(denial.agent.to_string()),
            SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call) => {
                Cause::by(format!("agent:{}", call.agent))
            }
            SentinelEvent::ChaosStruck { .. }
            | SentinelEvent::Counted(_)
            | SentinelEvent::Granted(_)
            | SentinelEvent::SessionRevoked { .. }
            | SentinelEvent::KeyRegistered { .. }
            | SentinelEvent::KeyRevoked { .. }
            | SentinelEvent::CheckpointWitnessed { .. }
            | SentinelEvent::KeyRotated { .. }
            | SentinelEvent::SuccessionWitnessed(_)
            | SentinelEvent::TokenIssued { .. }
            | SentinelEvent::TokenRevoked { .. } => return Ok(()),
        };
        (cause.cause, cause.correlation) = (led_by, correlation);
        let written = match self.writable() {
            Ok(()) => {
                self.commit(vec![event], &cause, Vec::new()).await?;
                // The log becomes durable in order: what this allows cannot survive without this record.
                Ok(self.partition.last())
            }
            Err(problem) => {
                count(&self.handle.door.counts.unrecorded);
                // It is told when there is room again.
                self.handle.door.note_untold(&event);
                Err(problem)
            }
        };
        if let Some(reply) = reply {
            answer(reply, written);
        }
        Ok(())
    }

    /// Records a blow; answers when it is durable, for a blow may end meshd's own parts.
    pub(super) async fn record_blow(
        &mut self,
        user: String,
        blow: Box<ChaosBlow>,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer(reply, Err(problem));
            return Ok(());
        }
        let cause = Cause::by(user.clone());
        let entry = Entry {
            agent: blow.target.agent.clone(),
            task: None,
            event: SentinelEvent::ChaosStruck { user, blow },
            led: Led::default(),
        };
        let effects = vec![Effect::Done { reply }];
        self.partition.commit(vec![entry], &cause, effects).await?;
        Ok(())
    }

    pub(super) fn writable(&self) -> Result<(), Problem> {
        let admitted = self.partition.journal().admission();
        admitted.map_err(|error| Problem::unavailable("read_only", error.to_string()))
    }

    pub(super) async fn commit(
        &mut self,
        events: Vec<SentinelEvent>,
        cause: &Cause,
        effects: Vec<Effect>,
    ) -> Result<(), ActorProcessingErr> {
        for event in &events {
            // Before it is durable: closing the door early harms nobody.
            match event {
                SentinelEvent::TokenRevoked { id } => self.handle.door.expel(id),
                SentinelEvent::SessionRevoked { id, .. } => self.handle.door.expel_session(id),
                SentinelEvent::KeyRevoked { key, .. } => self.handle.door.expel_key(key),
                SentinelEvent::KeyRotated {
                    compromised: true, ..
                } => self.handle.door.expel_resting_on_keys(),
                SentinelEvent::SuccessionWitnessed(new) => self.handle.door.expel_key(&new.old),
                _ => {}
            }
        }
        let entry = |event| Entry {
            agent: concerned(&event),
            task: match &event {
                SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call) => {
                    call.task.clone()
                }
                _ => None,
            },
            event,
            led: Led::default(),
        };
        let entries = events.into_iter().map(entry).collect();
        self.partition.commit(entries, cause, effects).await?;
        Ok(())
    }

    pub(super) fn release(&mut self) {
        for effect in self.partition.released(self.durable) {
            match effect {
                Effect::Issued { token, reply } => {
                    if let Some(kept) = self.partition.state().token(&token.id) {
                        self.handle.door.admit(&token.id, kept);
                    }
                    answer(reply, Ok(token));
                }
                Effect::Done { reply } => answer(reply, Ok(())),
                Effect::Listed { tokens, reply } => answer(reply, tokens),
                Effect::KeyChanged { key, reply } => {
                    let ring = self.partition.state().keys();
                    self.handle.door.hold_keys(ring);
                    let info = ring.info(&key);
                    answer(
                        reply,
                        info.ok_or_else(|| Problem::internal("the key is gone")),
                    );
                }
                Effect::SuccessionShown { known, reply } => answer(reply, known),
                Effect::Succeeded { reply } => {
                    self.handle.door.hold_keys(self.partition.state().keys());
                    answer(reply, Ok(()));
                }
                Effect::Rotated { ended, reply } => answer(reply, Ok(ended)),
                Effect::KeysListed { keys, reply } => answer(reply, keys),
                Effect::WitnessedShown { witnessed, reply } => answer(reply, witnessed),
            }
        }
        self.partition.snapshot_when_due(self.durable);
    }
}

/// Answers a caller; one that does not wait any more need not be told.
pub(super) fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

fn not_issued(refusal: &IssueRefusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        IssueRefusal::Subject | IssueRefusal::AgentSubject => {
            Problem::invalid("invalid_subject", "subject", detail)
        }
        IssueRefusal::Expired => Problem::invalid("invalid_ttl", "ttl", detail),
        IssueRefusal::TooMany => Problem::new(ProblemKind::Conflict, "too_many_tokens", detail),
        // Two random ids of 64 bits met.
        IssueRefusal::Taken(_) => Problem::unavailable("try_again", detail),
    }
}

pub(super) fn not_found(unknown: &UnknownToken) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        "token_not_found",
        unknown.to_string(),
    )
}

pub(super) fn no_randomness(error: getrandom::Error) -> Problem {
    Problem::unavailable(
        "no_randomness",
        format!("the system gives no randomness: {error}"),
    )
}

/// The agent whose history a record belongs to: one that was not let out, or whose line was refused.
fn concerned(event: &SentinelEvent) -> Option<AgentId> {
    match event {
        SentinelEvent::EgressDenied(denial) => Some(denial.agent.clone()),
        SentinelEvent::SessionRevoked { agent, .. } => Some(agent.clone()),
        SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call) => {
            Some(call.agent.clone())
        }
        SentinelEvent::Denied { user, .. } | SentinelEvent::Refused { user, .. } => {
            AgentId::new(user.strip_prefix("agent:")?).ok()
        }
        _ => None,
    }
}
