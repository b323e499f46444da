//! Measured times.

use std::time::Duration;

/// Times of one kind of thing. All are kept, so quantiles are exact.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Those of another as well.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time that this share of the samples, in thousandths, did not exceed; zero if there are none.
    pub fn quantile(&self, permille: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
        sorted.get(at.min(last)).copied().unwrap_or_default()
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.quantile(500)
    }

    /// What one in a hundred exceeded.
    pub fn p99(&self) -> Duration {
        self.quantile(990)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.p99(), Duration::ZERO);
        for n in (1..=200).rev() {
            samples.push(Duration::from_micros(n));
        }
        assert_eq!(samples.p50(), Duration::from_micros(100));
        assert_eq!(samples.p99(), Duration::from_micros(198));
        assert_eq!(samples.quantile(1000), Duration::from_micros(200));
        assert_eq!(samples.quantile(0), Duration::from_micros(1));
    }
}
