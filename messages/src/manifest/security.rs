//! What an agent may touch, what it is told, and who vouches for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pattern;
use super::permission::Permission;
use crate::address::TopicPattern;
use crate::identity::{BadSignature, DidKey, SignatureText};
use crate::json;

/// What an agent may touch. Absent: a sandbox with no network and no files of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityConfig {
    /// Runs isolated. `false` is refused where policy requires the sandbox.
    #[serde(default = "SecurityConfig::sandboxed")]
    pub sandbox: bool,
    /// What it may do, of what the rest of the manifest gives; absent: all of that, with an empty list nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub permissions: Option<Vec<Permission>>,
    /// How it signs.
    #[serde(default)]
    pub crypto: Crypto,
    /// Is given a short-lived token of its own in the handshake, of the role `agent`, that ends with the incarnation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session: bool,
    /// What it may reach.
    #[serde(default)]
    pub network_access: NetworkPolicy,
    /// Which files it may use.
    #[serde(default)]
    pub file_access: FileAccessPolicy,
    /// On which topics it may publish, and to which it may subscribe.
    #[serde(default, skip_serializing_if = "TopicPolicy::is_open")]
    pub topics: TopicPolicy,
}

impl SecurityConfig {
    const fn sandboxed() -> bool {
        true
    }
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            sandbox: true,
            permissions: None,
            crypto: Crypto::default(),
            session: false,
            network_access: NetworkPolicy::default(),
            file_access: FileAccessPolicy::default(),
            topics: TopicPolicy::default(),
        }
    }
}

/// How an agent signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Crypto {
    /// With an ed25519 key.
    #[default]
    Ed25519,
    /// With a secp256k1 key: foreign agents only, and only to verify.
    Secp256k1,
    /// With an RSA key: foreign agents only, and only to verify.
    Rsa,
    /// Not at all; policy decides whether that is allowed.
    None,
}

impl Crypto {
    /// As it is written in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Secp256k1 => "secp256k1",
            Self::Rsa => "rsa",
            Self::None => "none",
        }
    }

    /// Whether an agent that signs like this signs with this key.
    pub fn is_of(self, key: &DidKey) -> bool {
        self.name() == key.kind()
    }
}

/// What an agent may reach. Absent: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Whether it may open connections at all.
    #[serde(default)]
    pub allow_outbound: bool,
    /// The only domains that it may reach; absent: any that is not blocked. `*` alone is every name, and no bare address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<pattern::DomainOrAny>>", length(max = 256))]
    pub allowed_domains: Option<Vec<String>>,
    /// Domains that it may not reach, even when allowed above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<pattern::Domain>>", length(max = 256))]
    pub blocked_domains: Option<Vec<String>>,
    /// Connections that may be open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Ports that it may reach, out of those that the operator opens; absent: all of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(range(min = 1)))]
    pub allowed_ports: Option<Vec<u16>>,
    /// Hosts of which only these requests are allowed, sent in plain HTTP through the proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub requests: Vec<RequestPolicy>,
}

/// Requests that are allowed on some hosts; whatever else goes there is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestPolicy {
    /// The hosts it is about. They have to be allowed, too.
    #[schemars(with = "Vec<pattern::Domain>", length(min = 1, max = 64))]
    pub domains: Vec<String>,
    /// Methods in capital letters; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub methods: Option<Vec<String>>,
    /// Paths such as `/v1/models`, or `/v1/*` for all that begins so; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub paths: Option<Vec<String>>,
}

/// Which files an agent may use, beside its own home. Absent: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileAccessPolicy {
    /// Absolute paths of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub allowed_paths: Vec<String>,
    /// Only reading is allowed there.
    #[serde(default = "FileAccessPolicy::read_only_by_default")]
    pub read_only: bool,
    /// Gives it a private directory for temporary files.
    #[serde(default)]
    pub temp_file_access: bool,
}

impl FileAccessPolicy {
    const fn read_only_by_default() -> bool {
        true
    }
}

impl Default for FileAccessPolicy {
    fn default() -> Self {
        Self {
            allowed_paths: Vec::new(),
            read_only: true,
            temp_file_access: false,
        }
    }
}

