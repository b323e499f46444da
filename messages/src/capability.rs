//! Tokens that their holder can narrow without asking anybody.
//!
//! A token is a chain of blocks. The first one is the node's word: whose token it is. Each further one is a holder's, and
//! says what is not to be done with the token any more. A block is signed by the key that the block before it names, the
//! first one by the node; the secret of the last key named travels along, so that whoever holds the token can add a block,
//! and nobody can take one off: the secrets of the keys before are gone.
//!
//! ```text
//! meshcap_ + base64url of {"blocks":[{"payload","next","signature"}, …],"secret","v":1}
//! signature over  MESH-CAPABILITY/1 \n  number \n  signature before \n  next \n  payload
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::access::{ACCESS_NAME_BYTES_MAX, ACCESS_NAMES_MAX, AccessVerb};
use crate::identity::{DidKey, SignatureText, SigningKey};
use crate::json;
use crate::system::Role;
use crate::time::Timestamp;

/// What such a token begins with.
pub const CAPABILITY_PREFIX: &str = "meshcap_";
/// Longest token, in bytes: it travels in a header, and in a line of KLP.
pub const CAPABILITY_BYTES_MAX: usize = 16 * 1024;
/// Most blocks, the first one included: each costs a verification.
pub const BLOCKS_MAX: usize = 16;
/// What every signed text of this kind begins with.
const DOMAIN: &str = "MESH-CAPABILITY/1\n";
/// The version of the form.
const VERSION: u8 = 1;
/// Bytes of a block's digest in its id.
const ID_BYTES: usize = 8;

/// What is not to be done any more. What is absent stays as it was; an empty list leaves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Only these verbs. A block that limits tasks or agents and names no verbs leaves only those that depend on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub verbs: Option<Vec<AccessVerb>>,
    /// Only tasks of these types; `*` at the end stands for all that begin like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub task_types: Option<Vec<String>>,
    /// Only tasks all of whose requirements are among these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub requirements: Option<Vec<String>>,
    /// Only tasks for one of these agents, by name, and only control of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub agents: Option<Vec<String>>,
    /// Until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// How often what it starts may be handed on from agent to agent; 0: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u8>,
}

impl Limits {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What makes it unreadable: lists or names beyond their bounds.
    pub fn misfit(&self) -> Option<String> {
        let verbs = self.verbs.as_ref().map_or(0, Vec::len);
        let lists = [&self.task_types, &self.requirements, &self.agents];
        let mut lists = lists.into_iter().flatten();
        let long = lists.any(|names| {
            names.len() > ACCESS_NAMES_MAX
                || names
                    .iter()
                    .any(|name| name.is_empty() || name.len() > ACCESS_NAME_BYTES_MAX)
        });
        (long || verbs > ACCESS_NAMES_MAX).then(|| {
            format!(
                "a limit has at most {ACCESS_NAMES_MAX} names of 1 to {ACCESS_NAME_BYTES_MAX} bytes"
            )
        })
    }
}

/// The node's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The node that issued it, and the only one that takes it.
    pub mesh: DidKey,
    /// The token's id.
    pub id: String,
    /// Its role.
    pub role: Role,
    /// Its bearer.
    pub subject: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Why a token is none, or cannot be narrowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// It cannot be read.
    #[error("is not a capability token: {0}")]
    Malformed(String),
    /// It is longer than a token may be, or would become so.
    #[error("has more than {BLOCKS_MAX} blocks or {CAPABILITY_BYTES_MAX} bytes")]
    TooLong,
    /// Another node issued it.
    #[error("was issued by another node")]
    Foreign,
    /// A block was changed, exchanged, or taken off.
    #[error("block {0} is not signed by the key that the block before it names")]
    Forged(usize),
    /// The secret that goes with the last block is another one: a block was taken off.
    #[error("its secret does not belong to its last block")]
    Cut,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    // As it was signed: to write it anew could change it.
    payload: String,
    next: DidKey,
    signature: SignatureText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    v: u8,
    blocks: Vec<Block>,
    secret: String,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// A token as its holder has it. It is shown without its secret.
pub struct Capability {
    blocks: Vec<Block>,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capability")
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// One block that narrows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Narrowing {
    /// Its id: the token's, a dot, and a digest. Revoking it voids the token from this block on.
    pub id: String,
    /// What it takes away.
    pub limits: Limits,
}

/// What a token says once its signatures hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The node's word.
    pub root: Root,
    /// SHA-256 of the first block's signature, hex: what the node keeps to know its own token.
    pub digest: String,
    /// What was narrowed, in order.
    pub narrowed: Vec<Narrowing>,
}

impl Capability {
    /// Makes a token. `next` is random and kept by nobody but the token.
    pub fn issue(key: &SigningKey, root: &Root, next: &[u8; 32]) -> Self {
        let payload = serde_json::to_string(root).unwrap_or_default();
        Self {
            blocks: vec![signed(key, None, payload, next)],
            secret: Zeroizing::new(*next),
        }
    }

    /// The same token with less to it. `next` is random and kept by nobody but the token.
    ///
    /// # Errors
    /// [`CapabilityError::TooLong`]; [`CapabilityError::Malformed`] for limits beyond their bounds.
    pub fn narrow(&self, limits: &Limits, next: &[u8; 32]) -> Result<Self, CapabilityError> {
        if let Some(why) = limits.misfit() {
            return Err(CapabilityError::Malformed(why));
        }
        if self.blocks.len() >= BLOCKS_MAX {
            return Err(CapabilityError::TooLong);
        }
        let payload = serde_json::to_string(limits).unwrap_or_default();
        let key = SigningKey::from_secret(&self.secret);
        let mut blocks = self.blocks.clone();
        let before = blocks.last().map(|block| (blocks.len(), &block.signature));
        let block = signed(&key, before, payload, next);
        blocks.push(block);
        let narrowed = Self {
            blocks,
            secret: Zeroizing::new(*next),
        };
        if narrowed.text().len() > CAPABILITY_BYTES_MAX {
            return Err(CapabilityError::TooLong);
        }
        Ok(narrowed)
    }

