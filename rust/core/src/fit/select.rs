//! Exact order statistics: a sample says where to look, one sweep counts, and the counts decide.
//!
//! For every wanted rank a sample of the tensor gives two keys between which the sought one most likely lies. One sweep
//! counts the keys below and at them and keeps the few between. Where the sought key lies elsewhere after all, or too
//! many lie between, it is found digit by digit: a sweep counts how many keys have each first digit, the next looks at
//! the second digit of those that share the right first one. Of a tensor of one chunk all keys are kept.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::fit::group::each_where;
use crate::fit::number::{Key, Number};
use crate::fit::tensor::{Block, CHUNK, RUN, Tensor, sampled};

/// Bits of a digit.
const DIGIT: u32 = 16;
/// How far around the expected rank a sample looks, in standard deviations of independent draws. Neighbours in a sample
/// are alike where rows are: √8 of the factor allows for that, and what is left misses once in ten thousand tensors.
const SPREAD: f64 = 8.0;

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

/// Two keys between which, or at which, a sought key is expected.
#[derive(Clone, Copy, Debug)]
pub struct Look<K> {
    /// The lower.
    pub low: K,
    /// The higher, which may be the same.
    pub high: K,
}

/// The keys at some ranks, counted from 0, of each of `lanes` independent sequences of keys.
///
/// `push` appends the keys of a block in a lane; `ranks` says which ranks, always equally many, are wanted of a lane
/// with so many keys. A rank beyond the last key gives the last key; a lane without keys gives no cuts.
pub fn select<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync,
    ranks: impl Fn(usize, u64) -> Vec<u64>,
) -> Result<Vec<Vec<Cut<K>>>> {
    let count = |block: &Block<'_, R>, lane: usize, seen: &mut Seen<K>, keys: &mut Vec<K>| {
        keys.clear();
        push(block, lane, keys);
        seen.add(keys);
    };
    select_by(tensor, lanes, &push, count, ranks)
}

/// [`select`], with `count` to make what was seen of a lane what is seen with a block more: for keys that are better not
/// made where it can be told without them that they lie elsewhere. The vector is for whatever it needs.
pub fn select_by<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync,
    count: impl Fn(&Block<'_, R>, usize, &mut Seen<K>, &mut Vec<K>) + Sync,
    ranks: impl Fn(usize, u64) -> Vec<u64>,
) -> Result<Vec<Vec<Cut<K>>>> {
    if tensor.elements <= CHUNK {
        let mut found = vec![Vec::new(); lanes];
        for part in tensor.gather(|| vec![Vec::new(); lanes], each_lane(&push))? {
            found.iter_mut().zip(part).for_each(|(all, mut some)| all.append(&mut some));
        }
        let cuts = found.into_iter().enumerate().map(|(lane, mut keys)| {
            let wanted = ranks(lane, keys.len() as u64);
            wanted.iter().filter_map(|&rank| nth(&mut keys, rank)).collect()
        });
        return Ok(cuts.collect());
    }
    let looks = looks(tensor, lanes, &push, &ranks)?;
    if let Some(mut seen) = look(tensor, &looks, count)? {
        let cuts = |(lane, seen): (usize, &mut Seen<K>)| {
            let all = seen.all;
            let wanted = ranks(lane, all).into_iter().filter(|_| all > 0);
            let cut = |(rank, found): (u64, &mut Found<K>)| found.cut(rank.min(all - 1));
            wanted.zip(&mut seen.looks).map(cut).collect::<Option<Vec<_>>>()
        };
        if let Some(cuts) = seen.iter_mut().enumerate().map(cuts).collect() {
            return Ok(cuts);
        }
    }
    by_digits(tensor, lanes, push, ranks)
}

/// What [`select`] takes of memory beside its tensor, in bytes: for so many elements, lanes with so many ranks, and
/// bytes in a key.
#[must_use]
pub fn memory(elements: u64, lanes: u64, ranks: u64, key: u64, threads: u64) -> u64 {
    if elements <= CHUNK {
        return 2 * lanes * elements * key;
    }
    let sample = 2 * lanes * sampled(elements) * key;
    let digits = threads * lanes * ranks * (8 << DIGIT);
    sample + 2 * room(elements, lanes * ranks) * key + digits
}

