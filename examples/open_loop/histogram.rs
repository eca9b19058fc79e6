//! Latencies in buckets: exact to 0.8 %, of a fixed size, without allocations during a test.

/// How many buckets each power of two is divided into.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Durations in nanoseconds.
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// Returns the longest duration, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Returns the duration that `per_million` of a million durations do not exceed; 0 if there are none.
    pub fn quantile(&self, per_million: u64) -> u64 {
        let rank = (self.count * per_million).div_ceil(1_000_000).max(1);
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return usize::try_from(nanos).expect("a small number");
    }
    let shift = nanos.ilog2() - STEP_BITS;
    let step = (nanos >> shift) - STEPS;
    usize::try_from(u64::from(shift + 1) * STEPS + step).expect("fewer than 2^13 buckets")
}

fn upper_bound(index: usize) -> u64 {
    let (power, step) = (index as u64 / STEPS, index as u64 % STEPS);
    match power.checked_sub(1) {
        None => step,
        Some(shift) => ((STEPS + step) << shift) + ((1 << shift) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_any_value_is_at_most_one_step_wide() {
        for nanos in (0..63).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1 << bit) * 3 / 2]).chain([u64::MAX]) {
            let upper = upper_bound(bucket(nanos));
            assert!(upper >= nanos && upper - nanos <= nanos / STEPS, "{nanos} {upper}");
        }
    }

    #[test]
    fn quantile_of_a_ramp_is_its_rank() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|value| histogram.add(value));
        assert_eq!([500_000, 990_000, 1_000_000].map(|rank| histogram.quantile(rank)), [50, 99, 100]);
        assert_eq!(Histogram::default().quantile(500_000), 0);
    }
}
