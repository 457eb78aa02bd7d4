//! Exact order statistics: a sample says where to look, one sweep counts, and the counts decide.
//!
//! For every wanted rank a sample of the tensor gives two keys between which the sought one most likely lies. One sweep
//! counts the keys below and at them and keeps the few between. Where the sought key lies elsewhere after all, or too
//! many lie between, it is found digit by digit: a sweep counts how many keys have each first digit, the next looks at
//! the second digit of those that share the right first one. Of a tensor of one chunk all keys are kept.

mod digits;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use digits::{DIGIT, by_digits};

use crate::error::Result;
use crate::fit::group::each_where;
use crate::fit::method::Extent;
use crate::fit::number::{Key, Number};
use crate::fit::tensor::{Block, CHUNK, RUN, Tensor, sampled};

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

/// What [`select`] takes of memory beside its tensor, in bytes: for lanes with so many ranks.
#[must_use]
pub fn memory(extent: &Extent<'_>, lanes: u64, ranks: u64) -> u64 {
    // The widest keys hold a number and its order among equals.
    let (elements, key) = (extent.elements, 2 * extent.number);
    if elements <= CHUNK {
        return 2 * lanes * elements * key;
    }
    let sample = 2 * lanes * sampled(elements) * key;
    let digits = extent.workers * lanes * ranks * (8 << DIGIT);
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

fn nth<K: Key>(keys: &mut [K], rank: u64) -> Option<Cut<K>> {
    let rank = rank.min((keys.len() as u64).checked_sub(1)?) as usize;
    let key = *keys.select_nth_unstable(rank).1;
    let below = keys[..rank].iter().filter(|&&other| other < key).count() as u64;
    let equal = keys.iter().filter(|&&other| other == key).count() as u64;
    Some(Cut { key, below, equal })
}