/// How many keys a sweep keeps at most: twice what it expects.
fn room(elements: u64, looks: u64) -> u64 {
    let sample = sampled(elements) as f64;
    let share = 2.0 * (SPREAD * 0.5 * sample.sqrt() + RUN as f64) / sample;
    (2.0 * share * elements as f64) as u64 * looks + CHUNK
}

fn each_lane<R: Number, K: Key>(
    push: &(impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync),
) -> impl Fn(&mut Vec<Vec<K>>, &Block<'_, R>) + Sync {
    |found, block| {
        found.iter_mut().enumerate().for_each(|(lane, keys)| push(block, lane, keys));
    }
}

/// Where to look for each wanted rank of each lane, by a sample.
fn looks<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    lanes: usize,
    push: &(impl Fn(&Block<'_, R>, usize, &mut Vec<K>) + Sync),
    ranks: &impl Fn(usize, u64) -> Vec<u64>,
) -> Result<Vec<Vec<Look<K>>>> {
    let (mut drawn, mut samples) = (0, vec![Vec::new(); lanes]);
    let each = each_lane(push);
    let start = || (0, vec![Vec::new(); lanes]);
    let step = |(drawn, keys): &mut (u64, Vec<Vec<K>>), block: &Block<'_, R>| {
        *drawn += block.length as u64;
        each(keys, block);
    };
    for (some, keys) in tensor.sample(start, step)? {
        drawn += some;
        samples.iter_mut().zip(keys).for_each(|(all, mut some)| all.append(&mut some));
    }
    let of_lane = |(lane, mut keys): (usize, Vec<K>)| {
        let count = keys.len() as f64;
        let all = (u128::from(tensor.elements) * keys.len() as u128 / u128::from(drawn)) as u64;
        let at = |keys: &mut [K], place: f64| match keys.len() {
            _ if place < 0.0 => K::from_wide(0),
            length if place >= length as f64 => K::from_wide(u128::MAX),
            _ => *keys.select_nth_unstable(place as usize).1,
        };
        let look = |rank: u64| {
            let share = if all == 0 { 0.5 } else { rank as f64 / all as f64 };
            let spread = SPREAD * (count * share * (1.0 - share)).sqrt() + RUN as f64;
            let low = at(&mut keys, count * share - spread);
            Look { low, high: at(&mut keys, count * share + spread) }
        };
        ranks(lane, all).into_iter().map(look).collect()
    };
    Ok(samples.into_iter().enumerate().map(of_lane).collect())
}

/// What a sweep saw of a lane.
#[derive(Clone, Debug)]
pub struct Seen<K> {
    /// How many keys.
    pub all: u64,
    /// What is around each look.
    pub looks: Vec<Found<K>>,
}

impl<K: Key> Seen<K> {
    fn add(&mut self, keys: &[K]) {
        self.all += keys.len() as u64;
        self.looks.iter_mut().for_each(|found| found.add(keys));
    }

    fn kept(&self) -> u64 {
        self.looks.iter().map(|found| found.between.len() as u64).sum()
    }

    fn join(&mut self, other: Self) {
        self.all += other.all;
        self.looks.iter_mut().zip(other.looks).for_each(|(found, other)| found.join(other));
    }
}

/// What it saw around one look.
#[derive(Clone, Debug)]
pub struct Found<K> {
    /// The look.
    pub look: Look<K>,
    /// How many keys are below it.
    pub below: u64,
    at_low: u64,
    at_high: u64,
    /// The keys between; those at its ends where they are not counted apart.
    pub between: Vec<K>,
}

impl<K: Key> Found<K> {
    /// The key of that rank, if it is at the look or between.
    fn cut(&mut self, rank: u64) -> Option<Cut<K>> {
        let rank = rank.checked_sub(self.below)?;
        let Some(rank) = rank.checked_sub(self.at_low) else {
            return Some(Cut { key: self.look.low, below: self.below, equal: self.at_low });
        };
        let below = self.below + self.at_low;
        let Some(rank) = rank.checked_sub(self.between.len() as u64) else {
            let cut = nth(&mut self.between, rank)?;
            return Some(Cut { below: cut.below + below, ..cut });
        };
        let below = below + self.between.len() as u64;
        let cut = Cut { key: self.look.high, below, equal: self.at_high };
        (rank < self.at_high).then_some(cut)
    }

