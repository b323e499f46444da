//! What decides at the door, without asking the actor: digests of durable tokens, tokens of running agents, rates.
//!
//! It outlives the actor's incarnations, so that callers are known while the actor is being restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use zeroize::Zeroizing;

use mesh_actors_core::access::limits::is_over;
use mesh_actors_core::sentinel::{KeyRing, SentinelState, Token};
use mesh_messages::agent::REPLICAS_MAX;
use mesh_messages::capability::Capability;
use mesh_messages::identity::DidKey;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role, TokenInfo, TokenKind};
use mesh_messages::{AgentId, Epoch, Timestamp};
use mesh_persistence::LogKeys;

use super::accesses::Accesses;
use super::refusals::Counted;
use super::token::{self, SecretDigest};
use crate::clock;

/// Session tokens of one agent: the last two of each replica and incarnation that still runs.
const SESSIONS_PER_AGENT_MAX: usize = 2 * REPLICAS_MAX as usize;

/// Tokens of one incarnation that open something at a time: the last, and the one before, for what is under way with it.
const SESSIONS_PER_INCARNATION_MAX: usize = 2;

/// Refusals of one caller that are journalled: a sweep over every verb there is is on record whole, and what follows must not
/// fill the disk. They are counted, all of them, and the counts are on record.
const DENIALS_PER_CALLER: Quota = Quota::per_second(ONE).allow_burst(SWEEP);
/// The same for callers who could not say who they are, all together.
const DENIALS_OF_STRANGERS: Quota = Quota::per_minute(TWENTY).allow_burst(TWENTY);
/// Calls of one agent that are journalled, each of them twice: an agent that thinks calls a few times a second.
const CALLS_PER_AGENT: Quota = Quota::per_second(TEN).allow_burst(HUNDRED);
const TEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const HUNDRED: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const ONE: NonZeroU32 = NonZeroU32::MIN;
const SWEEP: NonZeroU32 = NonZeroU32::MIN.saturating_add(255);
const TWENTY: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// What a token opens.
#[derive(Debug, Clone)]
struct Pass {
    digest: SecretDigest,
    caller: String,
    role: Role,
    expires_at: Option<Timestamp>,
    // Of a token that can be narrowed, the digest is that of its first block's signature, and no secret.
    attenuable: bool,
    revoked_blocks: BTreeSet<String>,
}

#[derive(Debug)]
struct Session {
    agent: AgentId,
    epoch: Epoch,
    pass: Pass,
}

#[derive(Debug, Default)]
struct Passes {
    tokens: BTreeMap<String, Pass>,
    sessions: BTreeMap<String, Session>,
    // By owner.
    keys: BTreeMap<String, DidKey>,
    // Who signs for logs whose first key does not any more.
    logs: BTreeMap<String, DidKey>,
}

