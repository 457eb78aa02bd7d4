//! The largest elements of a branch by magnitude, exactly as many as asked for.

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::fit::group::each_where;
use crate::fit::number::{Key, Number};
use crate::fit::random::Stream;
use crate::fit::select::{Found, Seen, select_by};
use crate::fit::tensor::{Block, Tensor};

/// Which elements of a branch are its largest by magnitude.
#[derive(Clone, Copy, Debug)]
pub enum Largest<R> {
    /// All.
    All,
    /// None.
    None,
    /// Those above a magnitude, and of those at it the ones whose number in the stream is at most the second figure.
    Above(R, u32),
}

/// The `shares` largest elements by magnitude of each branch: k = max(1, ⌊share·n⌋); none where the share is 0.
///
/// Among equal magnitudes at the cut the counter hash decides, not the index.
pub fn largest<R: Number>(tensor: &Tensor<'_, R>, shares: &[f64]) -> Result<Vec<Largest<R>>> {
    let searched: Vec<usize> =
        (0..shares.len()).filter(|&i| shares[i] > 0.0 && shares[i] < 1.0).collect();
    let mut result: Vec<Largest<R>> = shares
        .iter()
        .map(|&share| if share > 0.0 { Largest::All } else { Largest::None })
        .collect();
    if searched.is_empty() || tensor.elements == 0 {
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
        for found in &mut seen.looks {
            sift(found, stream, block.start, block.branch(searched[lane]));
        }
    };
    let least = |lane: usize, all: u64| {
        let kept = (shares[searched[lane]] * tensor.elements as f64).floor().max(1.0);
        vec![all - (kept as u64).min(all)]
    };
    let cuts = select_by(tensor, searched.len(), push, count, least)?;
    for (&i, cuts) in searched.iter().zip(&cuts) {
        if let Some(cut) = cuts.first() {
            let (size, order) = R::of_ranked(cut.key);
            result[i] = Largest::Above(R::from_key(size), order);
        }
    }
    Ok(result)
}

impl<R: Number> Largest<R> {
    /// The elements from `start` on that are among the largest, zeros for the others.
    pub fn keep(&self, stream: Stream, start: u64, values: &[R], kept: &mut [R]) {
        match *self {
            Self::All => kept.copy_from_slice(values),
            Self::None => kept.fill(R::ZERO),
            Self::Above(size, order) => keep(size, order, stream, start, values, kept),
        }
    }
}

vectorised! {
    fn keep<R: Number>(size: R, order: u32, stream: Stream, start: u64, values: &[R], kept: &mut [R]) {
        for ((kept, &value), element) in kept.iter_mut().zip(values).zip(start..) {
            let magnitude = value.abs();
            let chosen = (magnitude == size) & (stream.order(element) <= order);
            *kept = if (magnitude > size) | chosen { value } else { R::ZERO };
        }
    }
}

vectorised! {
    /// Counts a branch's elements from `start` on around a look.
    fn sift<R: Number>(found: &mut Found<R::Ranked>, stream: Stream, start: u64, values: &[R]) {
        let ((low, last), (high, first)) = (R::of_ranked(found.look.low), R::of_ranked(found.look.high));
        let mut below = R::Key::default();
        each_where(
            values,
            |e, value| {
                let (key, order) = (value.abs().key(), stream.order(start + e as u64));
                let under = (key < low) | (key == low) & (order > last);
                let over = (key > high) | (key == high) & (order < first);
                below = below.plus(under);
                !(under | over)
            },
            |e, value| found.between.push(value.ranked(stream.order(start + e as u64))),
        );
        found.below += below.wide() as u64;
    }
}
