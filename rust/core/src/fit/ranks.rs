//! Choices by chance whose odds grow with an element's rank in its row, exactly and without sorting.
//!
//! An element is kept where its random number is below a limit that grows with its rank by magnitude. A histogram of the
//! row's magnitudes gives the ranks between which each element's own lies. For nearly all elements both ends of that say
//! the same; the rank of the few others is counted.

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::fit::group::{LANES, group, pack};
use crate::fit::number::{Key, Number};
use crate::fit::random::Stream;
use crate::fit::tensor::Row;

/// Bits of a mantissa that choose a bucket: the deltas of two bfloat16 numbers rarely have more.
const MANTISSA: u32 = 7;
/// Buckets: for 8 powers of two below the largest magnitude; what is smaller still shares the last one.
const BUCKETS: usize = 8 << MANTISSA;
/// Rows up to this are sorted.
const SHORT: u64 = 256;

/// The odds of a branch's elements: from `least` for the smallest of a row to `most` for the largest, even in between.
#[derive(Clone, Copy, Debug)]
pub struct Odds {
    /// Of the smallest.
    pub least: f64,
    /// Of the largest.
    pub most: f64,
}

/// The odds in one row as limits: the smallest random number that drops an element, to within 2⁻³².
#[derive(Clone, Copy)]
struct Limits {
    least: f64,
    step: f64,
}

impl Limits {
    fn new(odds: Odds, row: u64) -> Self {
        let unit = 2f64.powi(32);
        if row < 2 {
            // One element is as much the smallest as the largest.
            return Self { least: 0.5 * (odds.least + odds.most) * unit, step: 0.0 };
        }
        Self { least: odds.least * unit, step: (odds.most - odds.least) * unit / (row - 1) as f64 }
    }

    /// Of one of so many equals with so many smaller ones: they share their mean rank.
    #[inline(always)]
    fn among(self, smaller: f64, equal: f64) -> u32 {
        let limit = self.least + self.step * (smaller + 0.5 * (equal - 1.0));
        let limit = if limit < f64::from(u32::MAX) { limit } else { f64::from(u32::MAX) };
        // Adding 2⁵² rounds to an integer and leaves it in the low bits.
        (limit + (1u64 << 52) as f64).to_bits() as u32
    }
}

/// A worker's room for the choices of one row.
#[derive(Debug)]
pub struct Ranks {
    tables: Box<Tables>,
    buckets: Vec<u16>,
    numbers: Vec<u32>,
    unclear: Vec<Unclear>,
}

/// What is known of each bucket.
#[derive(Debug)]
struct Tables {
    /// How many elements it has, counted by turns: equal neighbours need not wait for one another.
    counts: [[u32; BUCKETS]; 2],
    /// The smallest number that drops its smallest element.
    low: [u32; BUCKETS],
    /// The smallest number that drops its largest; the same where all are equal.
    high: [u32; BUCKETS],
}

/// An element whose rank has to be counted.
#[derive(Clone, Copy, Debug)]
struct Unclear {
    element: usize,
    size: f64,
    number: u32,
    bucket: u16,
}

impl Default for Ranks {
    fn default() -> Self {
        let tables = Tables { counts: [[0; BUCKETS]; 2], low: [0; BUCKETS], high: [0; BUCKETS] };
        Self {
            tables: Box::new(tables),
            buckets: Vec::new(),
            numbers: Vec::new(),
            unclear: Vec::new(),
        }
    }
}

impl Ranks {
    /// Marks the elements of a row of `length` that are kept: in `words`, a bit each. Zeros may be marked or not.
    pub fn choose<R: Number>(
        &mut self,
        row: &mut Row<'_, '_, R>,
        branch: usize,
        stream: Stream,
        odds: Odds,
        words: &mut [u64],
    ) -> Result<()> {
        let length = row.length();
        let limits = Limits::new(odds, length);
        self.unclear.clear();
        let sorted = length <= SHORT;
        let top = if sorted { None } else { Some(self.count(row, branch, limits)?) };
        let mut at = 0;
        row.sweep(|block| {
            let values = block.branch(branch);
            self.numbers.resize(values.len(), 0);
            stream.uniform(block.start, &mut self.numbers);
            match top {
                Some(top) => self.sift(at, values, top, words),
                None => self.all_unclear(at, values),
            }
            at += values.len();
        })?;
        self.settle(row, branch, limits, sorted, words)
    }

