//! Who a message is from and for: roles, agents, nodes, topics and policies.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// Longest address, in bytes. Names are at most 63; the rest is for nodes' keys and deep topics.
pub const ADDRESS_MAX: usize = 512;
/// Most segments of a topic: matching costs a step for each.
pub const TOPIC_SEGMENTS_MAX: usize = 32;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// None of the forms.
    #[error(
        "expected role:name, kai://agent.<id>, kai://node.<node>/agent.<id>, topic://a.b or policy://name"
    )]
    Form,
    /// Longer than [`ADDRESS_MAX`].
    #[error("longer than {ADDRESS_MAX} bytes")]
    TooLong,
    /// A part holds a character that its form does not allow, or nothing at all.
    #[error("{part:?} is empty or holds a character that is not allowed in {of}")]
    Part {
        /// The offending part.
        part: String,
        /// What it should have been.
        of: &'static str,
    },
}

/// An address. Its text reads back as the same address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `role:name`, such as `kPlanner:research`, `agent:echo` or `user:ada`.
    Role {
        /// The role.
        role: Arc<str>,
        /// The name within the role.
        name: Arc<str>,
    },
    /// `kai://agent.<id>`, or `kai://node.<node>/agent.<id>` on a named node.
    Agent {
        /// The node, when it matters which.
        node: Option<Arc<str>>,
        /// The agent.
        id: AgentId,
    },
    /// `kai://node.<node>`: the daemon itself.
    Node(Arc<str>),
    /// Any other `kai://` name, dotted, such as `kai://user.device.kai-core`.
    Kai(Arc<str>),
    /// `topic://…`: everybody who subscribed.
    Topic(TopicPattern),
    /// `policy://…`: whoever decides on a policy.
    Policy(Arc<str>),
}

impl Address {
    /// An agent, wherever it runs.
    pub fn agent(id: AgentId) -> Self {
        Self::Agent { node: None, id }
    }

    /// A daemon, by its key or name.
    ///
    /// # Errors
    /// [`InvalidAddress::Part`] when the name holds what an address cannot.
    pub fn node(name: &str) -> Result<Self, InvalidAddress> {
        part(name, is_node, "a node's name").map(Self::Node)
    }

    /// `role:name`.
    ///
    /// # Errors
    /// [`InvalidAddress::Part`] when either holds what an address cannot.
    pub fn role(role: &str, name: &str) -> Result<Self, InvalidAddress> {
        Ok(Self::Role {
            role: part(role, is_role, "a role")?,
            name: part(name, is_name, "a name")?,
        })
    }
}

const fn is_role(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

const fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'#' | b'@')
}

const fn is_node(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':')
}

const fn is_policy(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/')
}

