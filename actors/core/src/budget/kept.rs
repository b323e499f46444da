//! Amounts by whom they are for, and their sum, which is kept up to date instead of being added up anew for each question.

use std::collections::BTreeMap;

use mesh_messages::budget::{AMOUNT_MAX, Amounts, Dimension};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Stored as the amounts alone; the sum is made anew when they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept<K: Ord> {
    each: BTreeMap<K, Amounts>,
    /// By place in [`Dimension::ALL`]. Not capped, so that taking away is exact.
    sum: [u128; Dimension::ALL.len()],
}

impl<K: Ord> Default for Kept<K> {
    fn default() -> Self {
        Self {
            each: BTreeMap::new(),
            sum: [0; Dimension::ALL.len()],
        }
    }
}

impl<K: Ord> Kept<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    pub(super) fn get(&self, key: &K) -> Option<&Amounts> {
        self.each.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.each.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Amounts)> {
        self.each.iter()
    }

    pub(super) fn insert(&mut self, key: K, amounts: Amounts) {
        self.count(&amounts);
        if let Some(before) = self.each.insert(key, amounts) {
            self.uncount(&before);
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(before) = self.each.remove(key) {
            self.uncount(&before);
        }
    }

    /// All of it, up to [`AMOUNT_MAX`].
    pub(super) fn sum(&self, d: Dimension) -> u64 {
        let all = Dimension::ALL.into_iter().zip(self.sum);
        let sum: u128 = all.filter(|(one, _)| *one == d).map(|(_, sum)| sum).sum();
        u64::try_from(sum).unwrap_or(u64::MAX).min(AMOUNT_MAX)
    }

    fn count(&mut self, amounts: &Amounts) {
        for (sum, d) in self.sum.iter_mut().zip(Dimension::ALL) {
            *sum += u128::from(amounts.get(d));
        }
    }

    fn uncount(&mut self, amounts: &Amounts) {
        for (sum, d) in self.sum.iter_mut().zip(Dimension::ALL) {
            *sum = sum.saturating_sub(u128::from(amounts.get(d)));
        }
    }
}

impl<K: Ord + Serialize> Serialize for Kept<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.each.serialize(serializer)
    }
}

impl<'de, K: Ord + Deserialize<'de>> Deserialize<'de> for Kept<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut kept = Self::default();
        for (key, amounts) in BTreeMap::<K, Amounts>::deserialize(deserializer)? {
            kept.insert(key, amounts);
        }
        Ok(kept)
    }
}
