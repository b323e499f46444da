//! What `garbage` and `flood` write.

/// `SplitMix64`: one word of state; the same number gives the same garbage.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Longest line of noise, in bytes.
const NOISE_MAX: u64 = 200;

/// So many lines, none of which is an envelope: noise, halves of JSON, JSON that means nothing here.
pub(super) fn garbage(seed: u64, lines: u32) -> Vec<u8> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    for _ in 0..lines {
        let word = random.next();
        match word % 8 {
            0 => all.extend_from_slice(br#"{"type":"STATUS_UPDATE","payload":{"#),
            1 => all.extend_from_slice(br#"{"type":"STATUS_UPDATE","type":"MESSAGE"}"#),
            2 => all.extend_from_slice(format!(r#"{{"type":"NONSENSE-{word:x}"}}"#).as_bytes()),
            3 => all.extend_from_slice(
                format!(
                    r#"{{"type":"STATUS_UPDATE","payload":{{"n":{}}}}}"#,
                    u64::MAX
                )
                .as_bytes(),
            ),
            4 => all.extend_from_slice(format!("[{word}]").as_bytes()),
            5 => all.extend_from_slice(b"Traceback (most recent call last):"),
            6 => all.extend_from_slice(br#"{"type":"STATUS_UPDATE","v":99}"#),
            // Any bytes but the one that would end the line, and none that is blank.
            _ => {
                let length = 1 + random.next() % NOISE_MAX;
                all.extend((0..length).map(|_| 0x80 | (random.next() & 0x7f) as u8));
            }
        }
        all.push(b'\n');
    }
    all
}

/// So many lines that are all in order and mean nothing.
pub(super) fn flood(lines: u32) -> Vec<u8> {
    let mut all = Vec::new();
    for line in 0..lines {
        let text = format!(r#"{{"type":"STATUS_UPDATE","payload":{{"note":"chaos {line}"}}}}"#);
        all.extend_from_slice(text.as_bytes());
        all.push(b'\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use mesh_messages::address::Address;
    use mesh_messages::klp::{Defaults, decode_with};
    use mesh_messages::{AgentId, Epoch, Timestamp};

    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            id: None,
            from: Some(Address::agent(AgentId::new("echo").unwrap())),
            to: Some(Address::agent(AgentId::new("mesh").unwrap())),
            timestamp: Some(Timestamp::ZERO),
            epoch: Some(Epoch(1)),
        }
    }

    fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes
            .strip_suffix(b"\n")
            .unwrap()
            .split(|byte| *byte == b'\n')
    }

    #[test]
    fn no_line_of_garbage_is_an_envelope_whatever_the_seed() {
        for seed in 0..200 {
            let bytes = garbage(seed, 50);
            assert_eq!(lines(&bytes).count(), 50);
            for line in lines(&bytes) {
                let text = String::from_utf8_lossy(line);
                assert!(decode_with(line, &defaults()).is_err(), "{seed}: {text}");
            }
        }
    }

    #[test]
    fn the_same_seed_is_the_same_garbage_and_another_is_another() {
        assert_eq!(garbage(7, 40), garbage(7, 40));
        assert_ne!(garbage(7, 40), garbage(8, 40));
    }

    #[test]
    fn every_line_of_a_flood_is_an_envelope() {
        let bytes = flood(100);
        assert_eq!(lines(&bytes).count(), 100);
        for line in lines(&bytes) {
            assert!(decode_with(line, &defaults()).is_ok());
        }
    }
}
