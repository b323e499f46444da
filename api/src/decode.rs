//! From bytes to typed bodies. What cannot be read is 400, what can be read and makes no sense is 422.

use mesh_messages::json::{self, JsonError};
use mesh_messages::schema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Refusal;

/// Reads JSON as strictly as signatures need it: whoever reads the same bytes elsewhere understands the same.
pub(crate) fn value(bytes: &[u8]) -> Result<Value, Refusal> {
    json::parse(bytes).map_err(|error| malformed(bytes, error))
}

/// Reads a JSON body of a type.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    typed(value(bytes)?)
}

/// Gives a value its type; refusals name the field.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        invalid(
            if path == "." { "" } else { &path },
            &error.into_inner().to_string(),
        )
    })
}

fn malformed(bytes: &[u8], error: JsonError) -> Refusal {
    let before = &bytes[..error.byte.min(bytes.len())];
    let line = 1 + before.split(|byte| *byte == b'\n').skip(1).count();
    let column = 1 + before
        .iter()
        .rev()
        .take_while(|byte| **byte != b'\n')
        .count();
    let refusal = Refusal::new(
        "malformed_json",
        format!("{error} (line {line}, column {column})"),
    );
    if error.path.is_empty() {
        refusal
    } else {
        refusal.field(error.path)
    }
}

/// serde says in words what it misses; the words are turned back into fields.
fn invalid(path: &str, message: &str) -> Refusal {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field `") {
        // The path leads to the unknown key itself.
        let name = quoted.next().unwrap_or_default();
        let field = if path.is_empty() { name } else { path };
        let hint = schema::unknown_key(name, quoted);
        return Refusal::new("unknown_field", format!("{field}: {hint}")).field(field);
    }
    if message.starts_with("missing field `") {
        let field = join(path, quoted.next().unwrap_or_default());
        return Refusal::new("missing_field", format!("{field}: required, but missing"))
            .field(field);
    }
    if path.is_empty() {
        return Refusal::new("invalid_value", message);
    }
    Refusal::new("invalid_value", format!("{path}: {message}")).field(path)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::task::TaskSpec;

    use super::*;

    #[track_caller]
    fn refused(text: &str, code: &str, field: Option<&str>, detail: &str) {
        let document = match value(text.as_bytes()) {
            Err(refusal) => refusal.document(),
            Ok(value) if value.is_array() => {
                typed::<Vec<TaskSpec>>(value).expect_err(text).document()
            }
            Ok(value) => typed::<TaskSpec>(value).expect_err(text).document(),
        };
        assert_eq!(
            (document.code.as_str(), document.field.as_deref()),
            (code, field),
            "{document:?}"
        );
        assert!(document.detail.contains(detail), "{document:?}");
    }

    #[test]
    fn what_cannot_be_read_names_the_place() {
        refused("{", "malformed_json", None, "line 1, column");
        refused(
            "{\"type\":\n \"a\",\n \"type\": 1}",
            "malformed_json",
            Some("type"),
            "line 3, column",
        );
        refused(
            r#"{"input":{"n":9007199254740993}}"#,
            "malformed_json",
            Some("input.n"),
            "2^53",
        );
        refused(r#"{"type":"a"} x"#, "malformed_json", None, "trailing");
    }

    #[test]
    fn what_makes_no_sense_names_the_field() {
        refused(
            r#"{"prioritty":"low"}"#,
            "unknown_field",
            Some("prioritty"),
            "did you mean \"priority\"",
        );
        refused(
            r#"{"requirements":["a",1]}"#,
            "invalid_value",
            Some("requirements[1]"),
            "expected a string",
        );
        refused(
            r#"{"priority":"hihg"}"#,
            "invalid_value",
            Some("priority"),
            "unknown variant `hihg`",
        );
        refused(
            r#"{"retry":{"maxAttempt":3}}"#,
            "unknown_field",
            Some("retry.maxAttempt"),
            "maxAttempts",
        );
        refused(
            r#"[{},{},{},{"priority":7}]"#,
            "invalid_value",
            Some("[3].priority"),
            "",
        );
        refused(
            r#"[{},{"x":7}]"#,
            "unknown_field",
            Some("[1].x"),
            "unknown key",
        );
        refused("7", "invalid_value", None, "expected struct TaskSpec");
    }
}
