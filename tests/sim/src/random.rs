//! The one source of chance: everything that happens by chance is drawn here, in the order in which it happens.

/// `SplitMix64`: one word of state, good enough to choose moments and victims.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `from..=to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.bits() % (to.saturating_sub(from) + 1)
    }

    /// True `n` times out of a hundred.
    pub(crate) fn percent(&mut self, n: u64) -> bool {
        self.bits() % 100 < n
    }

    /// A place in something that has `len` of them; 0 when it is empty.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.bits() % len).unwrap_or(0)
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.index(of.len());
        of.get(index)
    }

    /// One of them, as often as its weight says.
    pub(crate) fn weighted<T: Copy>(&mut self, of: &[(u64, T)]) -> Option<T> {
        let all: u64 = of.iter().map(|(weight, _)| weight).sum();
        let mut left = self.bits() % all.max(1);
        for (weight, item) in of {
            if left < *weight {
                return Some(*item);
            }
            left -= weight;
        }
        None
    }
}
