//! Strict reading of JSON and YAML from outside, and the canonical form that signatures cover.
//!
//! Two readers that disagree about one text are how signed things get forged, so everything on which JSON readers
//! differ is refused here: duplicate keys, numbers that a double cannot hold exactly, trailing bytes, invalid UTF-8.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting that is read. People write ten levels; recursion over hostile input has to end somewhere.
pub const DEPTH_MAX: usize = 64;

/// Largest magnitude of a number, 2^53: beyond it a double, and with it most other readers, loses the last digits.
pub const NUMBER_MAX: u64 = 1 << 53;

/// Why a text is not acceptable JSON (or YAML): where, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {byte}, at {}: {reason}", if path.is_empty() { "the top" } else { path })]
pub struct JsonError {
    /// Path of the value that was being read, such as `payload.params[2]`; empty at the top.
    pub path: String,
    /// Offset of the offending byte, from 0.
    pub byte: usize,
    /// What is wrong, for people.
    pub reason: String,
}

/// Reads one JSON value that fills `bytes` entirely.
///
/// # Errors
/// [`JsonError`] for anything that is not JSON, and for JSON that two readers could understand differently.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = utf8(bytes)?;
    let place = Place::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Node(&place)
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| JsonError {
        path: place.path(),
        byte: offset(text, error.line(), error.column()),
        reason: plain(&error.to_string()),
    })
}

/// Reads one YAML document as the JSON value it means, as strictly as [`parse`].
///
/// Only `true` and `false` are booleans. Aliases are bounded, so that a small text cannot become a large value.
///
/// # Errors
/// [`JsonError`]; its `byte` is where the reader stood.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = utf8(bytes)?;
    let place = Place::default();
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Node(&place).deserialize(reader)
    });
    read.map_err(|error| {
        let byte = error.location().map_or(0, |at| {
            offset(
                text,
                usize::try_from(at.line()).unwrap_or(1),
                usize::try_from(at.column()).unwrap_or(1),
            )
        });
        JsonError {
            path: place.path(),
            byte,
            reason: error.to_string(),
        }
    })
}

/// The RFC 8785 canonical form: one text for one value, whoever wrote it.
///
/// # Panics
/// Never: a [`Value`] has text for keys and finite numbers, all that canonicalisation needs.
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value)
        .expect("a JSON value has string keys and finite numbers")
}

fn utf8(bytes: &[u8]) -> Result<&str, JsonError> {
    std::str::from_utf8(bytes).map_err(|error| JsonError {
        path: String::new(),
        byte: error.valid_up_to(),
        reason: "not UTF-8".to_owned(),
    })
}

/// Byte offset of a line and column, both from 1, as `serde_json` counts them (columns in bytes).
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// `serde_json` appends the line and column, which the byte offset replaces.
fn plain(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

/// Where in the document the reader stands. Left as it is when an error unwinds, so that it can be reported.
#[derive(Default)]
struct Place(RefCell<Vec<Segment>>);

enum Segment {
    Key(String),
    Index(usize),
}

impl Place {
    fn enter<E: de::Error>(&self, segment: Segment) -> Result<(), E> {
        let mut segments = self.0.borrow_mut();
        segments.push(segment);
        if segments.len() > DEPTH_MAX {
            return Err(E::custom(format_args!(
                "nested deeper than {DEPTH_MAX} levels"
            )));
        }
        Ok(())
    }

    fn leave(&self) {
        self.0.borrow_mut().pop();
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.0.borrow().iter() {
            match segment {
                Segment::Key(key) => push_key(&mut path, key),
                Segment::Index(index) => push_index(&mut path, *index),
            }
        }
        path
    }
}

/// Appends an object key to a path such as `a.b[2]`.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Appends an array index to a path such as `a.b[2]`.
pub(crate) fn push_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}

#[derive(Clone, Copy)]
struct Node<'p>(&'p Place);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

