//! The hex of a hash where it is needed so often that how it is made shows: for each record that is sealed or verified.

/// 32 bytes as 64 lower-case digits.
pub(crate) struct HashText([u8; 64]);

impl HashText {
    pub(crate) fn of(hash: &[u8; 32]) -> Self {
        let mut text = [b'0'; 64];
        // The lengths fit.
        let _fits = faster_hex::hex_encode(hash, &mut text).is_ok();
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        // Digits are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_everybody_else_writes() {
        let hash: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 8 + 3).unwrap());
        assert_eq!(HashText::of(&hash).as_str(), hex::encode(hash));
    }
}
