//! The only way to the sentinel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use mesh_messages::capability::CAPABILITY_PREFIX;
use mesh_messages::certificate::{Credentials, KnownCertificate};
use mesh_messages::chaos::ChaosBlow;
use mesh_messages::events::{EgressDenial, SentinelEvent};
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, IssuedToken, Role, TokenInfo, TokenOrder};
use mesh_messages::{AgentId, Epoch, Position, Timestamp};

use super::certificates::Certificates;
use super::door::{Door, count};
use super::state::no_randomness;
use super::{Message, SentinelSettings};
use crate::clock;
use crate::context::NodeIdentity;
use crate::partition::Cause;
use crate::slot::Slot;

/// How long a caller waits for the sentinel: a restart of it and a slow disk fit in.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Longest resource in a record; it can come from a URL, and whoever is refused chose it.
const RESOURCE_CHARS_MAX: usize = 256;

/// What refusals are counted as that have no record of their own: of callers who may not, and of strangers.
pub(super) const DENIED: &str = "forbidden";
pub(super) const UNKNOWN: &str = "unauthenticated";
/// What whoever is not known wanted.
pub(super) const AUTHENTICATE: &str = "authenticate";

/// The only way to talk to the sentinel. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SentinelHandle {
    pub(super) slot: Slot<Message>,
    pub(super) door: Arc<Door>,
    pub(super) audit_all_actions: bool,
    pub(super) policy: Arc<ArcSwap<PolicyDocument>>,
    // Signs tokens that can be narrowed; without it there are none.
    pub(super) signer: Option<Arc<NodeIdentity>>,
    certificates: Arc<ArcSwap<Certificates>>,
}

impl SentinelHandle {
    /// A handle of a sentinel that is yet to be started.
    #[must_use]
    pub fn new(settings: SentinelSettings) -> Self {
        Self {
            slot: Slot::new("sentinel"),
            door: Arc::new(Door::new(settings.requests)),
            audit_all_actions: settings.audit_all_actions,
            policy: Arc::default(),
            signer: None,
            certificates: Arc::default(),
        }
    }

    /// The same, which goes by the operator's rules on access, too, as they are from time to time.
    #[must_use]
    pub fn with_policy(self, policy: Arc<ArcSwap<PolicyDocument>>) -> Self {
        Self { policy, ..self }
    }

    /// The same, with the node's keys, by which it issues and knows tokens that their holders can narrow.
    #[must_use]
    pub fn with_signer(self, node: Arc<NodeIdentity>) -> Self {
        let signer = Some(node);
        Self { signer, ..self }
    }

    /// The same, which knows these callers by their certificates.
    #[must_use]
    pub fn with_certificates(self, known: &[KnownCertificate]) -> Self {
        self.know_certificates(known);
        self
    }

    /// Knows these callers by their certificates from now on, and no others: the next request of a connection that is open
    /// is decided on by them, too.
    pub fn know_certificates(&self, known: &[KnownCertificate]) {
        self.certificates.store(Arc::new(Certificates::new(known)));
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.slot.restarts()
    }

    /// What was refused since the start, by kind.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        let counts = &self.door.counts;
        [
            ("unauthenticated", &counts.unauthenticated),
            ("forbidden", &counts.forbidden),
            ("rate_limited", &counts.rate_limited),
            ("denials_not_recorded", &counts.unrecorded),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .into()
    }

    /// Who presents this bearer token. Never waits.
    ///
    /// # Errors
    /// Always `Invalid authentication`, whatever is wrong.
    pub fn authenticate(&self, bearer: Option<&str>, loopback: bool) -> Result<Caller, Problem> {
        self.authenticate_by(Credentials {
            bearer,
            certificate: None,
            loopback,
            resource: "",
        })
    }

    /// Who presents this: a token decides alone, valid or not; a certificate does where there is none. Never waits.
    ///
    /// # Errors
    /// Always `Invalid authentication`, whatever is wrong.
    pub fn authenticate_by(&self, given: Credentials<'_>) -> Result<Caller, Problem> {
        let resource = given.resource;
        self.identify(given).map_err(|claimed| {
            count(&self.door.counts.unauthenticated);
            self.record_stranger(claimed, resource);
            invalid()
        })
    }

    /// Whose token somebody that is known brings within a message. A refusal is theirs, whoever the token claims to be of.
    /// Never waits.
    ///
    /// # Errors
    /// Always `Invalid authentication`, whatever is wrong.
    pub fn authenticate_within(&self, user: &str, bearer: Option<&str>) -> Result<Caller, Problem> {
        let given = Credentials {
            bearer,
            certificate: None,
            loopback: false,
            resource: "auth.token",
        };
        self.identify(given).map_err(|claimed| {
            count(&self.door.counts.unauthenticated);
            let reason = claimed.map_or_else(
                || "Invalid authentication".to_owned(),
                |owner| format!("Invalid authentication; the token claims to be of {owner}"),
            );
            self.record_denied(user, AUTHENTICATE, "auth.token", &reason);
            invalid()
        })
    }