const fn is_segment(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

fn part(text: &str, allowed: fn(u8) -> bool, of: &'static str) -> Result<Arc<str>, InvalidAddress> {
    let starts = text
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if starts && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(InvalidAddress::Part {
        part: text.to_owned(),
        of,
    })
}

fn agent_id(text: &str) -> Result<AgentId, InvalidAddress> {
    AgentId::new(text).map_err(|_| InvalidAddress::Part {
        part: text.to_owned(),
        of: "an agent's id",
    })
}

fn kai(rest: &str) -> Result<Address, InvalidAddress> {
    if let Some(id) = rest.strip_prefix("agent.") {
        return agent_id(id).map(Address::agent);
    }
    let Some(node) = rest.strip_prefix("node.") else {
        let dotted = part(rest, is_name, "a kai:// name")?;
        let whole =
            rest != "agent" && rest != "node" && rest.split('.').all(|segment| !segment.is_empty());
        return if whole {
            Ok(Address::Kai(dotted))
        } else {
            Err(InvalidAddress::Form)
        };
    };
    match node.split_once('/') {
        None => Address::node(node),
        Some((node, agent)) => {
            let id = agent.strip_prefix("agent.").ok_or(InvalidAddress::Form)?;
            Ok(Address::Agent {
                node: Some(part(node, is_node, "a node's name")?),
                id: agent_id(id)?,
            })
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > ADDRESS_MAX {
            return Err(InvalidAddress::TooLong);
        }
        if let Some(rest) = text.strip_prefix("kai://") {
            return kai(rest);
        }
        if let Some(rest) = text.strip_prefix("topic://") {
            return rest.parse().map(Self::Topic);
        }
        if let Some(rest) = text.strip_prefix("policy://") {
            return part(rest, is_policy, "a policy's name").map(Self::Policy);
        }
        let (role, name) = text.split_once(':').ok_or(InvalidAddress::Form)?;
        Self::role(role, name)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role { role, name } => write!(f, "{role}:{name}"),
            Self::Agent { node: None, id } => write!(f, "kai://agent.{id}"),
            Self::Agent {
                node: Some(node),
                id,
            } => write!(f, "kai://node.{node}/agent.{id}"),
            Self::Node(node) => write!(f, "kai://node.{node}"),
            Self::Kai(path) => write!(f, "kai://{path}"),
            Self::Topic(pattern) => write!(f, "topic://{pattern}"),
            Self::Policy(name) => write!(f, "policy://{name}"),
        }
    }
}

/// A topic, or a pattern of topics: `*` stands for one segment, a last `>` for one or more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// Whether it names exactly one topic, so that one can publish to it.
    pub fn is_concrete(&self) -> bool {
        self.0
            .split('.')
            .all(|segment| segment != "*" && segment != ">")
    }

    /// Whether a topic falls under this pattern. A topic that is a pattern itself falls under none but its equal.
    pub fn matches(&self, topic: &Self) -> bool {
        if !topic.is_concrete() {
            return self == topic;
        }
        let mut names = topic.0.split('.');
        for segment in self.0.split('.') {
            match (segment, names.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (segment, Some(name)) if segment == name => {}
                (_, _) => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic that falls under the other pattern falls under this one, too.
    pub fn covers(&self, other: &Self) -> bool {
        let mut others = other.0.split('.');
        for segment in self.0.split('.') {
            match (segment, others.next()) {
                (">", Some(_)) => return true,
                ("*", Some(other)) if other != ">" => {}
                (segment, Some(other)) if segment == other && other != "*" => {}
                (_, _) => return false,
            }
        }
        others.next().is_none()
    }

    /// The text after `topic://`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidAddress;
    /// Reads `a.b.*`, with or without `topic://` before it.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.strip_prefix("topic://").unwrap_or(text);
        let segments = text.split('.').count();
        if text.len() > ADDRESS_MAX || segments > TOPIC_SEGMENTS_MAX {
            return Err(InvalidAddress::TooLong);
        }
        for (index, segment) in text.split('.').enumerate() {
            let wild = segment == "*" || (segment == ">" && index + 1 == segments);
            if !wild && (segment.is_empty() || !segment.bytes().all(is_segment)) {
                return Err(InvalidAddress::Part {
                    part: segment.to_owned(),
                    of: "a topic",
                });
            }
        }
        Ok(Self(text.into()))
    }
}

/// Implements serde and schema for a type that is its text.
macro_rules! as_text {
    ($name:ident, $expected:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string", "minLength": 1, "maxLength": ADDRESS_MAX, "x-expected": $expected
                })
            }
        }
    };
}
as_text!(
    Address,
    "an address such as role:name, kai://agent.<id>, topic://a.b or policy://name"
);
as_text!(TopicPattern, "a topic such as a.b, a.* or a.>");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_reads_back_as_itself() {
        for text in [
            "kPlanner:research",
            "user:ada",
            "agent:echo#2",
            "kai://agent.vision-processor",
            "kai://agent.a.b",
            "kai://node.did:key:z6MkhaXg/agent.echo",
            "kai://node.did:key:z6MkhaXg",
            "kai://user.device.kai-core",
            "topic://a.b.*",
            "topic://a.>",
            "policy://restarts/strict",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "echo",
            ":x",
            "a:",
            "a:b:c",
            "a:b c",
            "kai://",
            "kai://agent.",
            "kai://agent",
            "kai://node.n/x",
            "kai://a..b",
            "topic://",
            "topic://a..b",
            "topic://a.>.b",
            "topic://a.b*",
            "policy://",
            "http://x",
            "did:key:z6Mk",
            "a:../b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!(
            format!("a:{}", "x".repeat(ADDRESS_MAX)).parse::<Address>(),
            Err(InvalidAddress::TooLong)
        );
    }

    #[test]
    fn star_stands_for_one_segment_and_the_last_arrow_for_the_rest() {
        let matches = |pattern: &str, topic: &str| {
            pattern
                .parse::<TopicPattern>()
                .unwrap()
                .matches(&topic.parse().unwrap())
        };
        assert!(matches("a.b", "a.b"));
        assert!(matches("a.*", "a.b"));
        assert!(matches("*.b", "a.b"));
        assert!(matches("a.>", "a.b.c"));
        assert!(matches(">", "a"));
        assert!(!matches("a.*", "a"));
        assert!(!matches("a.*", "a.b.c"));
        assert!(!matches("a.>", "a"));
        assert!(!matches("a", "a.b"));
        assert!(!matches("a.b", "a.*"));
    }

    fn topic() -> impl Strategy<Value = TopicPattern> {
        let segments = proptest::collection::vec("[ab*]", 1..4);
        (segments, any::<bool>()).prop_map(|(mut segments, rest)| {
            if rest {
                segments.push(">".to_owned());
            }
            segments.join(".").parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_covers_a_pattern_matches_all_that_it_matches(
            (wide, narrow) in (topic(), topic()), name in "[ab](\\.[ab]){0,4}",
        ) {
            let name: TopicPattern = name.parse().unwrap();
            if wide.covers(&narrow) && narrow.matches(&name) {
                prop_assert!(wide.matches(&name), "{wide} covers {narrow}, and not {name}");
            }
            prop_assert!(wide.covers(&wide));
            prop_assert_eq!(wide.covers(&name), wide.matches(&name));
        }

        #[test]
        fn whatever_is_read_is_written_as_it_was(text in "[a-z:/.*>#@-]{0,24}|(kai|topic|policy)://[a-zA-Z0-9.:/*>-]{0,24}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