    /// Reads a token. Its signatures are still to be [verified](Self::verify).
    ///
    /// # Errors
    /// [`CapabilityError::Malformed`], [`CapabilityError::TooLong`].
    pub fn read(text: &str) -> Result<Self, CapabilityError> {
        let malformed = |why: &str| CapabilityError::Malformed(why.to_owned());
        if text.len() > CAPABILITY_BYTES_MAX {
            return Err(CapabilityError::TooLong);
        }
        let encoded = text
            .strip_prefix(CAPABILITY_PREFIX)
            .ok_or_else(|| malformed("it begins otherwise"))?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map(Zeroizing::new)
            .map_err(|_| malformed("it is not base64url"))?;
        let value = json::parse(&bytes).map_err(|_| malformed("it is not JSON"))?;
        let mut form: Form =
            serde_json::from_value(value).map_err(|_| malformed("it has another form"))?;
        if form.v != VERSION {
            return Err(malformed("it is of another version"));
        }
        if form.blocks.is_empty() {
            return Err(malformed("it has no block"));
        }
        if form.blocks.len() > BLOCKS_MAX {
            return Err(CapabilityError::TooLong);
        }
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(&form.secret, &mut *secret)
            .map_err(|_| malformed("its secret is not 64 hexadecimal digits"))?;
        Ok(Self {
            blocks: std::mem::take(&mut form.blocks),
            secret,
        })
    }

    /// The token as text: whoever has it, has what it opens.
    pub fn text(&self) -> Zeroizing<String> {
        let form = Form {
            v: VERSION,
            blocks: self.blocks.clone(),
            secret: hex::encode(*self.secret),
        };
        let written = Zeroizing::new(serde_json::to_vec(&form).unwrap_or_default());
        Zeroizing::new(format!(
            "{CAPABILITY_PREFIX}{}",
            URL_SAFE_NO_PAD.encode(&*written)
        ))
    }

    /// What it says, once every signature holds from this node's to the last.
    ///
    /// # Errors
    /// [`CapabilityError`].
    pub fn verify(&self, mesh: &DidKey) -> Result<Proven, CapabilityError> {
        let mut signer = *mesh;
        let mut before: Option<&SignatureText> = None;
        let mut root: Option<Root> = None;
        let mut narrowed = Vec::new();
        let mut digest = String::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let input = signing_input(number, before, &block.next, &block.payload);
            let holds = signer.verify(&input, &block.signature).is_ok()
                && block.next.ed25519_bytes().is_some();
            if !holds {
                return Err(match (number, self.claimed_mesh()) {
                    (0, Some(claimed)) if claimed != *mesh => CapabilityError::Foreign,
                    _ => CapabilityError::Forged(number),
                });
            }
            let sum = Sha256::digest(block.signature.to_string().as_bytes());
            match &root {
                None => {
                    let word: Root = payload(&block.payload)?;
                    if word.mesh != *mesh {
                        return Err(CapabilityError::Foreign);
                    }
                    digest = hex::encode(sum);
                    root = Some(word);
                }
                Some(word) => {
                    let limits: Limits = payload(&block.payload)?;
                    if let Some(why) = limits.misfit() {
                        return Err(CapabilityError::Malformed(why));
                    }
                    let id = format!("{}.{}", word.id, hex::encode(&sum[..ID_BYTES]));
                    narrowed.push(Narrowing { id, limits });
                }
            }
            signer = block.next;
            before = Some(&block.signature);
        }
        if SigningKey::from_secret(&self.secret).public() != signer {
            return Err(CapabilityError::Cut);
        }
        let root = root.ok_or_else(|| CapabilityError::Malformed("it has no block".to_owned()))?;
        Ok(Proven {
            root,
            digest,
            narrowed,
        })
    }

    /// The node that its first block names, which proves nothing.
    pub fn claimed_mesh(&self) -> Option<DidKey> {
        let first = self.blocks.first()?;
        payload::<Root>(&first.payload).ok().map(|root| root.mesh)
    }
}

fn payload<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, CapabilityError> {
    let malformed = || CapabilityError::Malformed("a block has another form".to_owned());
    let value = json::parse(text.as_bytes()).map_err(|_| malformed())?;
    serde_json::from_value(value).map_err(|_| malformed())
}

fn signed(
    key: &SigningKey,
    before: Option<(usize, &SignatureText)>,
    payload: String,
    next: &[u8; 32],
) -> Block {
    let next = SigningKey::from_secret(next).public();
    let (number, before) = before.map_or((0, None), |(number, text)| (number, Some(text)));
    let signature = key.sign(&signing_input(number, before, &next, &payload));
    Block {
        payload,
        next,
        signature,
    }
}

/// What a signature covers. Only the payload, which is last, can hold a newline.
fn signing_input(
    number: usize,
    before: Option<&SignatureText>,
    next: &DidKey,
    payload: &str,
) -> Vec<u8> {
    let before = before.map(ToString::to_string).unwrap_or_default();
    format!("{DOMAIN}{number}\n{before}\n{next}\n{payload}").into_bytes()
}

#[cfg(test)]
mod tests;