impl Passes {
    /// Closes the oldest of some sessions, when there are as many as there may be.
    fn make_room(&mut self, most: usize, among: impl Fn(&Session) -> bool) {
        let some = self.sessions.iter().filter(|(_, s)| among(s));
        let oldest = some
            .clone()
            .min_by_key(|(_, s)| (s.epoch, s.pass.expires_at))
            .map(|(id, _)| id.clone());
        if some.count() >= most
            && let Some(oldest) = oldest
        {
            self.sessions.remove(&oldest);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    passes: RwLock<Passes>,
    requests: DefaultKeyedRateLimiter<String>,
    denials: DefaultKeyedRateLimiter<String>,
    strangers: DefaultDirectRateLimiter,
    calls: DefaultKeyedRateLimiter<String>,
    counted: Mutex<Counted>,
    accesses: Mutex<Accesses>,
    pub(super) counts: Counts,
}

/// What was refused since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) unauthenticated: AtomicU64,
    pub(super) forbidden: AtomicU64,
    pub(super) rate_limited: AtomicU64,
    pub(super) unrecorded: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A token was not accepted. Who asked learns no more than that; the audit learns what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejected {
    /// The bearer of the token that was meant, when there is one.
    pub(super) claimed: Option<String>,
}

impl Door {
    pub(super) fn new(requests: Quota) -> Self {
        Self {
            passes: RwLock::default(),
            requests: RateLimiter::keyed(requests),
            denials: RateLimiter::keyed(DENIALS_PER_CALLER),
            strangers: RateLimiter::direct(DENIALS_OF_STRANGERS),
            calls: RateLimiter::keyed(CALLS_PER_AGENT),
            counted: Mutex::default(),
            accesses: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Replaces the durable tokens by those of a state that was just loaded.
    pub(super) fn load(&self, state: &SentinelState) {
        let tokens = state
            .tokens()
            .filter_map(|(id, t)| Some((id.to_owned(), pass(t)?)))
            .collect();
        self.write().tokens = tokens;
        self.hold_keys(state.keys());
    }

    /// Replaces the keys by those that hold: they are durable.
    pub(super) fn hold_keys(&self, ring: &KeyRing) {
        let keys = ring.current().map(|(owner, key)| (owner.to_owned(), key));
        let logs = ring
            .succeeded_logs()
            .map(|(log, key)| (log.to_owned(), key));
        let (keys, logs) = (keys.collect(), logs.collect());
        let mut passes = self.write();
        (passes.keys, passes.logs) = (keys, logs);
    }

    /// A key holds no more.
    pub(super) fn expel_key(&self, key: &DidKey) {
        self.write().keys.retain(|_, known| known != key);
    }

    /// The key of an owner.
    pub(super) fn key_of(&self, owner: &str) -> Option<DidKey> {
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        passes.keys.get(owner).copied()
    }

    /// The key that signs for another log, if it holds: the log's name where no other took over.
    pub(super) fn log_key(&self, origin: &DidKey) -> Option<DidKey> {
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        let key = passes.logs.get(&origin.to_string()).unwrap_or(origin);
        passes
            .keys
            .values()
            .any(|known| known == key)
            .then_some(*key)
    }

    /// Lets no token in any more that rests on a signature of this node's.
    pub(super) fn expel_resting_on_keys(&self) {
        self.write().tokens.retain(|_, pass| !pass.attenuable);
    }

    /// Whether a key is somebody's.
    pub(super) fn knows_key(&self, key: &DidKey) -> bool {
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        passes.keys.values().any(|known| known == key)
    }

    /// Lets a token in: it is durable.
    pub(super) fn admit(&self, id: &str, token: &Token) {
        if let Some(pass) = pass(token) {
            self.write().tokens.insert(id.to_owned(), pass);
        }
        self.forget_idle();
    }

    /// Lets a token in no more.
    pub(super) fn expel(&self, id: &str) {
        match id.split_once('.') {
            Some((root, _)) => {
                if let Some(pass) = self.write().tokens.get_mut(root) {
                    pass.revoked_blocks.insert(id.to_owned());
                }
            }
            None => {
                self.write().tokens.remove(id);
            }
        }
        self.forget_idle();
    }

    /// Lets an incarnation of an agent in, until this moment, or until it is [expelled](Door::expel_sessions).
    pub(super) fn open_session(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        until: Timestamp,
    ) -> Result<Zeroizing<String>, getrandom::Error> {
        let fresh = token::generate()?;
        let pass = Pass {
            digest: fresh.digest,
            caller: format!("agent:{agent}"),
            role: Role::Agent,
            expires_at: Some(until),
            attenuable: false,
            revoked_blocks: BTreeSet::new(),
        };
        let mut passes = self.write();
        passes.make_room(SESSIONS_PER_INCARNATION_MAX, |s| {
            s.agent == *agent && s.epoch == epoch
        });
        passes.make_room(SESSIONS_PER_AGENT_MAX, |s| s.agent == *agent);
        passes.sessions.insert(
            fresh.id,
            Session {
                agent: agent.clone(),
                epoch,
                pass,
            },
        );
        Ok(fresh.text)
    }

    /// Lets an agent in no more: all of its incarnations, or one.
    pub(super) fn expel_sessions(&self, agent: &AgentId, epoch: Option<Epoch>) {
        self.write()
            .sessions
            .retain(|_, s| s.agent != *agent || epoch.is_some_and(|epoch| epoch != s.epoch));
    }

    /// Lets one token of an incarnation in no more.
    pub(super) fn expel_session(&self, id: &str) {
        self.write().sessions.remove(id);
    }

    /// Which incarnation was given this token, while it is valid.
    pub(super) fn session(&self, id: &str) -> Option<(AgentId, Epoch)> {
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        let session = passes.sessions.get(id)?;
        Some((session.agent.clone(), session.epoch))
    }

    /// The tokens of incarnations that are valid now, as they are listed.
    pub(super) fn sessions(&self, now: Timestamp) -> Vec<TokenInfo> {
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        let valid = passes.sessions.iter();
        let valid = valid.filter(|(_, s)| s.pass.expires_at.is_none_or(|end| now < end));
        valid
            .map(|(id, session)| TokenInfo {
                id: id.clone(),
                role: session.pass.role,
                subject: session.agent.to_string(),
                expires: session.pass.expires_at,
                revoked: false,
                attenuable: false,
                kind: TokenKind::Session,
                epoch: Some(session.epoch),
            })
            .collect()
    }

    /// What was looked at and has no record yet.
    pub(super) fn accesses(&self) -> MutexGuard<'_, Accesses> {
        self.accesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose token this is.
    pub(super) fn identify(
        &self,
        text: &str,
        loopback: bool,
        now: Timestamp,
    ) -> Result<Caller, Rejected> {
        let (id, digest) = token::split(text).ok_or(Rejected { claimed: None })?;
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        let pass = passes
            .tokens
            .get(id)
            .or_else(|| passes.sessions.get(id).map(|session| &session.pass))
            .ok_or(Rejected { claimed: None })?;
        let valid = pass.digest.matches(&digest) & pass.expires_at.is_none_or(|end| now < end);
        if !valid || pass.attenuable {
            return Err(Rejected {
                claimed: Some(pass.caller.clone()),
            });
        }
        Ok(Caller {
            name: pass.caller.clone(),
            role: pass.role,
            loopback,
            narrowed: Vec::new(),
        })
    }

    /// The same for a token that its holder may have narrowed: its signatures lead to this node, and nothing that it was
    /// derived from is over.
    pub(super) fn identify_capability(
        &self,
        text: &str,
        loopback: bool,
        now: Timestamp,
        keys: &LogKeys,
    ) -> Result<Caller, Rejected> {
        let unknown = |_| Rejected { claimed: None };
        let token = Capability::read(text).map_err(unknown)?;
        // Whichever of this node's keys was in force when it was issued; those that rest on a stolen one are void by now.
        let issuer = token.claimed_mesh().filter(|key| keys.knows(key));
        let issuer = issuer.ok_or(Rejected { claimed: None })?;
        let proven = token.verify(&issuer).map_err(unknown)?;
        let passes = self.passes.read().unwrap_or_else(PoisonError::into_inner);
        let pass = passes.tokens.get(&proven.root.id);
        let pass = pass.filter(|pass| pass.attenuable);
        let pass = pass.ok_or(Rejected { claimed: None })?;
        let known = SecretDigest::from_hex(&proven.digest).is_some_and(|d| pass.digest.matches(&d));
        let over = pass.expires_at.is_some_and(|end| now >= end)
            || proven.narrowed.iter().any(|block| {
                is_over(&block.limits, now) || pass.revoked_blocks.contains(&block.id)
            });
        if !known || over {
            return Err(Rejected {
                claimed: Some(pass.caller.clone()),
            });
        }
        Ok(Caller {
            name: pass.caller.clone(),
            role: pass.role,
            loopback,
            narrowed: proven.narrowed,
        })
    }

    /// Charges one request to a caller.
    pub(super) fn charge(&self, caller: &str) -> Result<(), Problem> {
        let Err(early) = self.requests.check_key(&caller.to_owned()) else {
            return Ok(());
        };
        count(&self.counts.rate_limited);
        self.note_refusal(caller, "request", "rate_limited");
        let wait = early.wait_time_from(DefaultClock::default().now());
        let seconds = u32::try_from(wait.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let detail = format!("too many requests; try again in {seconds} s");
        Err(Problem::new(ProblemKind::RateLimited, "rate_limited", detail).retry_after(seconds))
    }

    /// Whether one more refusal is worth a record; `None` stands for callers who are not known.
    pub(super) fn is_worth_recording(&self, caller: Option<&str>) -> bool {
        let worth = match caller {
            Some(caller) => self.denials.check_key(&caller.to_owned()).is_ok(),
            None => self.strangers.check().is_ok(),
        };
        if !worth {
            count(&self.counts.unrecorded);
        }
        worth
    }

    /// Whether one more call of an agent gets a record.
    pub(super) fn is_call_worth_recording(&self, agent: &AgentId) -> bool {
        self.calls.check_key(&agent.to_string()).is_ok()
    }

    /// One more refusal that gets no record of its own.
    pub(super) fn note_refusal(&self, user: &str, action: &str, code: &str) {
        self.counted().note(user, action, code, clock::now());
    }

    /// The refusals that have no record of their own yet.
    pub(super) fn counted(&self) -> MutexGuard<'_, Counted> {
        // A count that a panic elsewhere left is a count all the same.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the rates of those who have been quiet. Names come with tokens, so this is when their number changes.
    fn forget_idle(&self) {
        self.requests.retain_recent();
        self.denials.retain_recent();
        self.calls.retain_recent();
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Passes> {
        // Each change is a single insertion or removal, so a panic elsewhere leaves nothing half done.
        self.passes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a durable token opens; nothing once it is revoked, or when its record is not one that this version wrote.
fn pass(token: &Token) -> Option<Pass> {
    let digest = SecretDigest::from_hex(&token.digest).filter(|_| !token.revoked)?;
    Some(Pass {
        digest,
        caller: token.bearer(),
        role: token.role,
        expires_at: token.expires_at,
        attenuable: token.attenuable,
        revoked_blocks: token.revoked_blocks.clone(),
    })
}
