//! Every identifier, typed.
//!
//! An identity (`AgentId`) outlives its incarnations; an incarnation is named by its [`Epoch`], an attempt of a task by
//! its [`AttemptNo`]. Whatever is sent, timed, leased or reported carries them, so that what is stale can be refused.

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {max} characters out of {allowed}, starting with a letter or digit")]
pub struct InvalidId {
    max: usize,
    allowed: &'static str,
}

/// Longest agent id, in bytes: it becomes a directory name, a cgroup and a host name.
pub const AGENT_ID_MAX: usize = 63;
/// Longest task id, in bytes.
pub const TASK_ID_MAX: usize = 64;

fn check(text: &str, max: usize) -> Result<(), InvalidId> {
    let ok = !text.is_empty()
        && text.len() <= max
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok {
        Ok(())
    } else {
        Err(InvalidId {
            max,
            allowed: "A-Z a-z 0-9 - _ .",
        })
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and takes a text.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long, or holds a character that is not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                check(text.as_ref(), $max)?;
                Ok(Self(text.as_ref().into()))
            }
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                Self::new(s)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": $max
                })
            }
        }
    };
}

text_id! {
    /// An agent's identity: the `id` of its manifest. Never an incarnation.
    AgentId, AGENT_ID_MAX
}
text_id! {
    /// A task's identity. meshd makes UUID v7; a derived id (a delegated child's, say) is any text of this form.
    TaskId, TASK_ID_MAX
}

text_id! {
    /// A run of a workflow. meshd makes UUID v7; the run of a step's workflow has a derived id.
    WorkflowRunId, TASK_ID_MAX
}

text_id! {
    /// A stored plan.
    PlanId, AGENT_ID_MAX
}

text_id! {
    /// A schedule's name; it is its identity.
    ScheduleId, AGENT_ID_MAX
}

text_id! {
    /// A service's name; it is its identity.
    ServiceId, AGENT_ID_MAX
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// Which start of an agent this is. The first start is 1; 0 means "never started".
    Epoch, u64
}
number_id! {
    /// Which attempt of a task this is. The first is 1.
    AttemptNo, u32
}
number_id! {
    /// Which replica of an agent this is, from 0.
    InstanceNo, u32
}
number_id! {
    /// Index of a record in its log, from 0.
    Position, u64
}
