//! Who may govern: the admins' keys, how many have to sign, and what they decided.
//!
//! Decided here is whether an update counts; what it changes beyond this state, the policy, is its owner's to carry out.
//! A state without admins is governed by tokens alone, until a first `admin_update` that its own admins signed.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use mesh_messages::governance::{
    ADMINS_MAX, AdminSet, GOVERNANCE_VERSION, GovernanceOrigin, GovernanceUpdate, GovernanceView,
    HALT_REASON_MAX, Halt, HaltOrder, kind,
};
use mesh_messages::identity::DidKey;
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::Checker;
use mesh_messages::{AgentId, Timestamp};
use serde_json::Value;

/// The admins and what they decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Governance {
    /// The last update that was accepted.
    pub sequence: u64,
    /// Who may sign; nobody yet when absent.
    pub authority: Option<AdminSet>,
    /// By what: `admins`, `default`, `agents.<id>`, `budgets.<account>`.
    pub origins: BTreeMap<String, GovernanceOrigin>,
    /// The shutdown in force.
    pub halted: Option<Halt>,
}

/// What an update changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The admins.
    Admins(AdminSet),
    /// The policy, in the scopes that it names.
    Policy(Box<PolicyDocument>),
    /// Everything stops.
    Shutdown(HaltOrder),
    /// Agents may be recovered.
    Lift(HaltOrder),
}

/// An update that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// What it changes.
    pub change: Change,
    /// The admins whose signatures hold.
    pub signers: Vec<DidKey>,
}

/// Why an update does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Another version of the form.
    #[error("v: this meshd reads version {GOVERNANCE_VERSION}")]
    Version,
    /// It is for another mesh.
    #[error("mesh: the update is for {0}, not for this node")]
    Elsewhere(Box<DidKey>),
    /// It is void.
    #[error("expires: the update was void from {0} on; write and sign a new one")]
    Expired(Timestamp),
    /// It was accepted before, or others have to come first.
    #[error("sequence: {found} was used or comes too early; the next update has {next}")]
    Sequence {
        /// What it names.
        found: u64,
        /// What is next.
        next: u64,
    },
    /// Nobody knows this type.
    #[error("Unknown governance update type: {0}")]
    UnknownType(String),
    /// Its payload makes no sense.
    #[error("payload: {0}")]
    Payload(String),
    /// Its issuer is no admin.
    #[error("Invalid admin authority")]
    Authority,
    /// Too few admins signed.
    #[error("Insufficient signatures")]
    Signatures {
        /// How many did.
        have: usize,
        /// How many have to.
        need: u32,
    },
    /// There are no admins yet.
    #[error("type: no admins are named yet; the first update is an admin_update that they sign")]
    NoAdmins,
    /// There is nothing to lift.
    #[error("type: no shutdown is in force")]
    NotHalted,
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let detail = denied.to_string();
        match denied {
            Denied::Version => Self::invalid("invalid_update", "v", detail),
            Denied::Elsewhere(_) => Self::invalid("invalid_update", "mesh", detail),
            Denied::Expired(_) => {
                Self::new(ProblemKind::Conflict, "update_expired", detail).field("expires")
            }
            Denied::Sequence { .. } => {
                Self::new(ProblemKind::Conflict, "update_replayed", detail).field("sequence")
            }
            Denied::UnknownType(_) => Self::invalid("invalid_update", "type", detail)
                .errors(vec![format!("known are {}", kind::ALL.join(", "))]),
            Denied::NoAdmins | Denied::NotHalted => Self::invalid("invalid_update", "type", detail),
            Denied::Payload(_) => Self::invalid("invalid_update", "payload", detail),
            Denied::Authority => {
                Self::new(ProblemKind::Forbidden, "invalid_admin_authority", detail)
            }
            Denied::Signatures { have, need } => {
                Self::new(ProblemKind::Forbidden, "insufficient_signatures", detail)
                    .errors(vec![format!("{have} of {need} admins signed")])
            }
        }
    }
}

impl Governance {
    /// Whether policies are changed by signed updates alone.
    pub fn is_in_force(&self) -> bool {
        self.authority.is_some()
    }

    /// It as it is shown.
    pub fn view(&self, mesh: DidKey) -> GovernanceView {
        GovernanceView {
            mesh,
            sequence: self.sequence,
            authority: self.authority.clone(),
            origins: self.origins.clone(),
            halted: self.halted.clone(),
        }
    }

