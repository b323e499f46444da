//! From bytes to typed bodies. What cannot be read is 400, what can be read and makes no sense is 422.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_messages::json::{self, JsonError};
use mesh_messages::schema::{Checker, FieldError};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Refusal;

/// Reads JSON as strictly as signatures need it: whoever reads the same bytes elsewhere understands the same.
pub(crate) fn value(bytes: &[u8]) -> Result<Value, Refusal> {
    json::parse(bytes).map_err(|error| malformed(bytes, error))
}

/// Reads a JSON body of a type.
pub(crate) fn body<T: Body>(bytes: &[u8]) -> Result<T, Refusal> {
    typed(value(bytes)?)
}

/// What can be read from a body: it is checked against its schema first.
pub(crate) trait Body: DeserializeOwned + JsonSchema + 'static {}

impl<T: DeserializeOwned + JsonSchema + 'static> Body for T {}

/// Gives a value its type; refusals name every field that is wrong.
///
/// The schema is asked first. serde alone would read an array as an object whose names are left out, stop at the first
/// thing that is wrong, and speak of Rust's types.
pub(crate) fn typed<T: Body>(value: Value) -> Result<T, Refusal> {
    let errors = checker::<T>()?.check(&value);
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            top if top == "." => String::new(),
            path => path,
        };
        refused(vec![FieldError::new(path, plain(error.inner()))])
    })
}

/// The checker of a type, which is made once.
fn checker<T: JsonSchema + 'static>() -> Result<Arc<Checker>, Refusal> {
    static CHECKERS: Mutex<BTreeMap<TypeId, Arc<Checker>>> = Mutex::new(BTreeMap::new());
    let mut checkers = CHECKERS.lock().unwrap_or_else(PoisonError::into_inner);
    match checkers.entry(TypeId::of::<T>()) {
        Entry::Occupied(made) => Ok(Arc::clone(made.get())),
        Entry::Vacant(place) => {
            let made = Checker::of::<T>()
                .map_err(|error| Refusal::new("internal", format!("a body's schema: {error}")))?;
            Ok(Arc::clone(place.insert(Arc::new(made))))
        }
    }
}

/// All that is wrong as one refusal, which is about the first of it.
fn refused(errors: Vec<FieldError>) -> Refusal {
    let texts: Vec<String> = errors
        .iter()
        .map(|error| match error.path.as_str() {
            "" => format!("the body: {error}"),
            _ => error.to_string(),
        })
        .collect();
    let Some((first, text)) = errors.into_iter().zip(&texts).next() else {
        return Refusal::new("internal", "a refusal without a reason");
    };
    let code = if first.is_unknown() {
        "unknown_field"
    } else if first.is_missing() {
        "missing_field"
    } else {
        "invalid_value"
    };
    let mut refusal = Refusal::new(code, text);
    if !first.path.is_empty() {
        refusal = refusal.field(first.path);
    }
    if texts.len() > 1 {
        refusal = refusal.errors(texts);
    }
    refusal
}

/// What a type's own reader says, without Rust's words for numbers: `1.0` conforms to a schema's integer.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((_, "u8" | "u16" | "u32" | "u64" | "usize" | "i64")) => {
            "expected a whole number, written without a fraction".to_owned()
        }
        _ => text,
    }
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
            "1 is not of type string",
        );
        refused(
            r#"{"priority":"hihg"}"#,
            "invalid_value",
            Some("priority"),
            "\"hihg\" is not one of low, normal, high, critical; did you mean \"high\"?",
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
        refused(
            "7",
            "invalid_value",
            None,
            "the body: 7 is not of type object",
        );
    }

    #[test]
    fn an_array_is_no_object_whose_names_are_left_out() {
        refused(
            r#"[["echo"]]"#,
            "invalid_value",
            Some("[0]"),
            "is not of type object",
        );
        refused(
            r#"{"retry":[3]}"#,
            "invalid_value",
            Some("retry"),
            "[3] is not of type object",
        );
        refused(
            r#"[{"contract":[{}]}]"#,
            "invalid_value",
            Some("[0].contract"),
            "is not of type object",
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_and_in_plain_words() {
        let text = r#"{"prio":"low","priority":7,"retry":{"maxAttempts":-1,"baseDelayMs":"1s"},"labels":{"a":1},"deadlineMs":1.5}"#;
        let document = typed::<TaskSpec>(value(text.as_bytes()).expect(text))
            .expect_err(text)
            .document();
        let fields: Vec<_> = document
            .errors
            .iter()
            .map(|error| error.split(':').next().unwrap_or_default())
            .collect();
        let expected = [
            "deadlineMs",
            "labels.a",
            "prio",
            "priority",
            "retry.baseDelayMs",
            "retry.maxAttempts",
        ];
        assert_eq!(fields, expected, "{document:?}");
        for word in ["u64", "u32", "struct", "variant", "Option", "enum"] {
            assert!(
                !format!("{document:?}").contains(&format!(" {word}")),
                "{document:?}"
            );
        }
        let document = typed::<TaskSpec>(serde_json::json!({"deadlineMs": 1.0}))
            .expect_err("a fraction")
            .document();
        assert_eq!(document.field.as_deref(), Some("deadlineMs"));
        assert!(document.detail.contains("whole number"), "{document:?}");
    }
}
