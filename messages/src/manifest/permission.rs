//! What an agent may do, of what the rest of its manifest gives it. Pure, and the only place that reads permissions.
//!
//! | resource | gives | `read` | `write` | `execute` | `delete` | scope |
//! |---|---|---|---|---|---|---|
//! | `file` | home, `/tmp`, `fileAccess.allowedPaths` | ✓ | ✓ | ✓ | ✓ | a directory or file, `home`, `temp` |
//! | `network` | what `networkAccess` opens | ✓ | ✓ | tunnels | ✓ | a domain, `*.` before it for all below it |
//! | `secret` | what `secrets` names | mounted | | brokered | | the secret's name in the vault |
//! | `memory` | its memory | ✓ | ✓ | | ✓ | a key, `*` at its end for all that begin so |
//! | `topic` | what `topics` leaves | subscribe | publish | | | a topic or pattern |
//! | `capability` | tasks for others | look up | | give a task | | a capability, `*` at its end |
//! | `agent` | other agents | what they share | messages | | | an agent, `*` at its end |
//! | `claim` | named resources | | take | | | a resource, `*` at its end |
//! | `api` | the HTTP surface, with its token | ✓ | ✓ | ✓ | ✓ | an action of the audit, such as `task.submit` |
//! | any other name | the agent, or the capability, of that name | look up | messages | give a task | | |
//!
//! - No list leaves everything as the rest of the manifest says. With an empty list nothing is left but to talk to meshd:
//!   hands are shaken, tasks are taken and answered, and how they go is told.
//! - Otherwise what has a section of its own in a manifest (the first five rows) is narrowed where the list names it, and
//!   the rest is what the list names and nothing else.
//! - Nothing is ever widened.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern;
use super::security::{SecretMode, SecretSpec, SecurityConfig, TopicPolicy};
use crate::address::TopicPattern;

mod files;
mod lint;
#[cfg(test)]
mod tests;

pub use files::{FileGrant, FileGrants, FileRights};
pub(super) use lint::{lint, secrets};

/// Longest subject that a message about a missing permission shows, in characters.
const SHOWN_CHARS_MAX: usize = 128;

/// Actions on a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permission {
    /// What it is about: `file`, `network`, `secret`, `memory`, `topic`, `capability`, `agent`, `claim`, `api`, or the name
    /// of an agent or a capability.
    #[schemars(with = "pattern::Resource")]
    pub resource: String,
    /// What may be done with it.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub actions: Vec<Action>,
    /// Narrows it, for example to one path, one domain or one key; absent: all there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub scope: Option<String>,
}

/// What a permission allows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Looking at it.
    Read,
    /// Changing or creating it.
    Write,
    /// Running or calling it.
    Execute,
    /// Removing it.
    Delete,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Execute, Self::Delete];

    /// The name in manifests and in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Execute => "execute",
            Self::Delete => "delete",
        }
    }
}

/// What permissions can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// Files of the host that it was granted, its home and its temporary files: held by the kernel.
    File,
    /// Hosts outside: held by its proxy, and by the kernel where nothing at all is left.
    Network,
    /// Secrets of the vault.
    Secret,
    /// Its memory.
    Memory,
    /// Topics of the bus.
    Topic,
    /// What others can do for it.
    Capability,
    /// Other agents.
    Agent,
    /// Resources that only one attempt may have at a time.
    Claim,
    /// What its token opens on the HTTP surface.
    Api,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::File,
        Self::Network,
        Self::Secret,
        Self::Memory,
        Self::Topic,
        Self::Capability,
        Self::Agent,
        Self::Claim,
        Self::Api,
    ];

    /// The name in manifests and in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Memory => "memory",
            Self::Topic => "topic",
            Self::Capability => "capability",
            Self::Agent => "agent",
            Self::Claim => "claim",
            Self::Api => "api",
        }
    }

    /// The kind of this name, or of another word for it.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "files" | "filesystem" => Some(Self::File),
            "net" | "egress" => Some(Self::Network),
            "secrets" | "vault" => Some(Self::Secret),
            "topics" => Some(Self::Topic),
            "tool" | "tools" | "capabilities" => Some(Self::Capability),
            "agents" => Some(Self::Agent),
            "claims" => Some(Self::Claim),
            _ => Self::ALL.into_iter().find(|kind| kind.name() == text),
        }
    }

    /// What of it can be allowed and denied.
    pub const fn actions(self) -> &'static [Action] {
        use Action::{Delete, Execute, Read, Write};
        match self {
            Self::File | Self::Network | Self::Api => &Action::ALL,
            Self::Secret | Self::Capability => &[Read, Execute],
            Self::Memory => &[Read, Write, Delete],
            Self::Topic | Self::Agent => &[Read, Write],
            Self::Claim => &[Write],
        }
    }

    /// Whether a manifest has a section for it, so that it is given there and only narrowed here.
    pub const fn has_section(self) -> bool {
        match self {
            Self::File | Self::Network | Self::Secret | Self::Memory | Self::Topic => true,
            Self::Capability | Self::Agent | Self::Claim | Self::Api => false,
        }
    }
}

/// Something that needs a permission. Shown as the audit names it when it is missing: `permission memory:write (seen/42)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    /// What it is about.
    pub kind: ResourceKind,
    /// What is done with it.
    pub action: Action,
    /// Which: a key, a topic, an agent. A pattern stands for all that it names.
    pub subject: String,
}

