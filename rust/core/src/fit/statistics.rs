//! Exact order statistics by counting, and sums whose bits depend on nothing but the tensor.
//!
//! A key is found digit by digit: one sweep counts how many keys have each first digit, the next looks at the second
//! digit of those that share the right first one. No key is sampled, and of a giant tensor none is kept. A tensor of one
//! chunk keeps its keys, which is faster.

use crate::error::Result;
use crate::fit::number::{Key, Number};
use crate::fit::random::Stream;
use crate::fit::tensor::{Block, CHUNK, Tensor};
use crate::vectorised;

/// Bits of a digit.
const DIGIT: u32 = 16;
/// So few keys are kept and sorted rather than counted again.
const FEW: u64 = 1 << 18;

/// Where a rank fell: the key there, and how many others there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<K> {
    /// The key of that rank.
    pub key: K,
    /// How many keys are smaller.
    pub below: u64,
    /// How many keys are the same, this one counted.
    pub equal: u64,
}

/// The keys at some ranks, counted from 0, of each of `lanes` independent sequences of keys.
///
/// `push` appends the keys of a block in a lane; `ranks` says which ranks are wanted of a lane with so many keys. A rank
/// beyond the last key gives the last key; a lane without keys gives no cuts.
pub fn select<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync,
    ranks: impl Fn(usize, u64) -> Vec<u64>,
) -> Result<Vec<Vec<Cut<K>>>> {
    if tensor.elements <= CHUNK {
        let found = collect(tensor, lanes, |block, lane, keys| push(block, lane, keys))?;
        let cuts = found.into_iter().enumerate().map(|(lane, mut keys)| {
            let wanted = ranks(lane, keys.len() as u64);
            wanted.iter().filter_map(|&rank| nth(&mut keys, rank)).collect()
        });
        return Ok(cuts.collect());
    }
    let mut searches: Vec<Search> = vec![Search::default(); lanes];
    let mut shift = K::BITS;
    while shift > 0 {
        shift -= DIGIT;
        let first = shift + DIGIT == K::BITS;
        let counts = count(tensor, &searches, shift, first, &push)?;
        for (lane, (search, counts)) in searches.iter_mut().zip(&counts).enumerate() {
            if first {
                let all = counts.iter().sum::<u64>();
                search.start(&ranks(lane, all), all);
            }
            search.descend(counts);
        }
        let left: u64 =
            searches.iter().flat_map(|search| &search.targets).map(|target| target.equal).sum();
        if shift > DIGIT && left <= FEW {
            return finish(tensor, &searches, shift, &push);
        }
    }
    Ok(searches.iter().map(|search| search.targets.iter().map(Target::cut).collect()).collect())
}

/// What is known of the key at one rank.
#[derive(Clone, Debug)]
struct Target {
    rank: u64,
    prefix: u64,
    below: u64,
    equal: u64,
}

impl Target {
    fn cut<K: Key>(&self) -> Cut<K> {
        Cut { key: K::from_wide(self.prefix), below: self.below, equal: self.equal }
    }
}

/// The targets of a lane, and the distinct prefixes among them.
#[derive(Clone, Debug, Default)]
struct Search {
    targets: Vec<Target>,
    prefixes: Vec<u64>,
}

impl Search {
    fn start(&mut self, ranks: &[u64], all: u64) {
        if all > 0 {
            let target =
                |&rank: &u64| Target { rank: rank.min(all - 1), prefix: 0, below: 0, equal: all };
            self.targets = ranks.iter().map(target).collect();
        }
        self.prefixes = vec![0];
    }

    /// Takes the next digit of every target from the counts, one table a prefix.
    fn descend(&mut self, counts: &[u64]) {
        for target in &mut self.targets {
            let table =
                self.prefixes.iter().position(|&prefix| prefix == target.prefix).unwrap_or(0);
            let table = &counts[table << DIGIT..(table + 1) << DIGIT];
            for (digit, &count) in table.iter().enumerate() {
                if target.rank < target.below + count {
                    target.prefix = target.prefix << DIGIT | digit as u64;
                    target.equal = count;
                    break;
                }
                target.below += count;
            }
        }
        self.prefixes = self.targets.iter().map(|target| target.prefix).collect();
        self.prefixes.dedup();
    }
}

