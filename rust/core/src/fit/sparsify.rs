//! The frame of the methods that keep some elements of every delta: thin, rescale, combine.

use crate::error::Result;
use crate::fit::combine::{Combine, Vote};
use crate::fit::linalg::Matrix;
use crate::fit::magnitude::{self, Quota};
use crate::fit::method::Fit;
use crate::fit::number::Number;
use crate::fit::parameters::Parameters;
use crate::fit::random::Stream;
use crate::fit::statistics::{self, Sum};
use crate::fit::tensor::{Block, Tensor};

/// Combines deltas that `thin` has thinned: given a branch and a block, it puts the branch's elements, zeros for those
/// that are dropped. With `rescale` each thinned delta is first grown to the L1 norm of the whole one.
pub fn sparse<R: Number>(
    tensor: &Tensor<'_, R>,
    mut combine: Combine,
    rescale: bool,
    thin: impl Fn(usize, &Block<'_, R>, &mut [R]) + Send + Sync + 'static,
) -> Result<Fit<R>> {
    if rescale {
        combine.growth = growth(tensor, &thin)?;
    }
    let count = tensor.branches();
    Ok(Fit::new(move |block, out| {
        let mut thinned = vec![R::ZERO; count * block.length];
        for (i, thinned) in thinned.chunks_mut(block.length).enumerate() {
            thin(i, block, thinned);
        }
        let deltas: Vec<&[R]> = thinned.chunks(block.length).collect();
        combine.apply(&deltas, out);
    }))
}

/// Combines matrices as TIES combines deltas: each is trimmed to the share of its elements that `density` says, and what
/// agrees with the majority's sign is added.
pub fn ties(mut parts: Vec<Matrix>, parameters: &Parameters, streams: &[Stream]) -> Result<Matrix> {
    for ((part, density), stream) in
        parts.iter_mut().zip(parameters.numbers("density")).zip(streams)
    {
        let quota = Quota::largest(density, part.values.len() as u64);
        magnitude::trim(&mut part.values, quota, *stream);
    }
    let mut merged = Matrix::zeros(parts[0].rows, parts[0].columns)?;
    let parts: Vec<&[f64]> = parts.iter().map(|part| &part.values[..]).collect();
    Combine::new(parameters, Vote::Weighted).apply(&parts, &mut merged.values);
    Ok(merged)
}

/// The factors that leave each delta's L1 norm as it was.
fn growth<R: Number>(
    tensor: &Tensor<'_, R>,
    thin: &(impl Fn(usize, &Block<'_, R>, &mut [R]) + Sync),
) -> Result<Vec<f64>> {
    let count = tensor.branches();
    let sums = statistics::sums(tensor, 2 * count, |sums, block| {
        let mut thinned = vec![R::ZERO; block.length];
        let (whole, kept) = sums.split_at_mut(count);
        for (i, (whole, kept)) in whole.iter_mut().zip(kept).enumerate() {
            thin(i, block, &mut thinned);
            add_magnitudes(whole, kept, block.branch(i), &thinned);
        }
    })?;
    Ok((0..count).map(|i| ratio(sums[i], sums[count + i])).collect())
}

/// What a thinned delta grows by: 1 where nothing was kept.
#[must_use]
pub fn ratio(whole: f64, kept: f64) -> f64 {
    if kept > 0.0 { whole / kept } else { 1.0 }
}

vectorised! {
    /// Adds the magnitudes of a delta to `whole`, and those of what is kept of it to `kept`.
    pub fn add_magnitudes<R: Number>(whole: &mut Sum, kept: &mut Sum, delta: &[R], thinned: &[R]) {
        let mut see = |lane: usize, delta: R, thinned: R| {
            whole[lane] += delta.abs().to_f64();
            kept[lane] += thinned.abs().to_f64();
        };
        let (deltas, rest) = (delta.as_chunks::<16>(), thinned.as_chunks::<16>());
        for (delta, thinned) in deltas.0.iter().zip(rest.0) {
            for lane in 0..16 {
                see(lane, delta[lane], thinned[lane]);
            }
        }
        for (lane, (&delta, &thinned)) in deltas.1.iter().zip(rest.1).enumerate() {
            see(lane, delta, thinned);
        }
    }
}

/// A thinned delta, twice where there are two admissible ones, and its L1 norm.
#[cfg(test)]
pub(crate) type Thinned = ([Vec<f64>; 2], f64);

/// What the branches' thinned deltas come to: the definition, for the oracles of the methods.
#[cfg(test)]
pub(crate) fn naive(
    case: &crate::fit::properties::Case<'_>,
    thinned: &[Thinned],
    consensus: bool,
) -> Vec<Vec<f64>> {
    let norm = |delta: &[f64]| delta.iter().map(|d| d.abs()).sum::<f64>();
    let grown = |choice: usize| -> Vec<Vec<f64>> {
        let grow = |((versions, kept), whole): (&Thinned, Vec<f64>), choice: usize| {
            let rescales = case.parameters.flag("rescale") && *kept > 0.0;
            let factor = if rescales { norm(&whole) / kept } else { 1.0 };
            versions[choice & 1].iter().map(|d| d * factor).collect()
        };
        let branches = thinned.iter().zip(case.deltas()).enumerate();
        branches.map(|(i, branch)| grow(branch, choice >> i)).collect()
    };
    let sums = |choice| crate::fit::combine::naive(case.parameters, &grown(choice), consensus);
    case.on_base((0..1 << thinned.len()).flat_map(sums).collect())
}

/// What [`ties`] may make of parts given as vectors: the definition, for the oracles of the methods.
#[cfg(test)]
pub(crate) fn naive_ties(parameters: &Parameters, parts: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let densities = parameters.numbers("density");
    let trim = |(part, &density): (&Vec<f64>, &f64)| {
        magnitude::naive(part, Quota::largest(density, part.len() as u64)).0
    };
    let trimmed: Vec<[Vec<f64>; 2]> = parts.iter().zip(&densities).map(trim).collect();
    let chosen = |choice: usize| -> Vec<Vec<f64>> {
        trimmed.iter().enumerate().map(|(i, two)| two[choice >> i & 1].clone()).collect()
    };
    let merged = |choice| crate::fit::combine::naive(parameters, &chosen(choice), true);
    (0..1 << trimmed.len()).flat_map(merged).collect()
}
