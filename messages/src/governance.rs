//! Governance: changes that several admins sign together, away from meshd, before it accepts them.
//!
//! An update is one JSON document. Its signatures cover `MESH-GOVERNANCE/1\n` and the canonical JSON (RFC 8785) of all of
//! it but the signatures, so whoever has the admins' public keys can check it without a mesh.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::{DidKey, SignatureText, SigningKey};
use crate::json;
use crate::time::Timestamp;

/// What every signed text of this kind begins with, so that no other text can be passed off as an update.
const DOMAIN: &[u8] = b"MESH-GOVERNANCE/1\n";
/// The version of the form.
pub const GOVERNANCE_VERSION: u8 = 1;
/// Most admins, and most signatures of an update. Each signature costs a verification, and a board of more is none.
pub const ADMINS_MAX: usize = 64;
/// Longest reason of a shutdown, in bytes.
pub const HALT_REASON_MAX: usize = 1024;

/// The types of updates.
pub mod kind {
    /// Another set of admins; payload [`AdminSet`](super::AdminSet).
    pub const ADMIN_UPDATE: &str = "admin_update";
    /// Another policy; payload [`PolicyDocument`](crate::policy::PolicyDocument).
    pub const POLICY_UPDATE: &str = "policy_update";
    /// Everything stops; payload [`HaltOrder`](super::HaltOrder).
    pub const EMERGENCY_SHUTDOWN: &str = "emergency_shutdown";
    /// Agents may be recovered; payload [`HaltOrder`](super::HaltOrder).
    pub const EMERGENCY_LIFT: &str = "emergency_lift";
    /// All of them.
    pub const ALL: [&str; 4] = [
        ADMIN_UPDATE,
        POLICY_UPDATE,
        EMERGENCY_SHUTDOWN,
        EMERGENCY_LIFT,
    ];
}

/// One admin's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GovernanceSignature {
    /// Whose.
    pub key: DidKey,
    /// Over the update without its signatures.
    pub signature: SignatureText,
}

/// A change that admins sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GovernanceUpdate {
    /// 1.
    pub v: u8,
    /// The node that it is for, by its key; on any other it is void.
    pub mesh: DidKey,
    /// One more than that of the last update that was accepted there, so that each is accepted once.
    pub sequence: u64,
    /// When it becomes void.
    pub expires: Timestamp,
    /// The admin who wrote it, and who has to be among its signers.
    pub issuer: DidKey,
    /// `admin_update`, `policy_update`, `emergency_shutdown` or `emergency_lift`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What changes, as its type says.
    pub payload: Value,
    /// The signatures; a signer counts once.
    #[serde(default)]
    #[schemars(length(max = ADMINS_MAX))]
    pub signatures: Vec<GovernanceSignature>,
}

impl GovernanceUpdate {
    /// What a signature covers.
    pub fn signing_input(&self) -> Vec<u8> {
        let unsigned = Self {
            signatures: Vec::new(),
            ..self.clone()
        };
        let mut value = serde_json::to_value(unsigned).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.remove("signatures");
        }
        let mut input = DOMAIN.to_vec();
        input.extend(json::canonical(&value));
        input
    }

    /// Adds a signature, or replaces the one that the key gave before.
    pub fn sign(&mut self, key: &SigningKey) {
        let public = key.public();
        let signature = key.sign(&self.signing_input());
        self.signatures.retain(|held| held.key != public);
        self.signatures.push(GovernanceSignature {
            key: public,
            signature,
        });
    }

    /// The keys whose signatures hold, each once, in their order in the document.
    pub fn signers(&self) -> Vec<DidKey> {
        let input = self.signing_input();
        let mut signers: Vec<DidKey> = Vec::new();
        for GovernanceSignature { key, signature } in self.signatures.iter().take(ADMINS_MAX) {
            if !signers.contains(key) && key.verify(&input, signature).is_ok() {
                signers.push(*key);
            }
        }
        signers
    }
}

/// The admins, and how many of them it takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminSet {
    /// Their public keys.
    #[schemars(length(min = 1, max = ADMINS_MAX))]
    pub admins: Vec<DidKey>,
    /// How many of them have to sign.
    #[schemars(range(min = 1, max = ADMINS_MAX))]
    pub threshold: u32,
}

/// An order to stop, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HaltOrder {
    /// Why.
    #[schemars(length(max = HALT_REASON_MAX))]
    pub reason: String,
}

/// Where a part of what is in force comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GovernanceOrigin {
    /// The update's sequence number.
    pub sequence: u64,
    /// Who signed it.
    pub signers: Vec<DidKey>,
}

/// A shutdown in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Halt {
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub origin: GovernanceOrigin,
}

/// `GET /v1/governance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GovernanceView {
    /// The node, as updates name it.
    pub mesh: DidKey,
    /// The last update that was accepted; 0 before the first.
    pub sequence: u64,
    /// The admins and how many have to sign; absent until a first update names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AdminSet>,
    /// Where the admins, and each scope of the policy, come from: `admins`, `default`, `agents.<id>`,
    /// `budgets.<account>`.
    pub origins: BTreeMap<String, GovernanceOrigin>,
    /// The shutdown in force, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Halt>,
}