/// Which topics an agent may use. Absent: any, save those that are meshd's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicPolicy {
    /// The only topics on which it may publish, such as `orders.new`, `orders.*` or `orders.>`; with an empty list none;
    /// absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub publish: Option<Vec<TopicPattern>>,
    /// The only topics to which it may subscribe; a pattern has to lie within one of these. With an empty list none;
    /// absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub subscribe: Option<Vec<TopicPattern>>,
}

impl TopicPolicy {
    fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it may publish on this topic.
    pub fn may_publish(&self, topic: &TopicPattern) -> bool {
        within(self.publish.as_deref(), topic)
    }

    /// Whether it may subscribe to this topic, or pattern of topics.
    pub fn may_subscribe(&self, topic: &TopicPattern) -> bool {
        within(self.subscribe.as_deref(), topic)
    }
}

fn within(allowed: Option<&[TopicPattern]>, topic: &TopicPattern) -> bool {
    allowed.is_none_or(|allowed| allowed.iter().any(|one| one.covers(topic)))
}

/// A secret that the agent needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretSpec {
    /// Its name for the agent; a file's name when mounted.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Where it comes from.
    #[schemars(with = "pattern::VaultReference")]
    pub from: String,
    /// How the agent gets to use it.
    #[serde(default)]
    pub mode: SecretMode,
    /// With `brokered`: the domains whose requests it is added to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<pattern::Domain>", length(max = 64))]
    pub domains: Vec<String>,
    /// With `brokered`: only requests of these methods; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub methods: Option<Vec<String>>,
    /// With `brokered`: only these paths, such as `/v1/*`; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub paths: Option<Vec<String>>,
    /// With `brokered`: the header that carries it, `{secret}` standing for the value; `Authorization: Bearer {secret}`
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub header: Option<String>,
    /// With `brokered`: the proxy speaks TLS to the host, although the agent speaks plain HTTP to the proxy.
    #[serde(
        default = "SecretSpec::with_tls",
        skip_serializing_if = "SecretSpec::is_true"
    )]
    pub tls: bool,
}

impl SecretSpec {
    const fn with_tls() -> bool {
        true
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_true(value: &bool) -> bool {
        *value
    }

    /// The secret's name in this node's vault: the reference without its scheme.
    pub fn vault_name(&self) -> &str {
        self.from.strip_prefix("vault://").unwrap_or(&self.from)
    }
}

/// How an agent gets to use a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretMode {
    /// meshd adds it to requests on their way out; the agent never sees it.
    #[default]
    Brokered,
    /// A read-only file in the sandbox. The agent can read it, and therefore leak it.
    Mount,
}

/// A publisher's signature of a manifest and of the bundle it lies in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestSignature {
    /// The publisher.
    pub key: DidKey,
    /// Digest of the bundle's other files, so that they are vouched for, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<pattern::Blake3>")]
    pub bundle: Option<String>,
    /// Over `meshd-manifest/1\n` and the RFC 8785 form of the manifest without this field.
    pub signature: SignatureText,
}

/// Why a manifest's signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestSignatureError {
    /// It has none. Whether that is acceptable is for policy to say.
    #[error("the manifest is not signed")]
    Missing,
    /// The signature object has another form.
    #[error("signature: not of the form {{key, bundle, signature}}")]
    Form,
    /// It does not hold.
    #[error("signature: {0}")]
    Bad(#[from] BadSignature),
}

/// What a publisher signs: `meshd-manifest/1\n` and the canonical manifest without `signature.signature`.
pub fn manifest_signing_input(manifest: &Value) -> Vec<u8> {
    let mut unsigned = manifest.clone();
    if let Some(signature) = unsigned.get_mut("signature").and_then(Value::as_object_mut) {
        signature.remove("signature");
    }
    let mut input = b"meshd-manifest/1\n".to_vec();
    input.extend(json::canonical(&unsigned));
    input
}

/// Checks the signature of a manifest as it was read ([`super::ParsedManifest::source`]) and names the publisher.
///
/// # Errors
/// [`ManifestSignatureError`] when there is none, or when it does not hold.
pub fn verify_manifest_signature(
    manifest: &Value,
) -> Result<ManifestSignature, ManifestSignatureError> {
    let signature = manifest
        .get("signature")
        .ok_or(ManifestSignatureError::Missing)?;
    let signature =
        ManifestSignature::deserialize(signature).map_err(|_| ManifestSignatureError::Form)?;
    signature
        .key
        .verify(&manifest_signing_input(manifest), &signature.signature)?;
    Ok(signature)
}
