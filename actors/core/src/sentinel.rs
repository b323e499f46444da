//! Who may come in: the durable tokens, as a fold over [`SentinelEvent`]s, and what may be asked of them.
//!
//! Only digests are here. Secrets are made, split and compared by the shell, which owns randomness; what a role may do
//! is a table beside the operations it speaks of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use mesh_messages::events::SentinelEvent;
use mesh_messages::system::{Role, TokenInfo, TokenKind};
use mesh_messages::{AgentId, RecordHeader, Timestamp};

mod keys;

pub use keys::{
    KEYS_MAX, KeyRefusal, KeyRing, REASON_MAX, WITNESSED_MAX, WitnessRefusal, Witnessed, owner_of,
};

/// Tokens that are in force at once. People and agents hold a few each; ten thousand is a script gone wild.
pub const TOKENS_MAX: usize = 10_000;

/// Revoked tokens that are still listed, newest kept. The audit has them all.
const REVOKED_KEPT_MAX: usize = 1_000;

/// Blocks of one token that are revoked singly; one more revokes the token, for a list that forgot some would let them in.
pub const REVOKED_BLOCKS_MAX: usize = 1_000;

/// Longest subject: it is written into the header of every record that its bearer causes.
pub const SUBJECT_MAX: usize = 128;

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of its secret, hex.
    pub digest: String,
    /// Its role.
    pub role: Role,
    /// Its bearer.
    pub subject: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Whether it was made void.
    pub revoked: bool,
    /// Whether its holder can narrow it.
    #[serde(default)]
    pub attenuable: bool,
    /// Ids of blocks that void what was derived from them.
    #[serde(default)]
    pub revoked_blocks: BTreeSet<String>,
}

impl Token {
    /// Whether it opens anything at `now`. Its last millisecond is the one before `expires_at`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires_at.is_none_or(|end| now < end)
    }

    /// The bearer's name in the audit: `agent:<id>` for an agent, `user:<subject>` for everybody else.
    ///
    /// The prefix follows from the role, so no choice of subject makes a person look like an agent or like meshd.
    pub fn bearer(&self) -> String {
        match self.role {
            Role::Agent => format!("agent:{}", self.subject),
            Role::Viewer | Role::Operator | Role::Admin | Role::Publisher => {
                format!("user:{}", self.subject)
            }
        }
    }
}

/// A token to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its public id.
    pub id: String,
    /// SHA-256 of its secret, hex.
    pub digest: String,
    /// Its role.
    pub role: Role,
    /// Its bearer; the role's name when absent.
    pub subject: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Whether its holder can narrow it; `digest` is then that of its first block's signature.
    pub attenuable: bool,
}

/// Why a token is not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueRefusal {
    /// The subject cannot be written into the audit. Choose another.
    #[error("must be 1 to {SUBJECT_MAX} characters out of A-Z a-z 0-9 . _ @ + -")]
    Subject,
    /// An agent's token must say whose it is.
    #[error("a token of role agent needs an agent's id as its subject")]
    AgentSubject,
    /// It would be void from the start.
    #[error("the token would have expired before it is issued")]
    Expired,
    /// Revoke some first.
    #[error("{TOKENS_MAX} tokens are in force; revoke some first")]
    TooMany,
    /// Ids are random; draw another one.
    #[error("token {0} exists already")]
    Taken(String),
}

/// There is no such token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token {0} is not known")]
pub struct UnknownToken(pub String);

/// Every token that is in force, expired but not cleared, or recently revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentinelState {
    tokens: BTreeMap<String, Token>,
    // Invariant: exactly the revoked ones among `tokens`, in the order of their revocation.
    revoked: VecDeque<String>,
    #[serde(default)]
    keys: KeyRing,
}

