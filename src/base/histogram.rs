//! A histogram with two significant digits, cheap to record into and small where it is empty.
//!
//! The buckets are those of an HdrHistogram of two significant digits and unit 1: values below 256 each
//! have one of their own; above, each doubling is divided into 128. So what is recorded here goes into an
//! HdrHistogram and back without loss. A block of 128 buckets exists once something fell into it: what
//! varies little takes one or two KiB, and recording allocates at most [`BLOCKS`] times in a lifetime.
//!
//! One writer, no lock: a reader gets a [`Recorded`], which adds up with others and subtracts.

/// Buckets of a block.
const BLOCK: usize = 128;

/// Blocks: values from 2^41 on (of nanoseconds: 36 minutes) count as that.
pub const BLOCKS: usize = 35;

/// The largest value that is told from its neighbours.
pub const HIGHEST: u64 = (1 << 41) - 1;

/// What one thread records.
pub struct Histogram {
    blocks: [Option<Box<[u64; BLOCK]>>; BLOCKS],
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            blocks: [const { None }; BLOCKS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

/// The bucket of a value.
#[inline]
fn index(value: u64) -> usize {
    let value = value.min(HIGHEST);
    // How far the value is shifted so that 8 bits are left; below 256 nothing is.
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(8);
    (value >> shift) as usize + shift as usize * BLOCK
}

/// The largest value of a bucket: what quantiles are said to be, as in HdrHistogram.
fn highest_of(index: usize) -> u64 {
    let shift = (index / BLOCK).saturating_sub(1) as u32;
    let top = (index - shift as usize * BLOCK) as u64;
    ((top + 1) << shift) - 1
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let index = index(value);
        let block = self.blocks[index / BLOCK].get_or_insert_with(|| Box::new([0; BLOCK]));
        block[index % BLOCK] += 1;
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        self.max = self.max.max(value);
    }

    /// All that was recorded so far.
    pub fn recorded(&self) -> Recorded {
        let mut counts = Vec::new();
        for (block, buckets) in self.blocks.iter().enumerate() {
            let Some(buckets) = buckets else { continue };
            for (at, &count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
                counts.push(((block * BLOCK + at) as u16, count));
            }
        }
        Recorded {
            counts,
            count: self.count,
            sum: self.sum,
            max: self.max,
        }
    }
}

/// What was recorded, at one moment or between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Bucket and count, by bucket; none is 0.
    counts: Vec<(u16, u64)>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Recorded {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values. Wraps.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value; between two moments, the top of its bucket.
    pub fn max(&self) -> u64 {
        self.max
    }

    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// The value that a share `q` (0 to 1) of all are not above; 0 if there are none.
    pub fn quantile(&self, q: f64) -> u64 {
        let wanted = (q * self.count as f64).ceil().max(1.0);
        let mut below = 0u64;
        for &(bucket, count) in &self.counts {
            below += count;
            if below as f64 >= wanted {
                return highest_of(bucket.into()).min(self.max);
            }
        }
        self.max
    }

    /// Largest value and count of each bucket that has any.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counts = self.counts.iter();
        counts.map(|&(bucket, count)| (highest_of(bucket.into()), count))
    }

    /// Adds what was recorded elsewhere.
    pub fn add(&mut self, other: &Recorded) {
        self.combine(other, |ours, theirs| ours + theirs);
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What came after `earlier`, which was taken of the same histograms.
    #[must_use]
    pub fn since(&self, earlier: &Recorded) -> Recorded {
        let mut later = self.clone();
        later.combine(earlier, u64::saturating_sub);
        later.count = self.count.saturating_sub(earlier.count);
        later.sum = self.sum.wrapping_sub(earlier.sum);
        later.max = match later.counts.last() {
            Some(&(bucket, _)) => highest_of(bucket.into()).min(self.max),
            None => 0,
        };
        later
    }

    fn combine(&mut self, other: &Recorded, with: impl Fn(u64, u64) -> u64) {
        let ours = std::mem::take(&mut self.counts);
        let (mut ours, mut theirs) = (ours.into_iter().peekable(), other.counts.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (None, None) => return,
                (Some(&(a, _)), Some(&&(b, _))) => a.min(b),
                (Some(&(a, _)), None) => a,
                (None, Some(&&(b, _))) => b,
            };
            let our = ours.next_if(|(bucket, _)| *bucket == next);
            let their = theirs.next_if(|(bucket, _)| *bucket == next);
            let count = with(our.map_or(0, |o| o.1), their.map_or(0, |t| t.1));
            if count > 0 {
                self.counts.push((next, count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hdr() -> hdrhistogram::Histogram<u64> {
        hdrhistogram::Histogram::new_with_bounds(1, HIGHEST, 2).unwrap()
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_an_hdr_histogram(values in prop::collection::vec(0u32..44, 1..200)) {
            let mut ours = Histogram::default();
            let mut theirs = hdr();
            for (n, bits) in values.iter().enumerate() {
                let value = ((1u64 << bits) + n as u64 * 37).min(HIGHEST);
                ours.record(value);
                theirs.record(value).unwrap();
            }
            let ours = ours.recorded();
            for q in [0.5, 0.9, 0.99, 0.999, 1.0] {
                // Theirs gives the top of the bucket, ours never more than was recorded.
                let theirs = theirs.value_at_quantile(q).min(ours.max());
                prop_assert_eq!(ours.quantile(q), theirs);
            }
            let sum: u64 = ours.buckets().map(|(_, count)| count).sum();
            prop_assert_eq!(sum, ours.count());
        }

        #[test]
        fn what_is_added_can_be_taken_away(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let mut histogram = Histogram::default();
            a.iter().for_each(|&v| histogram.record(v));
            let earlier = histogram.recorded();
            b.iter().for_each(|&v| histogram.record(v));
            let mut alone = Histogram::default();
            b.iter().for_each(|&v| alone.record(v));
            let (since, alone) = (histogram.recorded().since(&earlier), alone.recorded());
            prop_assert_eq!(&since.counts, &alone.counts);
            prop_assert_eq!((since.count, since.sum), (alone.count, alone.sum));
            let mut sum = earlier.clone();
            sum.add(&alone);
            prop_assert_eq!(sum, histogram.recorded());
        }
    }

    #[test]
    fn a_bucket_holds_what_it_says_and_every_value_has_one() {
        let mut last = None;
        for value in (0..100_000).chain([HIGHEST - 1, HIGHEST, HIGHEST + 1, u64::MAX]) {
            let bucket = index(value);
            assert!(bucket < BLOCKS * BLOCK);
            assert!(highest_of(bucket) >= value.min(HIGHEST), "{value}");
            if bucket > 0 {
                assert!(highest_of(bucket - 1) < value, "{value}");
            }
            assert!(last <= Some(bucket));
            last = Some(bucket);
        }
    }
}
