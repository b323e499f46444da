//! Texts of a fixed form within a manifest: only their schemas, since the schema is what checks them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! pattern {
    ($(#[$doc:meta])* $name:ident, $max:expr, $pattern:expr, $expected:expr) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "maxLength": $max, "pattern": $pattern, "x-expected": $expected
                })
            }
        }
    };
}

pattern!(
    /// The expression that semver.org suggests.
    SemanticVersion,
    128,
    concat!(
        r"^(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})",
        r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?",
        r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$"
    ),
    "a semantic version such as 1.0.3"
);
pattern!(
    /// A capability, as tasks require it.
    Capability,
    128,
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
    "a capability's name (A-Z a-z 0-9 . _ : / -, starting with a letter or digit)"
);
pattern!(
    /// A host name, `*.` before it for all names below it.
    Domain,
    253,
    r"^(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
    "a domain name such as example.com or *.example.com"
);
pattern!(
    /// A host name, `*.` before it for all names below it, or `*` alone for every name.
    DomainOrAny,
    253,
    r"^(\*|(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)$",
    "a domain name such as example.com or *.example.com, or * for every name"
);
pattern!(
    /// A reference into a vault.
    VaultReference,
    512,
    r"^vault://[^\s]+$",
    "a reference such as vault://name@store"
);
pattern!(
    /// The digest of a bundle.
    Blake3,
    71,
    r"^blake3:[0-9a-f]{64}$",
    "blake3: and 64 hexadecimal digits"
);
pattern!(
    /// A protocol's name.
    Protocol,
    32,
    r"^[a-z][a-z0-9+.-]*$",
    "a protocol's name such as https"
);
pattern!(
    /// What a permission is for.
    Resource,
    128,
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
    "a resource's name such as file, network or calendar"
);