    fn all_unclear<R: Number>(&mut self, at: usize, values: &[R]) {
        let elements = values.iter().zip(&self.numbers).enumerate();
        self.unclear.extend(elements.map(|(e, (value, &number))| Unclear {
            element: at + e,
            size: value.abs().to_f64(),
            number,
            bucket: 0,
        }));
    }

    /// Fills the tables of a row; returns where its buckets begin.
    fn count<R: Number>(
        &mut self,
        row: &mut Row<'_, '_, R>,
        branch: usize,
        limits: Limits,
    ) -> Result<u32> {
        let mut largest = R::ZERO;
        row.sweep(|block| largest = most(largest, block.branch(branch)))?;
        let top = (largest.abs().key().wide() >> shift::<R>()) as u32;
        let mut exact = true;
        self.tables.counts = [[0; BUCKETS]; 2];
        row.sweep(|block| {
            let values = block.branch(branch);
            self.buckets.resize(values.len(), 0);
            exact &= bucket(top, values, &mut self.buckets);
            let [even, odd] = &mut self.tables.counts;
            let (pairs, rest) = self.buckets.as_chunks::<2>();
            for &[one, other] in pairs {
                even[usize::from(one) % BUCKETS] += 1;
                odd[usize::from(other) % BUCKETS] += 1;
            }
            rest.iter().for_each(|&bucket| even[usize::from(bucket) % BUCKETS] += 1);
        })?;
        self.tables.fill(limits, exact);
        Ok(top)
    }

