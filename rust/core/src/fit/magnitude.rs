//! Cuts by magnitude: exactly as many elements of a branch as asked for, between two of its ranks.

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::fit::group::each_where;
use crate::fit::number::{Key, Number};
use crate::fit::parameters::{Cut, Parameters};
use crate::fit::random::{Orders, Stream, before_turn};
use crate::fit::select::{Found, Seen, select_by};
use crate::fit::tensor::{Block, Tensor};

/// Which elements of a branch are kept, by how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many are kept.
    pub kept: u64,
    /// How many larger ones are not.
    pub above: u64,
}

impl Quota {
    /// The largest ones: a share of so many elements, at least one unless the share is 0.
    #[must_use]
    pub fn largest(share: f64, elements: u64) -> Self {
        let kept = ((share * elements as f64) as u64).min(elements);
        let least = u64::from(share > 0.0).min(elements);
        Self { kept: kept.max(least), above: 0 }
    }
}

/// Which elements of a branch are kept, by magnitude. Among equal ones at an end the counter hash decides, not the index.
#[derive(Clone, Copy, Debug)]
pub enum Band<R> {
    /// All.
    All,
    /// None.
    None,
    /// Those from an end to another, both included.
    Between(End<R>, End<R>),
}

/// A magnitude, and the number in the stream of the element that has it.
#[derive(Clone, Copy, Debug)]
pub struct End<R> {
    magnitude: R,
    order: u32,
}

/// The band of each branch with the share of its elements that `density` says: of the whole model where the parameters
/// have its cuts, else of this tensor.
pub fn bands_by_density<R: Number>(
    tensor: &Tensor<'_, R>,
    parameters: &Parameters,
) -> Result<Vec<Band<R>>> {
    if !parameters.cuts.is_empty() {
        return Ok(parameters.cuts.iter().map(Band::of_cut).collect());
    }
    let densities = parameters.numbers("density");
    let quotas = densities.iter().map(|&density| Quota::largest(density, tensor.elements));
    bands(tensor, &quotas.collect::<Vec<_>>())
}

/// The band of each branch that has as many elements in it as the quota says.
pub fn bands<R: Number>(tensor: &Tensor<'_, R>, quotas: &[Quota]) -> Result<Vec<Band<R>>> {
    let all = tensor.elements;
    let searched: Vec<usize> =
        (0..quotas.len()).filter(|&i| quotas[i].kept > 0 && quotas[i].kept < all).collect();
    let whole = |quota: &Quota| if quota.kept > 0 { Band::All } else { Band::None };
    let mut result: Vec<Band<R>> = quotas.iter().map(whole).collect();
    if searched.is_empty() {
        return Ok(result);
    }
    let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<R::Ranked>| {
        let stream = tensor.streams[searched[lane]];
        let values = block.branch(searched[lane]).iter().zip(block.start..);
        keys.extend(values.map(|(value, element)| value.ranked(stream.order(element))));
    };
    let count = |block: &Block<'_, R>, lane: usize, seen: &mut Seen<R::Ranked>, _: &mut Vec<_>| {
        let stream = tensor.streams[searched[lane]];
        seen.all += block.length as u64;
        let values = block.branch(searched[lane]);
        seen.looks.iter_mut().for_each(|found| sift_all(found, stream, block.start, values));
    };
    let tops = searched.iter().any(|&i| quotas[i].above > 0);
    let ranks = |lane: usize, all: u64| {
        let Quota { kept, above } = quotas[searched[lane]];
        let end = all.saturating_sub(above);
        let least = end.saturating_sub(kept);
        if tops { vec![least, end.saturating_sub(1)] } else { vec![least] }
    };
    let cuts = select_by(tensor, searched.len(), push, count, ranks)?;
    let end = |key: R::Ranked| {
        let (magnitude, order) = R::of_ranked(key);
        End { magnitude: R::from_key(magnitude), order }
    };
    for (&i, cuts) in searched.iter().zip(&cuts) {
        if let Some(least) = cuts.first() {
            let most = cuts.get(1).map_or_else(Band::highest, |most| end(most.key));
            result[i] = Band::Between(end(least.key), most);
        }
    }
    Ok(result)
}

impl<R: Number> Band<R> {
    /// What is above a cut of the whole model.
    fn of_cut(cut: &Cut) -> Self {
        let Cut::At { magnitude, order } = *cut else {
            return if *cut == Cut::All { Self::All } else { Self::None };
        };
        // A cut between two numbers of this precision keeps all that have the upper one.
        let least = R::round_up(magnitude);
        let order = if least.to_f64() > magnitude { u32::MAX } else { order };
        Self::Between(End { magnitude: least, order }, Self::highest())
    }