/// How many keys of each lane have each digit at `shift`: a table for each prefix of the lane's search.
fn count<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    searches: &[Search],
    shift: u32,
    first: bool,
    push: &(impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync),
) -> Result<Vec<Vec<u64>>> {
    let tables = |search: &Search| if first { 1 } else { search.prefixes.len() };
    let start = || {
        let counts =
            searches.iter().map(|search| vec![0u64; tables(search) << DIGIT]).collect::<Vec<_>>();
        (counts, Vec::<K>::new())
    };
    let step = |(counts, keys): &mut (Vec<Vec<u64>>, Vec<K>), block: &Block<'_, R>| {
        for (lane, counts) in counts.iter_mut().enumerate() {
            keys.clear();
            push(block, lane, keys);
            if first {
                keys.iter().for_each(|key| counts[(key.wide() >> shift) as usize] += 1);
                continue;
            }
            for key in keys.iter() {
                let digits = key.wide() >> shift;
                for (table, &prefix) in searches[lane].prefixes.iter().enumerate() {
                    if digits >> DIGIT == prefix {
                        counts[table << DIGIT | (digits & 0xffff) as usize] += 1;
                    }
                }
            }
        }
    };
    let mut parts = tensor.gather(start, step)?.into_iter().map(|(counts, _)| counts);
    let mut sum = parts.next().unwrap_or_else(|| start().0);
    for part in parts {
        for (sum, part) in sum.iter_mut().zip(part) {
            sum.iter_mut().zip(part).for_each(|(sum, count)| *sum += count);
        }
    }
    Ok(sum)
}

/// Keeps the few keys that share a target's prefix, and sorts them.
fn finish<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    searches: &[Search],
    shift: u32,
    push: &(impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync),
) -> Result<Vec<Vec<Cut<K>>>> {
    let found = collect(tensor, searches.len(), |block, lane, keys: &mut Vec<K>| {
        let before = keys.len();
        push(block, lane, keys);
        let mut kept = before;
        for at in before..keys.len() {
            if searches[lane].prefixes.contains(&(keys[at].wide() >> shift)) {
                keys.swap(kept, at);
                kept += 1;
            }
        }
        keys.truncate(kept);
    })?;
    let cuts = searches.iter().zip(found).map(|(search, keys)| {
        let of_target = |target: &Target| {
            let mut own: Vec<K> =
                keys.iter().copied().filter(|key| key.wide() >> shift == target.prefix).collect();
            let cut = nth(&mut own, target.rank - target.below)?;
            Some(Cut { below: cut.below + target.below, ..cut })
        };
        search.targets.iter().filter_map(of_target).collect()
    });
    Ok(cuts.collect())
}

fn collect<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync,
) -> Result<Vec<Vec<K>>> {
    let step = |found: &mut Vec<Vec<K>>, block: &Block<'_, R>| {
        found.iter_mut().enumerate().for_each(|(lane, keys)| push(block, lane, keys));
    };
    let parts = tensor.gather(|| vec![Vec::new(); lanes], step)?;
    let mut whole = vec![Vec::new(); lanes];
    for part in parts {
        whole.iter_mut().zip(part).for_each(|(whole, mut part)| whole.append(&mut part));
    }
    Ok(whole)
}

fn nth<K: Key>(keys: &mut [K], rank: u64) -> Option<Cut<K>> {
    let rank = rank.min((keys.len() as u64).checked_sub(1)?) as usize;
    let key = *keys.select_nth_unstable(rank).1;
    let below = keys[..rank].iter().filter(|&&other| other < key).count() as u64;
    let equal = keys.iter().filter(|&&other| other == key).count() as u64;
    Some(Cut { key, below, equal })
}

/// Which elements of a branch are its largest by magnitude.
#[derive(Clone, Copy, Debug)]
pub enum Largest<R> {
    /// All.
    All,
    /// None.
    None,
    /// Those above a magnitude, and of those at it the ones whose number in the stream is at most the second figure.
    Above(R, u64),
}