    /// Whether an update counts, at this node and time.
    ///
    /// Who signed is looked at before what it says: strangers learn nothing of what would be accepted.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn decide(
        &self,
        now: Timestamp,
        mesh: &DidKey,
        update: &GovernanceUpdate,
    ) -> Result<Accepted, Denied> {
        if update.v != GOVERNANCE_VERSION {
            return Err(Denied::Version);
        }
        if update.mesh != *mesh {
            return Err(Denied::Elsewhere(Box::new(update.mesh)));
        }
        let known = kind::ALL.contains(&update.kind.as_str());
        let unknown = || Denied::UnknownType(update.kind.clone());
        // The first admins vouch for themselves: before them there is nobody who could.
        let named = match (&self.authority, update.kind.as_str()) {
            (Some(authority), _) => authority.clone(),
            (None, kind::ADMIN_UPDATE) => admins_of(update)?,
            (None, _) if !known => return Err(unknown()),
            (None, _) => return Err(Denied::NoAdmins),
        };
        if !named.admins.contains(&update.issuer) {
            return Err(Denied::Authority);
        }
        let mut signers = update.signers();
        signers.retain(|key| named.admins.contains(key));
        let (have, need) = (signers.len(), named.threshold);
        if u32::try_from(have).unwrap_or(u32::MAX) < need {
            return Err(Denied::Signatures { have, need });
        }
        if !known {
            return Err(unknown());
        }
        if now >= update.expires {
            return Err(Denied::Expired(update.expires));
        }
        let next = self.sequence.saturating_add(1);
        if update.sequence != next {
            let found = update.sequence;
            return Err(Denied::Sequence { found, next });
        }
        let change = change_of(update)?;
        if matches!(change, Change::Policy(_)) {
            is_sound(&update.payload)?;
        }
        if matches!(change, Change::Lift(_)) && self.halted.is_none() {
            return Err(Denied::NotHalted);
        }
        Ok(Accepted { change, signers })
    }

    /// Takes an accepted update in.
    pub fn apply(&mut self, update: &GovernanceUpdate, signers: &[DidKey]) {
        self.sequence = update.sequence;
        let origin = GovernanceOrigin {
            sequence: update.sequence,
            signers: signers.to_vec(),
        };
        match change_of(update) {
            Ok(Change::Admins(set)) => {
                self.authority = Some(set);
                self.origins.insert("admins".to_owned(), origin);
            }
            Ok(Change::Policy(document)) => {
                if document.default.is_some() {
                    self.origins.insert("default".to_owned(), origin.clone());
                }
                for agent in document.agents.keys() {
                    self.origins.insert(scope_of(agent), origin.clone());
                }
                // Also what was taken back: that somebody may bound it again is for the admins to say.
                for account in document.budgets.keys() {
                    self.origins
                        .insert(format!("budgets.{account}"), origin.clone());
                }
            }
            Ok(Change::Shutdown(HaltOrder { reason })) => {
                self.halted = Some(Halt { reason, origin });
            }
            Ok(Change::Lift(_)) => self.halted = None,
            // What is journalled was accepted by a version that knew it.
            Err(_) => {}
        }
    }

    /// Whether admins signed what holds for this agent: then it stays when the agent is removed, and holds for the next one of
    /// its id. Otherwise whoever may remove and deploy could do what it takes *m* signatures to do.
    pub fn has_signed_for(&self, agent: &AgentId) -> bool {
        self.origins.contains_key(&scope_of(agent))
    }

    /// Whether admins signed how much an account has; then no single one of them raises it.
    pub fn has_signed_account(&self, account: &str) -> bool {
        self.origins.contains_key(&format!("budgets.{account}"))
    }
}

fn scope_of(agent: &AgentId) -> String {
    format!("agents.{agent}")
}

fn read<T: DeserializeOwned>(update: &GovernanceUpdate) -> Result<T, Denied> {
    serde_json::from_value(update.payload.clone())
        .map_err(|error| Denied::Payload(error.to_string()))
}

/// Holds a policy against its schema, as one that is put is: a number out of its range would be in force and in no machine.
/// Only before it is journalled; what was accepted once stays as it is.
fn is_sound(policy: &Value) -> Result<(), Denied> {
    let checker = Checker::of::<PolicyDocument>()
        .map_err(|error| Denied::Payload(format!("the schema of policies: {error}")))?;
    match checker.check(policy).first() {
        None => Ok(()),
        Some(error) => Err(Denied::Payload(error.to_string())),
    }
}

fn admins_of(update: &GovernanceUpdate) -> Result<AdminSet, Denied> {
    let set: AdminSet = read(update)?;
    let wrong = |text: String| Err(Denied::Payload(text));
    let count = set.admins.len();
    if count == 0 || count > ADMINS_MAX {
        return wrong(format!("admins: 1 to {ADMINS_MAX} keys, not {count}"));
    }
    let repeated = set.admins.iter().enumerate();
    if let Some((_, key)) = repeated
        .into_iter()
        .find(|(at, key)| set.admins[..*at].contains(key))
    {
        return wrong(format!("admins: {key} is there twice"));
    }
    if set.threshold == 0 || set.threshold as usize > count {
        return wrong(format!(
            "threshold: from 1 to {count}, the number of admins"
        ));
    }
    Ok(set)
}

fn change_of(update: &GovernanceUpdate) -> Result<Change, Denied> {
    let order = || -> Result<HaltOrder, Denied> {
        let order: HaltOrder = read(update)?;
        if order.reason.len() > HALT_REASON_MAX {
            let text = format!("reason: must have at most {HALT_REASON_MAX} bytes");
            return Err(Denied::Payload(text));
        }
        Ok(order)
    };
    match update.kind.as_str() {
        kind::ADMIN_UPDATE => admins_of(update).map(Change::Admins),
        kind::POLICY_UPDATE => read(update).map(|document| Change::Policy(Box::new(document))),
        kind::EMERGENCY_SHUTDOWN => order().map(Change::Shutdown),
        kind::EMERGENCY_LIFT => order().map(Change::Lift),
        other => Err(Denied::UnknownType(other.to_owned())),
    }
}

#[cfg(test)]
mod tests;
