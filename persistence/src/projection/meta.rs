//! What a store of projections knows about itself.

/// Version of the store's layout.
const STORE_FORMAT: u32 = 1;

/// What the store knows about itself; changed with every batch, in the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) version: u32,
    /// Hash of the log's id.
    pub(super) log: [u8; 16],
    /// How many records it reflects.
    pub(super) next: u64,
    /// How many entries it has, and the sum of their hashes.
    pub(super) entries: u64,
    pub(super) sum: u128,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        bytes.extend_from_slice(&STORE_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.log);
        bytes.extend_from_slice(&self.next.to_le_bytes());
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (log, rest) = rest.split_first_chunk::<16>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let (entries, rest) = rest.split_first_chunk::<8>()?;
        let sum: [u8; 16] = rest.try_into().ok()?;
        (u32::from_le_bytes(*format) == STORE_FORMAT).then_some(Self {
            version: u32::from_le_bytes(*version),
            log: *log,
            next: u64::from_le_bytes(*next),
            entries: u64::from_le_bytes(*entries),
            sum: u128::from_le_bytes(sum),
        })
    }

    pub(super) fn add(&mut self, hash: u128) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    pub(super) fn remove(&mut self, hash: u128) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash);
    }
}

/// What an entry adds to the sum.
pub(super) fn entry_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(key.len() as u64).to_le_bytes())
        .update(key)
        .update(value);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}