/// The `shares` largest elements by magnitude of each branch: k = max(1, ⌊share·n⌋); none where the share is 0.
///
/// Among equal magnitudes at the cut the counter hash decides, not the index.
pub fn largest<R: Number>(tensor: &Tensor<'_, R>, shares: &[f64]) -> Result<Vec<Largest<R>>> {
    let searched: Vec<usize> =
        (0..shares.len()).filter(|&i| shares[i] > 0.0 && shares[i] < 1.0).collect();
    let kept = |i: usize| (shares[i] * tensor.elements as f64).floor().max(1.0) as u64;
    let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<R::Key>| {
        keys.extend(block.branch(searched[lane]).iter().map(|value| value.abs().key()));
    };
    let cuts = if searched.is_empty() || tensor.elements == 0 {
        Vec::new()
    } else {
        select(tensor, searched.len(), push, |lane, all| vec![all - kept(searched[lane]).min(all)])?
    };
    let mut result: Vec<Largest<R>> = shares
        .iter()
        .map(|&share| if share > 0.0 { Largest::All } else { Largest::None })
        .collect();
    let mut tied = Vec::new();
    for (&i, cuts) in searched.iter().zip(&cuts) {
        let Some(cut) = cuts.first() else { continue };
        let size = R::from_key(cut.key);
        result[i] = Largest::Above(size, u64::MAX);
        let wanted = kept(i) - (tensor.elements - cut.below - cut.equal).min(kept(i));
        // Which of many zeros is kept makes no difference.
        if wanted < cut.equal && size != R::ZERO {
            tied.push((i, size, wanted));
        }
    }
    if tied.is_empty() {
        return Ok(result);
    }
    let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<u64>| {
        let (i, size, _) = tied[lane];
        let stream = tensor.streams[i];
        let values = block.branch(i).iter().enumerate().filter(|(_, value)| value.abs() == size);
        keys.extend(values.map(|(e, _)| stream.order(block.start + e as u64)));
    };
    let cuts = select(tensor, tied.len(), push, |lane, _| vec![tied[lane].2.saturating_sub(1)])?;
    for ((i, size, _), cuts) in tied.iter().zip(&cuts) {
        if let Some(cut) = cuts.first() {
            result[*i] = Largest::Above(*size, cut.key);
        }
    }
    Ok(result)
}

impl<R: Number> Largest<R> {
    /// Sets to zero what is not among the largest.
    pub fn keep(&self, stream: Stream, start: u64, values: &mut [R]) {
        match *self {
            Self::All => {}
            Self::None => values.fill(R::ZERO),
            Self::Above(size, u64::MAX) => keep_from(size, values),
            Self::Above(size, order) => {
                for (e, value) in values.iter_mut().enumerate() {
                    let magnitude = value.abs();
                    let kept = magnitude > size
                        || magnitude == size && stream.order(start + e as u64) <= order;
                    if !kept {
                        *value = R::ZERO;
                    }
                }
            }
        }
    }
}

vectorised! {
    fn keep_from<R: Number>(size: R, values: &mut [R]) {
        for value in values {
            *value = if value.abs() >= size { *value } else { R::ZERO };
        }
    }
}

/// Accumulators of a sum: an element's position decides which one it goes to, so that block edges do not show.
pub type Sum = [f64; 16];

/// The sum of a chunk-wise fold of `N` quantities, joined in the order of the chunks.
pub fn sums<R: Number>(
    tensor: &Tensor<'_, R>,
    quantities: usize,
    step: impl Fn(&mut [Sum], &Block<'_, R>) + Sync,
) -> Result<Vec<f64>> {
    let whole = tensor.fold(
        || vec![[0.0; 16]; quantities],
        |part: &mut Vec<Sum>, block| step(part, block),
        |whole, part| {
            for (whole, part) in whole.iter_mut().zip(part) {
                whole.iter_mut().zip(part).for_each(|(whole, part)| *whole += part);
            }
        },
    )?;
    Ok(whole.iter().map(total).collect())
}

/// What a set of accumulators holds.
#[must_use]
pub fn total(sum: &Sum) -> f64 {
    sum.iter().sum()
}

vectorised! {
    /// Adds the products of two operands.
    pub fn add_products<R: Number>(sum: &mut Sum, left: &[R], right: &[R]) {
        for (left, right) in left.chunks(16).zip(right.chunks(16)) {
            match (<&[R; 16]>::try_from(left), <&[R; 16]>::try_from(right)) {
                (Ok(left), Ok(right)) => {
                    for lane in 0..16 {
                        sum[lane] += left[lane].to_f64() * right[lane].to_f64();
                    }
                }
                _ => {
                    for (sum, (left, right)) in sum.iter_mut().zip(left.iter().zip(right)) {
                        *sum += left.to_f64() * right.to_f64();
                    }
                }
            }
        }
    }
}

vectorised! {
    /// Adds the magnitudes of an operand.
    pub fn add_magnitudes<R: Number>(sum: &mut Sum, values: &[R]) {
        for group in values.chunks(16) {
            if let Ok(group) = <&[R; 16]>::try_from(group) {
                for lane in 0..16 {
                    sum[lane] += group[lane].abs().to_f64();
                }
            } else {
                sum.iter_mut().zip(group).for_each(|(sum, value)| *sum += value.abs().to_f64());
            }
        }
    }
}