    fn add(&mut self, keys: &[K]) {
        let [below, at_low, at_high] = tally(self.look, keys, &mut self.between);
        self.below += below;
        self.at_low += at_low;
        self.at_high += at_high;
    }

    fn join(&mut self, mut other: Self) {
        self.below += other.below;
        self.at_low += other.at_low;
        self.at_high += other.at_high;
        self.between.append(&mut other.between);
    }
}

/// One sweep for all looks; nothing where too many keys lie between.
fn look<R: Number, K: Key>(
    tensor: &Tensor<'_, R>,
    looks: &[Vec<Look<K>>],
    count: impl Fn(&Block<'_, R>, usize, &mut Seen<K>, &mut Vec<K>) + Sync,
) -> Result<Option<Vec<Seen<K>>>> {
    let room = room(tensor.elements, looks.iter().map(Vec::len).sum::<usize>() as u64);
    let kept = AtomicU64::new(0);
    let found = |&look: &Look<K>| Found { look, below: 0, at_low: 0, at_high: 0, between: vec![] };
    let lane = |looks: &Vec<Look<K>>| Seen { all: 0, looks: looks.iter().map(found).collect() };
    let start = || (looks.iter().map(lane).collect::<Vec<_>>(), Vec::<K>::new());
    let step = |(lanes, keys): &mut (Vec<Seen<K>>, Vec<K>), block: &Block<'_, R>| {
        for (lane, seen) in lanes.iter_mut().enumerate() {
            if kept.load(Ordering::Relaxed) > room {
                return;
            }
            let before = seen.kept();
            count(block, lane, seen, keys);
            kept.fetch_add(seen.kept() - before, Ordering::Relaxed);
        }
    };
    let mut parts = tensor.gather(start, step)?.into_iter().map(|(lanes, _)| lanes);
    let mut whole = parts.next().unwrap_or_else(|| start().0);
    for part in parts {
        whole.iter_mut().zip(part).for_each(|(seen, other)| seen.join(other));
    }
    Ok((kept.into_inner() <= room).then_some(whole))
}

vectorised! {
    /// How many keys are below the look, at its lower and at its higher end; those between are appended.
    fn tally<K: Key>(look: Look<K>, keys: &[K], between: &mut Vec<K>) -> [u64; 3] {
        let Look { low, high } = look;
        let (mut below, mut at_low, mut at_high) = (K::default(), K::default(), K::default());
        for &key in keys {
            below = below.plus(key < low);
            at_low = at_low.plus(key == low);
            at_high = at_high.plus(key == high);
        }
        each_where(keys, |_, key| key > low && key < high, |_, key| between.push(key));
        let at_high = if low == high { 0 } else { at_high.wide() };
        [below.wide() as u64, at_low.wide() as u64, at_high as u64]
    }
}

