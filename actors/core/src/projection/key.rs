//! Keys made of parts, so that what belongs together lies together and in order.

use mesh_messages::Position;

/// Ends a text within a key. No identifier holds it; free text is made safe by [`text`].
const END: u8 = 0;
/// Longest free text of a key. Longer texts are cut, and readers look at the row anyway.
const TEXT_MAX: usize = 256;

/// A key that begins with these texts.
pub(super) fn prefix(texts: &[&str]) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    for part in texts {
        key.extend(text(part));
        key.push(END);
    }
    key
}

/// The same, and then a position in ascending order.
pub(super) fn ascending(texts: &[&str], position: Position) -> Vec<u8> {
    let mut key = prefix(texts);
    key.extend(position.0.to_be_bytes());
    key
}

/// A key that begins with this, and then a position in ascending order.
pub(super) fn at(mut prefix: Vec<u8>, position: Position) -> Vec<u8> {
    prefix.extend(position.0.to_be_bytes());
    prefix
}

/// What a key begins with that ends with a position.
pub(super) fn without_position(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(size_of::<u64>())]
}

/// The first key that can follow all those that begin with this.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    if let Some(end) = key.last_mut() {
        // It ends with the mark of an end, which is the least byte.
        *end += 1;
    }
    key
}

/// The same, and then a position in descending order.
pub(super) fn descending(texts: &[&str], position: Position) -> Vec<u8> {
    let mut key = prefix(texts);
    key.extend((!position.0).to_be_bytes());
    key
}

/// The position at the end of an ascending key.
pub(super) fn position(key: &[u8]) -> Option<Position> {
    let bytes = key.last_chunk::<8>()?;
    Some(Position(u64::from_be_bytes(*bytes)))
}

fn text(text: &str) -> impl Iterator<Item = u8> {
    text.bytes()
        .take(TEXT_MAX)
        .map(|byte| if byte == END { b' ' } else { byte })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_text_and_then_by_position() {
        let at = |n| Position(n);
        assert!(ascending(&["a"], at(1)) < ascending(&["a"], at(256)));
        assert!(descending(&["a"], at(1)) > descending(&["a"], at(256)));
        assert!(ascending(&["a"], at(u64::MAX)) < ascending(&["ab"], at(0)));
        assert_eq!(position(&ascending(&["a", "b"], at(77))), Some(at(77)));
    }

    #[test]
    fn a_zero_in_free_text_cannot_forge_a_boundary() {
        assert_ne!(prefix(&["a\0b"]), prefix(&["a", "b"]));
    }
}