    /// An end that nothing is beyond.
    fn highest() -> End<R> {
        End { magnitude: R::from_f64(f64::INFINITY), order: 0 }
    }

    /// The elements from `start` on that are in the band, zeros for the others.
    pub fn keep(&self, stream: Stream, start: u64, values: &[R], kept: &mut [R]) {
        match *self {
            Self::All => kept.copy_from_slice(values),
            Self::None => kept.fill(R::ZERO),
            Self::Between(least, most) => {
                let (first, rest) = values.split_at(before_turn(start, values.len()));
                let (kept, others) = kept.split_at_mut(first.len());
                keep(least, most, stream.orders(start), first, kept);
                if !rest.is_empty() {
                    self.keep(stream, start + first.len() as u64, rest, others);
                }
            }
        }
    }
}

vectorised! {
    fn keep<R: Number>(least: End<R>, most: End<R>, orders: Orders, values: &[R], kept: &mut [R]) {
        for ((kept, &value), further) in kept.iter_mut().zip(values).zip(0..) {
            let (size, order) = (value.abs(), orders.at(further));
            // Of equal magnitudes the smaller number ranks higher.
            let reaches = (size > least.magnitude) | (size == least.magnitude) & (order <= least.order);
            let within = (size < most.magnitude) | (size == most.magnitude) & (order >= most.order);
            *kept = if reaches & within { value } else { R::ZERO };
        }
    }
}

/// Counts the magnitudes of elements from `start` on around a look.
pub fn sift_all<R: Number>(found: &mut Found<R::Ranked>, stream: Stream, start: u64, values: &[R]) {
    let (first, rest) = values.split_at(before_turn(start, values.len()));
    sift(found, stream.orders(start), first);
    sift(found, stream.orders(start + first.len() as u64), rest);
}

vectorised! {
    /// Counts a branch's elements around a look.
    fn sift<R: Number>(found: &mut Found<R::Ranked>, orders: Orders, values: &[R]) {
        let ((low, last), (high, first)) = (R::of_ranked(found.look.low), R::of_ranked(found.look.high));
        let mut below = R::Key::default();
        each_where(
            values,
            |e, value| {
                let (key, order) = (value.abs().key(), orders.at(e as u32));
                let under = (key < low) | (key == low) & (order > last);
                let over = (key > high) | (key == high) & (order < first);
                below = below.plus(under);
                !(under | over)
            },
            |e, value| found.between.push(value.ranked(orders.at(e as u32))),
        );
        found.below += below.wide() as u64;
    }
}

/// Makes all numbers 0 but the largest, as many as the quota keeps. Among equal ones at the cut the counter hash decides.
pub fn trim(values: &mut [f64], quota: Quota, stream: Stream) {
    let dropped = values.len() - (quota.kept as usize).min(values.len());
    if dropped == 0 {
        return;
    }
    if dropped == values.len() {
        return values.fill(0.0);
    }
    let key = |(value, element): (&f64, u64)| value.ranked(stream.order(element));
    let mut keys: Vec<_> = values.iter().zip(0..).map(key).collect();
    let least = *keys.select_nth_unstable(dropped).1;
    for (value, element) in values.iter_mut().zip(0..) {
        if value.ranked(stream.order(element)) < least {
            *value = 0.0;
        }
    }
}

/// A delta's elements within the quota, zeros for the others, and their L1 norm: the definition, for the oracles of the
/// methods. Twice, as of what equals an end either side is right.
#[cfg(test)]
#[must_use]
pub fn naive(delta: &[f64], quota: Quota) -> ([Vec<f64>; 2], f64) {
    let mut sizes: Vec<f64> = delta.iter().map(|d| d.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let end = sizes.len() - quota.above as usize;
    let ranks = &sizes[end - quota.kept as usize..end];
    let (Some(&low), Some(&high)) = (ranks.first(), ranks.last()) else {
        return ([vec![0.0; delta.len()], vec![0.0; delta.len()]], 0.0);
    };
    let within = |equals: bool| {
        let inside =
            |size: f64| size > low && size < high || equals && (size == low || size == high);
        delta.iter().map(|&d| if inside(d.abs()) { d } else { 0.0 }).collect()
    };
    ([within(false), within(true)], ranks.iter().sum())
}