    /// Who presents this; else who they claim to be.
    fn identify(&self, given: Credentials<'_>) -> Result<Caller, Option<String>> {
        let loopback = given.loopback;
        let identify = |text: &str| match &self.signer {
            Some(node) if text.starts_with(CAPABILITY_PREFIX) => {
                let (now, signer) = (clock::now(), node.signer());
                self.door
                    .identify_capability(text, loopback, now, signer.keys())
            }
            _ => self.door.identify(text, loopback, clock::now()),
        };
        let by_certificate = |names| {
            let known = self.certificates.load();
            known.identify(names, loopback, clock::now())
        };
        let identified = match given.bearer {
            Some(text) => Some(identify(text)),
            None => given.certificate.map(by_certificate),
        };
        match identified {
            Some(Ok(caller)) => Ok(caller),
            Some(Err(rejected)) => Err(rejected.claimed),
            None => Err(None),
        }
    }

    /// Audits a refusal. One more of a caller that was refused too often lately is counted with others.
    pub fn record_denied(&self, user: &str, action: &str, resource: &str, reason: &str) {
        self.record_denied_by(user, action, resource, (reason, None));
    }

    /// The same, and what it was that forbids it.
    pub(super) fn record_denied_by(
        &self,
        user: &str,
        action: &str,
        resource: &str,
        (reason, rule): (&str, Option<String>),
    ) {
        crate::request::denied();
        if self.door.is_worth_recording(Some(user)) {
            self.cast_audit(
                denied(user, action, resource, (reason, rule)),
                (user, action, DENIED),
            );
        } else {
            self.door.note_refusal(user, action, DENIED);
        }
    }

    /// Audits that an agent was not let out. Who calls sees to it that a flood becomes few records.
    pub fn record_egress(&self, denial: EgressDenial) {
        let event = SentinelEvent::EgressDenied(Box::new(denial));
        let message = Message::Audit {
            event: event.clone(),
            request: (None, None),
            reply: None,
        };
        if self.slot.cast(message).is_err() {
            // The refusal stands all the same.
            count(&self.door.counts.unrecorded);
            self.door.note_untold(&event);
        }
    }

    fn record_stranger(&self, claimed: Option<String>, resource: &str) {
        let action = AUTHENTICATE;
        crate::request::denied();
        if self.door.is_worth_recording(None) {
            let user = claimed.map_or_else(|| "anonymous".to_owned(), |name| format!("{name}?"));
            let event = denied(&user, action, resource, ("Invalid authentication", None));
            self.cast_audit(event, (&user, action, UNKNOWN));
        } else {
            // Whoever they claim to be is not counted against that one.
            self.door.note_refusal("anonymous", action, UNKNOWN);
        }
    }

    /// Puts a refusal on record, as something of the request that is served now; while the sentinel is being restarted it
    /// is counted instead.
    pub(super) fn cast_audit(
        &self,
        event: SentinelEvent,
        (user, action, code): (&str, &str, &str),
    ) {
        self.cast_for(crate::request::current(), event, (user, action, code));
    }

    /// The same for a request that is known by other means.
    pub(super) fn cast_for(
        &self,
        request: (Option<Position>, Option<String>),
        event: SentinelEvent,
        (user, action, code): (&str, &str, &str),
    ) {
        if self
            .slot
            .cast(Message::Audit {
                event,
                request,
                reply: None,
            })
            .is_err()
        {
            self.door.note_refusal(user, action, code);
        }
    }

    /// Audits that something was allowed; answers when the record stands in the log before all that follows.
    ///
    /// # Errors
    /// That it cannot be written now; then it must not be done.
    pub async fn record_allowed(
        &self,
        user: &str,
        action: &str,
        resource: &str,
    ) -> Result<(), Problem> {
        let event = SentinelEvent::Allowed {
            action: action.to_owned(),
            resource: cut(resource),
            user: user.to_owned(),
        };
        let request = (None, crate::request::current().1);
        let written: Result<Option<Position>, Problem> = self
            .slot
            .call(CALL_LIMIT, |reply| Message::Audit {
                event,
                request,
                reply: Some(reply),
            })
            .await
            .map_err(Problem::from)?;
        if let Some(position) = written? {
            crate::request::allowed_by(position);
        }
        Ok(())
    }

