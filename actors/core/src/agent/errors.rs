//! What went wrong with an agent, grouped: a crash loop is one error many times, and does not grow the state.

use std::collections::BTreeMap;

use mesh_messages::Timestamp;
use mesh_messages::agent::ErrorSummary;

/// Groups that are kept; the one that was not seen for longest makes room.
const GROUPS_MAX: usize = 32;
/// How much of a text is kept.
const MESSAGE_MAX: usize = 500;
/// How much of a text tells it from others.
const FINGERPRINT_MAX: usize = 160;

/// Takes an occurrence in.
pub(super) fn note(
    errors: &mut BTreeMap<String, ErrorSummary>,
    kind: &str,
    message: &str,
    at: Timestamp,
) {
    let fingerprint = fingerprint(kind, message);
    if !errors.contains_key(&fingerprint) && errors.len() >= GROUPS_MAX {
        let oldest = errors.iter().min_by_key(|(_, e)| e.last_occurrence);
        if let Some(oldest) = oldest.map(|(fingerprint, _)| fingerprint.clone()) {
            errors.remove(&oldest);
        }
    }
    let entry = errors.entry(fingerprint).or_insert_with(|| ErrorSummary {
        kind: kind.to_owned(),
        count: 0,
        last_occurrence: at,
        message: String::new(),
    });
    entry.count += 1;
    entry.last_occurrence = at;
    entry.message = message.chars().take(MESSAGE_MAX).collect();
}

/// The text with every word that holds a digit made the same, since times, numbers, ids and addresses differ from one
/// occurrence to the next; but the number of a signal or of an exit code is what happened.
fn fingerprint(kind: &str, message: &str) -> String {
    let mut text = format!("{kind}:");
    let mut before = "";
    for word in message.split_whitespace() {
        text.push(' ');
        let varies = word.bytes().any(|b| b.is_ascii_digit());
        let meant = matches!(before, "signal" | "code");
        text.push_str(if varies && !meant { "#" } else { word });
        before = word;
        if text.len() >= FINGERPRINT_MAX {
            break;
        }
    }
    text.chars().take(FINGERPRINT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(occurrences: &[(&str, &str)]) -> Vec<(String, u64)> {
        let mut errors = BTreeMap::new();
        for (at, (kind, message)) in (0..).zip(occurrences) {
            note(&mut errors, kind, message, Timestamp::from_millis(at));
        }
        let counted = errors.values().map(|e| (e.message.clone(), e.count));
        counted.collect()
    }

    #[test]
    fn what_differs_in_numbers_is_one_error_and_what_differs_in_words_is_not() {
        let counted = counts(&[
            ("crash", "killed by signal 9"),
            ("crash", "killed by signal 11"),
            ("crash", "panicked at 1.5 s"),
            ("hang", "panicked"),
            ("crash", "panicked at 9.5 s"),
        ]);
        let expected = [
            ("killed by signal 11", 1),
            ("killed by signal 9", 1),
            ("panicked at 9.5 s", 2),
            ("panicked", 1),
        ];
        assert_eq!(counted, expected.map(|(text, n)| (text.to_owned(), n)));
    }

    #[test]
    fn there_are_never_more_groups_than_fit_and_the_oldest_goes() {
        let words: Vec<String> = ["a", "b", "c", "d", "e", "f", "g", "h"]
            .iter()
            .flat_map(|x| ["k", "l", "m", "n", "o"].map(|y| format!("{x}{y}")))
            .collect();
        let all: Vec<_> = words.iter().map(|word| ("crash", word.as_str())).collect();
        let counted = counts(&all);
        assert_eq!(counted.len(), GROUPS_MAX);
        assert!(counted.iter().any(|(text, _)| text == "ho"));
        assert!(!counted.iter().any(|(text, _)| text == "ak"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "\u{e4}".repeat(10_000);
        let counted = counts(&[("crash", &long)]);
        assert_eq!(counted[0].0.chars().count(), MESSAGE_MAX);
    }
}