/// The same, digit by digit: for keys that lie where nobody looked.
fn by_digits<R: Number, K: Key>(
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

fn nth<K: Key>(keys: &mut [K], rank: u64) -> Option<Cut<K>> {
    let rank = rank.min((keys.len() as u64).checked_sub(1)?) as usize;
    let key = *keys.select_nth_unstable(rank).1;
    let below = keys[..rank].iter().filter(|&&other| other < key).count() as u64;
    let equal = keys.iter().filter(|&&other| other == key).count() as u64;
    Some(Cut { key, below, equal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::method::Space;
    use crate::fit::properties::Room;
    use crate::read::dtype::Dtype;

    const ELEMENTS: usize = 3 * CHUNK as usize + 1000;
    const RANKS: [u64; 6] =
        [0, 1000, ELEMENTS as u64 / 4, ELEMENTS as u64 / 2, ELEMENTS as u64 - 1, u64::MAX];

    fn noise(element: usize) -> f64 {
        (element as u32).wrapping_mul(0x9e37_79b1) as f64 / 2f64.powi(32) - 0.5
    }

    /// The elements that a sample draws of a tensor of this size.
    fn drawn() -> Vec<bool> {
        let room = Room::new(Dtype::F32, &[vec![0.0; ELEMENTS]], ELEMENTS);
        let tensor = room.tensor::<f32>(Space::Weights, false, 1);
        let step = |places: &mut Vec<_>, block: &Block<'_, f32>| {
            places.push(block.start as usize..block.start as usize + block.length);
        };
        let mut drawn = vec![false; ELEMENTS];
        for places in tensor.sample(Vec::new, step).expect("a sample") {
            places.into_iter().for_each(|place| drawn[place].fill(true));
        }
        drawn
    }

    /// Both ways to search give what sorting gives.
    #[track_caller]
    fn agrees_with_sorting(values: &[f64]) {
        let room = Room::new(Dtype::F32, &[values.to_vec()], values.len());
        let mut keys: Vec<u32> = values.iter().map(|&value| (value as f32).key()).collect();
        keys.sort_unstable();
        let expected = RANKS.map(|rank| {
            let key = keys[(rank as usize).min(keys.len() - 1)];
            let below = keys.partition_point(|&other| other < key) as u64;
            Cut { key, below, equal: keys.partition_point(|&other| other <= key) as u64 - below }
        });
        let push = |block: &Block<'_, f32>, _: usize, keys: &mut Vec<u32>| {
            keys.extend(block.branch(0).iter().map(|value| value.key()));
        };
        for threads in [1, 3] {
            let tensor = room.tensor::<f32>(Space::Weights, false, threads);
            let found = select(&tensor, 1, push, |_, _| RANKS.to_vec()).expect("cuts");
            assert_eq!(found, [expected]);
            let found = by_digits(&tensor, 1, push, |_, _| RANKS.to_vec()).expect("cuts");
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn noise_is_cut() {
        agrees_with_sorting(&(0..ELEMENTS).map(noise).collect::<Vec<_>>());
        agrees_with_sorting(&(0..1000).map(noise).collect::<Vec<_>>());
    }

    #[test]
    fn equal_keys_are_counted() {
        agrees_with_sorting(&vec![-0.25; ELEMENTS]);
        let few = |element| (noise(element) * 4.0).round();
        agrees_with_sorting(&(0..ELEMENTS).map(few).collect::<Vec<_>>());
    }

    #[test]
    fn order_in_the_tensor_does_not_mislead() {
        agrees_with_sorting(&(0..ELEMENTS).map(|element| element as f64).collect::<Vec<_>>());
        let late = |element| if element > ELEMENTS / 2 { noise(element) } else { 0.0 };
        agrees_with_sorting(&(0..ELEMENTS).map(late).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_sample_does_not_see_is_found() {
        let drawn = drawn();
        let hidden = |element: usize| if drawn[element] { 5.0 } else { noise(element) };
        agrees_with_sorting(&(0..ELEMENTS).map(hidden).collect::<Vec<_>>());
        // More lies between what was drawn than may be kept.
        let crowded = |element: usize| {
            if drawn[element] { (element % 2) as f64 * 4.0 - 2.0 } else { noise(element) }
        };
        agrees_with_sorting(&(0..ELEMENTS).map(crowded).collect::<Vec<_>>());
    }

    #[test]
    fn lanes_are_apart_and_may_be_empty() {
        let room = Room::new(Dtype::F32, &[(0..ELEMENTS).map(noise).collect()], ELEMENTS);
        let tensor = room.tensor::<f32>(Space::Weights, false, 2);
        let push = |block: &Block<'_, f32>, lane: usize, keys: &mut Vec<u32>| {
            let wanted = |value: &&f32| lane == 0 && **value > 0.0;
            keys.extend(block.branch(0).iter().filter(wanted).map(|value| value.key()));
        };
        let middle = |_, all: u64| vec![all / 2];
        let found = select(&tensor, 2, push, middle).expect("cuts");
        assert_eq!(found, by_digits(&tensor, 2, push, middle).expect("cuts"));
        assert!(found[0][0].below.abs_diff(ELEMENTS as u64 / 4) < 5 && found[1].is_empty());
    }
}