    /// Audits a blow before it falls; answers when the record is durable.
    ///
    /// # Errors
    /// That it cannot be written now; then the blow must not fall.
    pub async fn record_blow(&self, user: &str, blow: &ChaosBlow) -> Result<(), Problem> {
        let (user, blow) = (user.to_owned(), Box::new(blow.clone()));
        self.slot
            .call(CALL_LIMIT, |reply| Message::RecordBlow {
                user,
                blow,
                reply,
            })
            .await
            .map_err(Problem::from)?
    }

    /// Issues a token; answers when it is durable.
    ///
    /// # Errors
    /// `invalid_subject`, `invalid_ttl`, `too_many_tokens`, or that it cannot be written now.
    pub async fn issue(
        &self,
        by: &str,
        role: Role,
        subject: Option<String>,
        ttl: Option<Duration>,
    ) -> Result<IssuedToken, Problem> {
        let order = TokenOrder {
            role,
            subject,
            ttl,
            attenuable: false,
        };
        self.issue_order(by, order).await
    }

    /// The same for a token of any kind.
    ///
    /// # Errors
    /// As [`SentinelHandle::issue`].
    pub async fn issue_order(&self, by: &str, order: TokenOrder) -> Result<IssuedToken, Problem> {
        let by = Cause::by(by);
        self.slot
            .call(CALL_LIMIT, |reply| Message::Issue { by, order, reply })
            .await
            .map_err(Problem::from)?
    }

    /// Makes a token void, at once; answers when that is durable. Of a session token, it answers which incarnation had it:
    /// that one is to end, for it could ask for another.
    ///
    /// # Errors
    /// `token_not_found`, or that it cannot be written now.
    pub async fn revoke(&self, by: &str, id: &str) -> Result<Option<(AgentId, Epoch)>, Problem> {
        let (by, id) = (Cause::by(by), id.to_owned());
        let Some((agent, epoch)) = self.door.session(&id) else {
            let revoked: Result<(), Problem> = self
                .slot
                .call(CALL_LIMIT, |reply| Message::Revoke { by, id, reply })
                .await?;
            return revoked.map(|()| None);
        };
        let had = (agent.clone(), epoch);
        let revoked: Result<(), Problem> = self
            .slot
            .call(CALL_LIMIT, |reply| Message::RevokeSession {
                by,
                id,
                agent,
                epoch,
                reply,
            })
            .await?;
        revoked.map(|()| Some(had))
    }

    /// Makes void all that an agent was ever given: its sessions at once and without fail, its durable tokens when this
    /// answers. For quarantine and termination.
    ///
    /// # Errors
    /// That it cannot be written now.
    pub async fn revoke_agent(&self, by: &str, agent: &AgentId) -> Result<(), Problem> {
        self.revoke_sessions(agent);
        let (by, agent) = (Cause::by(by), agent.clone());
        self.slot
            .call(CALL_LIMIT, |reply| Message::RevokeAgent {
                by,
                agent,
                reply,
            })
            .await
            .map_err(Problem::from)?
    }

    /// All tokens, without their secrets: those that were issued, then those that incarnations were given.
    ///
    /// # Errors
    /// That the sentinel is not there.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, Problem> {
        let mut tokens: Vec<TokenInfo> = self
            .slot
            .call(CALL_LIMIT, |reply| Message::List { reply })
            .await?;
        tokens.extend(self.door.sessions(clock::now()));
        Ok(tokens)
    }

    /// A token for one incarnation of an agent, valid until this moment. It is kept in memory only and ends with meshd; of
    /// one incarnation the last two are valid.
    ///
    /// # Errors
    /// That the system gives no randomness.
    pub fn issue_session(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        until: Timestamp,
    ) -> Result<Zeroizing<String>, Problem> {
        self.door
            .open_session(agent, epoch, until)
            .map_err(no_randomness)
    }

    /// Makes void the session tokens of an agent.
    pub fn revoke_sessions(&self, agent: &AgentId) {
        self.door.expel_sessions(agent, None);
    }

    /// Makes void the session tokens of one incarnation.
    pub fn revoke_session(&self, agent: &AgentId, epoch: Epoch) {
        self.door.expel_sessions(agent, Some(epoch));
    }
}

fn invalid() -> Problem {
    let kind = ProblemKind::Unauthenticated;
    Problem::new(kind, "unauthenticated", "Invalid authentication")
}

fn denied(
    user: &str,
    action: &str,
    resource: &str,
    (reason, rule): (&str, Option<String>),
) -> SentinelEvent {
    SentinelEvent::Denied {
        action: action.to_owned(),
        resource: cut(resource),
        user: user.to_owned(),
        reason: reason.to_owned(),
        rule,
    }
}

pub(super) fn cut(resource: &str) -> String {
    resource.chars().take(RESOURCE_CHARS_MAX).collect()
}
