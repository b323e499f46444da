//! Rules about single requests: methods and paths.

use std::collections::BTreeSet;
use std::fmt;

use crate::host::{HostError, Pattern};

/// Longest method or path in a rule.
const RULE_BYTES_MAX: usize = 2048;

/// Paths that a rule names: one, or with `*` at its end everything that begins like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    prefix: bool,
}

/// Why a rule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Not a host.
    #[error("{text:?}: {source}")]
    Host {
        /// What it said.
        text: String,
        /// What is wrong with it.
        source: HostError,
    },
    /// Not a path.
    #[error(
        "{0:?} is not a path such as /v1/models or /v1/*, without `..`, `//`, escapes and `*` but at the end"
    )]
    Path(String),
    /// Not a method.
    #[error("{0:?} is not a method in capital letters such as GET")]
    Method(String),
}

impl PathPattern {
    /// Reads `/v1/models` or `/v1/*`.
    ///
    /// # Errors
    /// [`RuleError::Path`].
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let (rest, prefix) = match text.strip_suffix('*') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if text.len() > RULE_BYTES_MAX || !plain_path(rest) || rest.contains(['*', '?']) {
            return Err(RuleError::Path(text.to_owned()));
        }
        Ok(Self {
            text: rest.to_owned(),
            prefix,
        })
    }

    /// Whether it names this path, which is without its query.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        if self.prefix {
            path.starts_with(&self.text)
        } else {
            path == self.text
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// Whether a path means the same to every server: no steps upward, no empty parts, no escapes of what has a meaning.
#[must_use]
pub fn plain_path(path: &str) -> bool {
    let bytes = path.as_bytes();
    let escaped = |index: usize| bytes.get(index + 1..index + 3);
    let dangerous = |index: usize| {
        escaped(index).is_none_or(|digits| {
            let text = digits.to_ascii_lowercase();
            // `%2e`, `%2f`, `%5c`, `%25`, `%3b` and whatever is no escape or a control character.
            !text.iter().all(u8::is_ascii_hexdigit)
                || matches!(&text[..], b"2e" | b"2f" | b"5c" | b"25" | b"3b" | b"7f")
                || matches!(text[0], b'0' | b'1')
        })
    };
    path.starts_with('/')
        && bytes.iter().all(u8::is_ascii_graphic)
        && !path.contains("//")
        && !path.contains(['\\', ';'])
        && !path.split('/').any(|part| part == "." || part == "..")
        && !(0..bytes.len()).any(|index| bytes[index] == b'%' && dangerous(index))
}

/// What may be asked of a host, when not everything may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRule {
    /// The hosts it is about.
    pub hosts: Vec<Pattern>,
    /// The methods; any when absent, none when empty.
    pub methods: Option<BTreeSet<String>>,
    /// The paths; any when absent, none when empty.
    pub paths: Option<Vec<PathPattern>>,
}

impl RequestRule {
    /// Reads a rule from texts.
    ///
    /// # Errors
    /// [`RuleError`], for the first text that cannot be read.
    pub fn parse(
        hosts: &[String],
        methods: Option<&[String]>,
        paths: Option<&[String]>,
    ) -> Result<Self, RuleError> {
        let host = |text: &String| {
            Pattern::parse(text).map_err(|source| RuleError::Host {
                text: text.clone(),
                source,
            })
        };
        let method = |text: &String| {
            let legal =
                (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase());
            legal
                .then(|| text.clone())
                .ok_or_else(|| RuleError::Method(text.clone()))
        };
        Ok(Self {
            hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
            methods: methods
                .map(|list| list.iter().map(method).collect())
                .transpose()?,
            paths: paths
                .map(|list| {
                    list.iter()
                        .map(String::as_str)
                        .map(PathPattern::parse)
                        .collect()
                })
                .transpose()?,
        })
    }

    /// Whether the method is one of the rule's.
    #[must_use]
    pub fn takes_method(&self, method: &str) -> bool {
        self.methods
            .as_ref()
            .is_none_or(|list| list.contains(method))
    }

    /// Whether the path, without its query, is one of the rule's.
    #[must_use]
    pub fn takes_path(&self, path: &str) -> bool {
        self.paths
            .as_ref()
            .is_none_or(|list| list.iter().any(|pattern| pattern.matches(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_server_may_read_otherwise_is_not_plain() {
        for path in ["/", "/v1/models", "/a%20b", "/v1/x?", "/~user/@me/a:b"] {
            assert!(plain_path(path), "{path}");
        }
        for path in [
            "",
            "v1",
            "//x",
            "/a//b",
            "/a/../b",
            "/..",
            "/./a",
            "/a/%2e%2e/b",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%",
            "/a%g0",
            "/a%0a",
            "/a%252e",
            "/a;b",
            "/a b",
            "/ä",
        ] {
            assert!(!plain_path(path), "{path}");
        }
    }

    #[test]
    fn a_star_at_the_end_names_all_that_begins_so() {
        let below = PathPattern::parse("/v1/*").unwrap();
        assert!(below.matches("/v1/") && below.matches("/v1/a/b"));
        assert!(!below.matches("/v1") && !below.matches("/v10"));
        let one = PathPattern::parse("/v1").unwrap();
        assert!(one.matches("/v1") && !one.matches("/v1/"));
        for text in ["", "*", "/a*b", "/../*", "/a?b"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }
}