fn exact<E: de::Error>(magnitude: u64, number: impl Into<Number>) -> Result<Value, E> {
    if magnitude > NUMBER_MAX {
        return Err(E::custom(
            "number beyond 2^53, which not every reader holds exactly; send it as a string",
        ));
    }
    Ok(Value::Number(number.into()))
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        exact(v, v)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        exact(v.unsigned_abs(), v)
    }

    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Value, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => exact(u64::MAX, 0),
        }
    }

    fn visit_u128<E: de::Error>(self, v: u128) -> Result<Value, E> {
        self.visit_u64(u64::try_from(v).unwrap_or(u64::MAX))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        // Every double of this magnitude is an integer, so `1e300` is as inexact as its digits would be.
        #[expect(clippy::cast_precision_loss, reason = "2^53 is exact")]
        let magnitude = if v.abs() > NUMBER_MAX as f64 {
            u64::MAX
        } else {
            0
        };
        match Number::from_f64(v) {
            Some(number) => exact(magnitude, number),
            None => Err(E::custom("NaN and infinities are not JSON")),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            self.0.enter(Segment::Index(out.len()))?;
            let Some(item) = items.next_element_seed(self)? else {
                break;
            };
            self.0.leave();
            out.push(item);
        }
        self.0.leave();
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.0.enter(Segment::Key(key.clone()))?;
            if out.contains_key(&key) {
                return Err(de::Error::custom("duplicate key"));
            }
            let value = entries.next_value_seed(self)?;
            self.0.leave();
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &[u8], path: &str, byte: usize, reason: &str) {
        let error = parse(text).expect_err("must be refused");
        assert!(error.reason.contains(reason), "{error}");
        assert_eq!((error.path.as_str(), error.byte), (path, byte), "{error}");
    }

    #[test]
    fn ordinary_json_is_read_as_it_stands() {
        let value = parse(br#" {"a":[1,-2,0.5,"x",null,true],"b":{}} "#).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": [1, -2, 0.5, "x", null, true], "b": {}})
        );
        assert_eq!(
            parse(b"9007199254740992").unwrap(),
            serde_json::json!(9_007_199_254_740_992_u64)
        );
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused_with_path_and_byte() {
        refused(br#"{"a":{"b":1,"b":2}}"#, "a.b", 14, "duplicate key");
        refused(br#"{"a":1,"\u0061":2}"#, "a", 14, "duplicate key");
        refused(br#"{"n":[1,9007199254740993]}"#, "n[1]", 23, "2^53");
        refused(br#"{"n":-9007199254740993}"#, "n", 21, "2^53");
        refused(br#"{"n":1e300}"#, "n", 9, "2^53");
        refused(br#"{"n":123456789012345678901234567890}"#, "n", 34, "2^53");
        refused(br#"{"n":NaN}"#, "n", 5, "expected value");
        refused(br#"{"n":1e999}"#, "n", 9, "out of range");
        refused(br"{} x", "", 3, "trailing");
        refused(b"{\"a\":\"\xff\"}", "", 6, "UTF-8");
        refused(b"", "", 0, "EOF");
    }

    #[test]
    fn nesting_beyond_the_bound_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(
            parse(nested(DEPTH_MAX + 1).as_bytes())
                .unwrap_err()
                .reason
                .contains("nested")
        );
        assert!(parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn yaml_is_read_as_the_json_it_means() {
        let value = parse_yaml(b"a: 1\nb: [x, yes, true]\nc:\n  d: 512MB\ne: 0.7\nf: ~\n").unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": 1, "b": ["x", "yes", true], "c": {"d": "512MB"}, "e": 0.7, "f": null})
        );
    }

    #[test]
    fn yaml_with_duplicate_keys_several_documents_or_huge_numbers_is_refused() {
        for text in [
            "a: 1\na: 2\n",
            "a:\n  b: 1\n  b: 2\n",
            "--- 1\n--- 2\n",
            "a: 9007199254740993\n",
            "a: .nan\n",
        ] {
            assert!(parse_yaml(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn canonical_form_is_rfc_8785() {
        let value = parse(br#"{"b":1.0,"a":"\u20ac","c":[1e-7,100,0.1]}"#).unwrap();
        assert_eq!(
            canonical(&value),
            r#"{"a":"€","b":1,"c":[1e-7,100,0.1]}"#.as_bytes()
        );
    }
}
