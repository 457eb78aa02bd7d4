//! Order statistics digit by digit, for keys that lie where nobody looked.

use super::Cut;
use crate::error::Result;
use crate::fit::number::{Key, Number};
use crate::fit::tensor::{Block, Tensor};

/// Bits of a digit.
pub(super) const DIGIT: u32 = 16;

/// The keys at the ranks, as [`super::select`] gives them, in a sweep a digit.
pub(super) fn by_digits<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync,
    ranks: impl Fn(usize, u64) -> Vec<u64>,
) -> Result<Vec<Vec<Cut<K>>>> {
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
    }
    Ok(searches.iter().map(|search| search.targets.iter().map(Target::cut).collect()).collect())
}

/// What is known of the key at one rank.
#[derive(Clone, Debug)]
struct Target {
    rank: u64,
    prefix: u128,
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
    prefixes: Vec<u128>,
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
                    target.prefix = target.prefix << DIGIT | digit as u128;
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
