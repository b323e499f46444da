//! Secrets as the outside sets and lists them. A value goes one way only.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::time::Timestamp;

/// A secret's value on its way in. Wiped when dropped; it has no way out again.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a value.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The value as bytes. They are wiped when dropped.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.as_bytes().to_vec())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own words would show what stood in its place, which is likely the secret all the same.
        let wrong = |_| serde::de::Error::custom("expected a string");
        String::deserialize(deserializer)
            .map(Self::new)
            .map_err(wrong)
    }
}

impl Serialize for SecretText {
    /// Nothing that holds a value is ever written out; what is written says so.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 65536, "writeOnly": true })
    }
}

/// The body of `PUT /v1/secrets/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretWrite {
    /// The value, 1 to 65536 bytes of UTF-8. It is never given back.
    pub value: SecretText,
    /// Agents that may use it; `*` is every agent. Nobody when empty.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub agents: Vec<String>,
    /// Domains to whose requests meshd may add it. With any of them, no agent gets it as a file.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub domains: Vec<String>,
}

/// A secret as it is listed: everything but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// Agents that may use it.
    pub agents: Vec<String>,
    /// Domains that it is bound to.
    pub domains: Vec<String>,
    /// When it was last set.
    pub updated: Timestamp,
    /// How often it was set.
    pub version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_no_way_out() {
        let write: SecretWrite = serde_json::from_str(r#"{"value":"hunter2"}"#).unwrap();
        assert!(!format!("{write:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&write).unwrap().contains("hunter2"));
        let refused = serde_json::from_str::<SecretWrite>(r#"{"value":4711}"#).unwrap_err();
        assert!(!refused.to_string().contains("4711"), "{refused}");
        assert_eq!(&write.value.into_bytes()[..], b"hunter2");
    }
}
