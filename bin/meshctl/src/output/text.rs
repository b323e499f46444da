//! Small texts: sizes, spans of time, values, and what is safe to show.

use mesh_messages::quality::Quality;
use serde_json::Value;

/// Text without anything that a terminal would obey: control characters are spelled out, tabs and line ends kept.
///
/// Agents, tasks and logs may hold anything; showing them must not move a cursor or set a title.
pub(crate) fn plain(text: &str) -> String {
    let is_safe = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(is_safe) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_safe(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_unicode());
        }
    }
    shown
}

/// A span of time, to two units: `1d2h`, `3m20s`, `4.5s`, `120ms`.
pub(crate) fn span(ms: u64) -> String {
    let (seconds, minutes, hours, days) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match (days, hours, minutes, seconds) {
        (1.., ..) => format!("{days}d{}h", hours % 24),
        (0, 1.., ..) => format!("{hours}h{}m", minutes % 60),
        (0, 0, 1.., _) => format!("{minutes}m{}s", seconds % 60),
        (0, 0, 0, 1..) => format!("{seconds}.{}s", ms % 1000 / 100),
        (0, 0, 0, 0) => format!("{ms}ms"),
    }
}

/// A size in megabytes, or a dash.
pub(crate) fn megabytes(size: Option<f64>) -> String {
    size.map_or_else(|| "-".to_owned(), |size| format!("{size:.1}MB"))
}

/// A share of a core, or a dash.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.1}%"))
}

/// How many of the tasks whose results were verified passed, at first and in the end.
pub(crate) fn quality(of: &Quality) -> String {
    let Quality {
        verified,
        passed_first,
        passed,
    } = of;
    match verified {
        0 => "-".to_owned(),
        _ => format!("{passed}/{verified} passed, {passed_first} at first"),
    }
}

/// A value in one line: texts bare, everything else as JSON.
pub(crate) fn compact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A document as lines of `path` and text, for showing what has no view of its own. Nulls are left out.
pub(super) fn pairs(value: &Value) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    collect(value, &mut String::new(), &mut pairs);
    pairs
}

fn collect(value: &Value, path: &mut String, pairs: &mut Vec<(String, String)>) {
    let length = path.len();
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                collect(value, path, pairs);
                path.truncate(length);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, value) in items.iter().enumerate() {
                path.extend(["[", &index.to_string(), "]"]);
                collect(value, path, pairs);
                path.truncate(length);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let items: Vec<String> = items.iter().map(compact).collect();
            pairs.push((path.clone(), items.join(", ")));
        }
        // Nothing in it to show.
        Value::Null | Value::Object(_) | Value::Array(_) => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            pairs.push((path.clone(), compact(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        for (ms, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1.0s"),
            (59_990, "59.9s"),
            (60_000, "1m0s"),
            (3_600_000, "1h0m"),
            (90_061_000, "1d1h"),
        ] {
            assert_eq!(span(ms), expected);
        }
    }

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(
            plain("\u{1b}]0;title\u{7}a\tb\nc\u{9b}2J"),
            "\\u{1b}]0;title\\u{7}a\tb\nc\\u{9b}2J"
        );
    }

    #[test]
    fn documents_become_paths_and_texts() {
        let value = json!({"a": {"b": 1, "c": null}, "d": ["x", "y"], "e": [{"f": true}], "g": [], "h": {}});
        let pairs: Vec<String> = pairs(&value)
            .into_iter()
            .map(|(path, text)| format!("{path}={text}"))
            .collect();
        assert_eq!(pairs, ["a.b=1", "d=x, y", "e[0].f=true"]);
    }
}
