//! The largest elements of a branch by magnitude, exactly as many as asked for.

use crate::error::Result;
use crate::fit::number::Number;
use crate::fit::random::Stream;
use crate::fit::select::{Look, select, select_near};
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
        result[i] = Largest::Above(size, u32::MAX);
        let wanted = kept(i) - (tensor.elements - cut.below - cut.equal).min(kept(i));
        // Which of many zeros is kept makes no difference.
        if wanted < cut.equal && size != R::ZERO {
            tied.push(Tied { branch: i, size, wanted, equal: cut.equal });
        }
    }
    if tied.is_empty() {
        return Ok(result);
    }
    let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<u32>| {
        let Tied { branch, size, .. } = tied[lane];
        let before = keys.len();
        keys.resize(before + block.length, 0);
        let stream = tensor.streams[branch];
        orders(size, stream, block.start, block.branch(branch), &mut keys[before..]);
    };
    let last = |tied: &Tied<R>| tied.wanted.saturating_sub(1);
    let looks: Vec<_> =
        tied.iter().map(|one| vec![Look::among_even(last(one), one.equal)]).collect();
    let cuts = select_near(tensor, tied.len(), &looks, push, |lane, _| vec![last(&tied[lane])])?;
    for (one, cuts) in tied.iter().zip(&cuts) {
        if let Some(cut) = cuts.first() {
            result[one.branch] = Largest::Above(one.size, cut.key);
        }
    }
    Ok(result)
}

/// A branch some of whose equal magnitudes are wanted, and some are not.
struct Tied<R> {
    branch: usize,
    size: R,
    wanted: u64,
    equal: u64,
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
    /// The order of the elements of that magnitude; the others come last.
    fn orders<R: Number>(size: R, stream: Stream, start: u64, values: &[R], orders: &mut [u32]) {
        for ((order, &value), element) in orders.iter_mut().zip(values).zip(start..) {
            let number = stream.order(element);
            *order = if value.abs() == size { number } else { u32::MAX };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::method::Space;
    use crate::fit::properties::Room;
    use crate::fit::tensor::CHUNK;
    use crate::read::dtype::Dtype;

    /// Exactly as many are kept as asked for, none smaller than one that is not, and they lie everywhere.
    #[track_caller]
    fn keeps_exactly(values: Vec<f64>, share: f64) {
        let base = vec![0.0; values.len()];
        let room = Room::new(Dtype::F32, &[base, values.clone()], values.len());
        let tensor = room.tensor::<f32>(Space::Delta, true, 2);
        let cut = largest(&tensor, &[share]).expect("a cut")[0];
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let mut kept = vec![0.0; values.len()];
        cut.keep(tensor.streams[0], 0, &values, &mut kept);
        let chosen = kept.iter().filter(|value| **value != 0.0).count();
        assert_eq!(chosen, ((share * values.len() as f64).floor() as usize).max(1));
        let both = || values.iter().zip(&kept);
        let least =
            kept.iter().filter(|value| **value != 0.0).fold(f32::MAX, |a, b| a.min(b.abs()));
        assert!(both().all(|(value, kept)| kept == value || value.abs() <= least));
        let early = kept[..kept.len() / 2].iter().filter(|value| **value != 0.0).count() as f64;
        assert!((early / chosen as f64 - 0.5).abs() < 3.0 / (chosen as f64).sqrt());
    }

    #[test]
    fn equal_magnitudes_are_kept_as_many_as_asked_for() {
        let steps = |elements: usize, levels: u32| {
            let value = |element: usize| {
                let mixed = (element as u32).wrapping_mul(0x9e37_79b1) >> 16;
                (1 + mixed % levels) as f64 * if mixed & 1 == 0 { 0.5 } else { -0.5 }
            };
            (0..elements).map(value).collect::<Vec<f64>>()
        };
        for elements in [1, 1000, 2 * CHUNK as usize + 77] {
            for (levels, share) in [(1, 0.5), (1, 0.001), (3, 0.4), (1000, 0.2), (60_000, 0.9)] {
                keeps_exactly(steps(elements, levels), share);
            }
        }
    }
}