    /// Marks what the tables decide in a block that begins at an element, and notes the rest.
    fn sift<R: Number>(&mut self, at: usize, values: &[R], top: u32, words: &mut [u64]) {
        let Self { tables, buckets, numbers, unclear } = self;
        buckets.resize(values.len(), 0);
        bucket(top, values, buckets);
        let mut note = |e: usize| {
            let (size, bucket) = (values[e].abs().to_f64(), buckets[e]);
            if size > 0.0 {
                unclear.push(Unclear { element: at + e, size, number: numbers[e], bucket });
            }
        };
        for (number, word) in words[at / 64..].iter_mut().enumerate() {
            let first = number * 64;
            if first >= values.len() {
                break;
            }
            let here = first..values.len().min(first + 64);
            let [below, between] = decide(tables, &numbers[here.clone()], &buckets[here]);
            *word |= below;
            let mut rest = between;
            while rest != 0 {
                note(first + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }

    /// Counts the ranks of what is unclear.
    fn settle<R: Number>(
        &mut self,
        row: &mut Row<'_, '_, R>,
        branch: usize,
        limits: Limits,
        sorted: bool,
        words: &mut [u64],
    ) -> Result<()> {
        // Sorting takes about as long as counting sixty times.
        let sorted = sorted || self.unclear.len() > 60;
        let mut sizes: Vec<R> = Vec::new();
        if sorted {
            row.sweep(|block| sizes.extend(block.branch(branch).iter().map(|value| value.abs())))?;
            sizes.sort_unstable_by_key(|size| size.key());
        }
        for one in &self.unclear {
            let bucket = usize::from(one.bucket);
            let (low, high) = (self.tables.low[bucket], self.tables.high[bucket]);
            let limit = if !sorted && low == high {
                low
            } else {
                let size = R::from_f64(one.size);
                let mut found = [0, 0];
                if sorted {
                    let smaller = sizes.partition_point(|&other| other < size);
                    let up_to = sizes.partition_point(|&other| other <= size);
                    found = [smaller as u64, (up_to - smaller) as u64];
                } else {
                    row.sweep(|block| rank(size, block.branch(branch), &mut found))?;
                }
                let limit = limits.among(found[0] as f64, found[1] as f64);
                if !sorted && found[1] == u64::from(self.tables.counts[0][bucket]) {
                    // The whole bucket is equal: the others in it need not be counted.
                    (self.tables.low[bucket], self.tables.high[bucket]) = (limit, limit);
                }
                limit
            };
            words[one.element / 64] |= u64::from(one.number < limit) << (one.element % 64);
        }
        Ok(())
    }

    /// What a worker's room takes, in bytes, for rows of so many elements.
    #[must_use]
    pub fn memory(row: u64) -> u64 {
        // A block's buckets and numbers, and what is unclear, at worst all.
        (BUCKETS as u64) * 24 + 10 * row.min(1 << 14) + row * (8 + 32)
    }
}

impl Tables {
    /// Sums the counts up into limits; `exact` says that all elements of a bucket, but of the last one, are equal.
    fn fill(&mut self, limits: Limits, exact: bool) {
        let [counts, odd] = &mut self.counts;
        let mut smaller = 0;
        for bucket in (0..BUCKETS).rev() {
            counts[bucket] += odd[bucket];
            odd[bucket] = smaller;
            smaller += counts[bucket];
        }
        set_limits(limits, &self.counts, exact, &mut self.low, &mut self.high);
        let others = f64::from(self.counts[0][BUCKETS - 1]) - 1.0;
        (self.low[BUCKETS - 1], self.high[BUCKETS - 1]) =
            (limits.among(0.0, 1.0), limits.among(others, 1.0));
    }
}

/// How far a key is shifted for its bucket.
const fn shift<R: Number>() -> u32 {
    (if R::IS_F64 { 52 } else { 23 }) - MANTISSA
}

vectorised! {
    fn most<R: Number>(so_far: R, values: &[R]) -> R {
        let mut lanes = [so_far; LANES];
        for at in (0..values.len()).step_by(LANES) {
            let group = group(values, at);
            for lane in 0..LANES {
                let size = group[lane].abs();
                lanes[lane] = if size > lanes[lane] { size } else { lanes[lane] };
            }
        }
        lanes.into_iter().fold(so_far, |most, lane| if lane > most { lane } else { most })
    }
}

vectorised! {
    /// The bucket of each value, the largest in the first; tells whether no value has more digits than choose its bucket.
    fn bucket<R: Number>(top: u32, values: &[R], buckets: &mut [u16]) -> bool {
        let mut more = 0u32;
        for (bucket, value) in buckets.iter_mut().zip(values) {
            let key = value.abs().key().wide();
            let from_top = top.wrapping_sub((key >> shift::<R>()) as u32);
            *bucket = if from_top < BUCKETS as u32 { from_top as u16 } else { BUCKETS as u16 - 1 };
            let low = (key & ((1 << shift::<R>()) - 1)) as u64;
            more |= low as u32 | (low >> 32) as u32;
        }
        more == 0
    }
}

vectorised! {
    fn set_limits(
        limits: Limits,
        [counts, smaller]: &[[u32; BUCKETS]; 2],
        exact: bool,
        low: &mut [u32; BUCKETS],
        high: &mut [u32; BUCKETS],
    ) {
        // The smallest has none smaller of its bucket, the largest all others; equals lie at their mean rank.
        let share = if exact { 0.5 } else { 0.0 };
        for bucket in 0..BUCKETS {
            let (below, others) = (f64::from(smaller[bucket]), f64::from(counts[bucket]) - 1.0);
            low[bucket] = limits.among(below + share * others, 1.0);
            high[bucket] = limits.among(below + (1.0 - share) * others, 1.0);
        }
    }
}

vectorised! {
    /// For up to 64 elements a bit each: whether the number is below the lower limit, and whether between the two.
    fn decide(tables: &Tables, numbers: &[u32], buckets: &[u16]) -> [u64; 2] {
        let (mut below, mut between) = ([0u8; 64], [0u8; 64]);
        for (e, (&number, &bucket)) in numbers.iter().zip(buckets).enumerate().take(64) {
            let bucket = usize::from(bucket) % BUCKETS;
            let (low, high) = (tables.low[bucket], tables.high[bucket]);
            below[e] = u8::from(number < low);
            between[e] = u8::from(number >= low) & u8::from(number < high);
        }
        [pack(&below), pack(&between)]
    }
}

vectorised! {
    /// Adds how many values are smaller in magnitude than `size`, and how many equal it.
    fn rank<R: Number>(size: R, values: &[R], found: &mut [u64; 2]) {
        let (mut smaller, mut equal) = (0u32, 0u32);
        for value in values {
            smaller += u32::from(value.abs() < size);
            equal += u32::from(value.abs() == size);
        }
        found[0] += u64::from(smaller);
        found[1] += u64::from(equal);
    }
}
