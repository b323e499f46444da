//! Versions of documents whose text a reader of YAML or JSON has lost.

use mesh_messages::schema::FieldError;
use mesh_messages::workflow::NESTING_MAX;
use serde_json::Value;

use super::join;

/// The versions, of a document and of those that are written out in it, whose text is lost: a fraction is read as a
/// number, which is the same for 1.1 and 1.10. Looked for in what was sent, as later every version is a text.
pub(super) fn versions(source: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut open = vec![(String::new(), source)];
    // Workflows that are nested deeper are refused for that.
    for _ in 0..NESTING_MAX {
        let mut within = Vec::new();
        for (path, document) in open {
            if let Some(Value::Number(version)) = document.get("version")
                && !version.is_i64()
                && !version.is_u64()
            {
                let message = format!(
                    "{version} is a number that may have been written otherwise, as 1.10 is read as 1.1; put it in quotes"
                );
                errors.push(FieldError::new(join(&path, "version"), message));
            }
            let steps = document.get("steps").and_then(Value::as_array);
            for (index, step) in steps.into_iter().flatten().enumerate() {
                if let Some(inner) = step.get("workflow") {
                    let field = format!("steps[{index}].workflow");
                    within.push((join(&path, &field), inner));
                }
            }
        }
        open = within;
    }
    errors
}