impl SentinelState {
    /// Whose key is whose.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// A token by its public id.
    pub fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.get(id)
    }

    /// All of them by public id.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.tokens.iter().map(|(id, token)| (id.as_str(), token))
    }

    /// All of them as they are shown.
    pub fn list(&self) -> Vec<TokenInfo> {
        self.tokens()
            .map(|(id, token)| TokenInfo {
                id: id.to_owned(),
                role: token.role,
                subject: token.subject.clone(),
                expires: token.expires_at,
                revoked: token.revoked,
                attenuable: token.attenuable,
                kind: TokenKind::Issued,
                epoch: None,
            })
            .collect()
    }

    /// Decides on a new token. What has expired makes room when there is none.
    ///
    /// # Errors
    /// [`IssueRefusal`].
    pub fn issue(&self, now: Timestamp, new: NewToken) -> Result<Vec<SentinelEvent>, IssueRefusal> {
        let subject = match (new.subject, new.role) {
            (Some(subject), Role::Agent) => {
                AgentId::new(&subject).map_err(|_| IssueRefusal::AgentSubject)?;
                subject
            }
            (None, Role::Agent) => return Err(IssueRefusal::AgentSubject),
            (Some(subject), _) => check_subject(subject)?,
            (None, role) => role.name().to_owned(),
        };
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(IssueRefusal::Expired);
        }
        if self.tokens.contains_key(&new.id) {
            return Err(IssueRefusal::Taken(new.id));
        }
        let mut events = Vec::new();
        let held = self.tokens.len() - self.revoked.len();
        if held >= TOKENS_MAX {
            events.extend(self.expired(now));
            if held - events.len() >= TOKENS_MAX {
                return Err(IssueRefusal::TooMany);
            }
        }
        events.push(SentinelEvent::TokenIssued {
            id: new.id,
            digest: new.digest,
            role: new.role.name().to_owned(),
            subject,
            expires_at: new.expires_at,
            attenuable: new.attenuable,
        });
        Ok(events)
    }

    fn expired(&self, now: Timestamp) -> impl Iterator<Item = SentinelEvent> {
        self.tokens
            .iter()
            .filter(move |(_, token)| !token.revoked && !token.is_valid(now))
            .map(|(id, _)| SentinelEvent::TokenRevoked { id: id.clone() })
    }

    /// Decides on a revocation; a token that is void already needs no event.
    ///
    /// # Errors
    /// [`UnknownToken`].
    pub fn revoke(&self, id: &str) -> Result<Option<SentinelEvent>, UnknownToken> {
        if let Some((root, block)) = id.split_once('.') {
            return self.revoke_block(id, root, block);
        }
        let token = self
            .tokens
            .get(id)
            .ok_or_else(|| UnknownToken(id.to_owned()))?;
        Ok((!token.revoked).then(|| SentinelEvent::TokenRevoked { id: id.to_owned() }))
    }

    /// The same for what was derived from one block of a token. The block itself was never shown here, so any that could
    /// be one of the token's is taken.
    fn revoke_block(
        &self,
        id: &str,
        root: &str,
        block: &str,
    ) -> Result<Option<SentinelEvent>, UnknownToken> {
        let hex = block.len() == 16
            && block
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let token = self
            .tokens
            .get(root)
            .filter(|token| token.attenuable && hex);
        let token = token.ok_or_else(|| UnknownToken(id.to_owned()))?;
        if token.revoked || token.revoked_blocks.contains(id) {
            return Ok(None);
        }
        let full = token.revoked_blocks.len() >= REVOKED_BLOCKS_MAX;
        let id = if full { root } else { id }.to_owned();
        Ok(Some(SentinelEvent::TokenRevoked { id }))
    }

    /// The tokens in force that rest on a signature of the node's: those that can be narrowed. They end with a key that is in
    /// wrong hands.
    pub fn resting_on_keys(&self) -> Vec<String> {
        self.tokens
            .iter()
            .filter(|(_, token)| token.attenuable && !token.revoked)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Makes void every token that an agent was given.
    pub fn revoke_agent(&self, agent: &AgentId) -> Vec<SentinelEvent> {
        self.tokens
            .iter()
            .filter(|(_, t)| t.role == Role::Agent && t.subject == agent.as_str() && !t.revoked)
            .map(|(id, _)| SentinelEvent::TokenRevoked { id: id.clone() })
            .collect()
    }

    /// Takes an event in.
    pub fn apply(&mut self, header: &RecordHeader, event: &SentinelEvent) {
        self.keys.apply(header.time, event);
        match event {
            SentinelEvent::TokenIssued {
                id,
                digest,
                role,
                subject,
                expires_at,
                attenuable,
            } => {
                // A role that this version does not know gets the least that there is.
                let role = role.parse().unwrap_or(Role::Viewer);
                let token = Token {
                    digest: digest.clone(),
                    role,
                    subject: subject.clone(),
                    expires_at: *expires_at,
                    revoked: false,
                    attenuable: *attenuable,
                    revoked_blocks: BTreeSet::new(),
                };
                self.tokens.insert(id.clone(), token);
            }
            SentinelEvent::TokenRevoked { id } => match id.split_once('.') {
                Some((root, _)) => {
                    if let Some(token) = self.tokens.get_mut(root) {
                        token.revoked_blocks.insert(id.clone());
                    }
                }
                None => self.revoked(id),
            },
            SentinelEvent::KeyRotated { compromised, .. } => {
                if *compromised {
                    for id in self.resting_on_keys() {
                        self.revoked(&id);
                    }
                }
            }
            // The audit is the log itself; nothing is decided by what was allowed or denied before.
            SentinelEvent::KeyRegistered { .. }
            | SentinelEvent::KeyRevoked { .. }
            | SentinelEvent::CheckpointWitnessed { .. }
            | SentinelEvent::SuccessionWitnessed(_)
            | SentinelEvent::Allowed { .. }
            | SentinelEvent::Denied { .. }
            | SentinelEvent::Refused { .. }
            | SentinelEvent::CallAnnounced(_)
            | SentinelEvent::CallEnded(_)
            | SentinelEvent::Counted(_)
            | SentinelEvent::Granted(_)
            | SentinelEvent::SessionRevoked { .. }
            | SentinelEvent::EgressDenied(_)
            | SentinelEvent::ChaosStruck { .. } => {}
        }
    }

    fn revoked(&mut self, id: &str) {
        let Some(token) = self.tokens.get_mut(id).filter(|token| !token.revoked) else {
            return;
        };
        token.revoked = true;
        self.revoked.push_back(id.to_owned());
        if self.revoked.len() > REVOKED_KEPT_MAX
            && let Some(oldest) = self.revoked.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}

fn check_subject(subject: String) -> Result<String, IssueRefusal> {
    let ok = (1..=SUBJECT_MAX).contains(&subject.len())
        && subject
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'+' | b'-'));
    if ok {
        Ok(subject)
    } else {
        Err(IssueRefusal::Subject)
    }
}

#[cfg(test)]
mod tests;