impl Need {
    /// Doing this to that.
    pub fn new(kind: ResourceKind, action: Action, subject: impl Into<String>) -> Self {
        Self {
            kind,
            action,
            subject: subject.into(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permission {}:{}", self.kind.name(), self.action.name())?;
        if self.subject.is_empty() {
            return Ok(());
        }
        let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let shown: String = self
            .subject
            .chars()
            .take(SHOWN_CHARS_MAX)
            .map(plain)
            .collect();
        let cut = if shown.len() < self.subject.len() && shown.chars().count() == SHOWN_CHARS_MAX {
            "…"
        } else {
            ""
        };
        write!(f, " ({shown}{cut})")
    }
}

/// What is left of the way out to one domain, or to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkGrant {
    /// The domain, `*.` before it for all below it; absent: any.
    pub domain: Option<String>,
    /// What may be asked there: reading is GET, HEAD and OPTIONS, deleting is DELETE, writing every other method, and
    /// `execute` a tunnel, of which nobody sees what goes through.
    pub actions: BTreeSet<Action>,
}

impl Permission {
    /// What it is about; `None` for an agent or a capability that it names.
    pub fn kind(&self) -> Option<ResourceKind> {
        ResourceKind::named(&self.resource)
    }

    fn is_about(&self, kind: ResourceKind) -> bool {
        self.kind() == Some(kind)
    }

    fn allows(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    fn grants(&self, need: &Need) -> bool {
        if !self.allows(need.action) {
            return false;
        }
        if let Some(kind) = self.kind() {
            let scope = self.scope.as_deref();
            return kind == need.kind
                && scope.is_none_or(|scope| covers(kind, scope, &need.subject));
        }
        let named = matches!(need.kind, ResourceKind::Capability | ResourceKind::Agent);
        named && self.resource == need.subject
    }
}

/// Whether a scope names the subject.
fn covers(kind: ResourceKind, scope: &str, subject: &str) -> bool {
    match kind {
        ResourceKind::Topic => {
            let patterns = (
                scope.parse::<TopicPattern>(),
                subject.parse::<TopicPattern>(),
            );
            matches!(patterns, (Ok(scope), Ok(subject)) if scope.covers(&subject))
        }
        // An address that is no agent's id names somebody by another way, and so only the same text names them, or all.
        ResourceKind::Agent if subject.contains(':') => scope == "*" || scope == subject,
        ResourceKind::File => files::within(scope, subject),
        ResourceKind::Network => false,
        ResourceKind::Secret
        | ResourceKind::Memory
        | ResourceKind::Capability
        | ResourceKind::Agent
        | ResourceKind::Claim
        | ResourceKind::Api => match scope.strip_suffix('*') {
            Some(beginning) => subject.starts_with(beginning),
            None => scope == subject,
        },
    }
}

impl SecurityConfig {
    /// Whether permissions have a say on things of this kind.
    pub fn narrows(&self, kind: ResourceKind) -> bool {
        match self.permissions.as_deref() {
            None => false,
            Some([]) => true,
            Some(list) => !kind.has_section() || list.iter().any(|one| one.is_about(kind)),
        }
    }

    /// The first of what is needed that no permission allows.
    pub fn missing(&self, needs: impl IntoIterator<Item = Need>) -> Option<Need> {
        needs
            .into_iter()
            .find(|need| self.narrows(need.kind) && !self.permitted().any(|one| one.grants(need)))
    }

    /// Whether it has a way out at all.
    pub fn reaches_out(&self) -> bool {
        self.network_access.allow_outbound
            && self
                .network_grants()
                .is_none_or(|grants| !grants.is_empty())
    }

    /// What is left of its way out; `None` when permissions have no say.
    pub fn network_grants(&self) -> Option<Vec<NetworkGrant>> {
        let about = self
            .permitted()
            .filter(|one| one.is_about(ResourceKind::Network));
        let grant = |one: &Permission| NetworkGrant {
            domain: one.scope.clone(),
            actions: one.actions.iter().copied().collect(),
        };
        self.narrows(ResourceKind::Network)
            .then(|| about.map(grant).collect())
    }

    /// What is needed to have a secret in the way that the manifest says.
    pub fn secret_need(secret: &SecretSpec) -> Need {
        let action = match secret.mode {
            SecretMode::Mount => Action::Read,
            SecretMode::Brokered => Action::Execute,
        };
        Need::new(ResourceKind::Secret, action, secret.vault_name())
    }

    /// What is left of its topics.
    pub fn topics_left(&self) -> TopicPolicy {
        if !self.narrows(ResourceKind::Topic) {
            return self.topics.clone();
        }
        let left = |section: Option<&Vec<TopicPattern>>, action| {
            let permitted = self
                .permitted()
                .filter(|one| one.is_about(ResourceKind::Topic) && one.allows(action));
            let mut all = BTreeSet::new();
            for permission in permitted {
                let scope = permission.scope.as_deref().unwrap_or(">");
                let Ok(scope) = scope.parse::<TopicPattern>() else {
                    continue;
                };
                match section {
                    None => {
                        all.insert(scope);
                    }
                    // Of two patterns that only overlap nothing is left: neither says so much as the other.
                    Some(given) => all.extend(given.iter().filter_map(|given| {
                        let narrower = if scope.covers(given) { given } else { &scope };
                        (scope.covers(given) || given.covers(&scope)).then(|| narrower.clone())
                    })),
                }
            }
            Some(all.into_iter().collect())
        };
        TopicPolicy {
            publish: left(self.topics.publish.as_ref(), Action::Write),
            subscribe: left(self.topics.subscribe.as_ref(), Action::Read),
        }
    }

    fn permitted(&self) -> impl Iterator<Item = &Permission> {
        self.permissions.iter().flatten()
    }
}
