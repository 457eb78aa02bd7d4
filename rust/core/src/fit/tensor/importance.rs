//! Importances of single elements: what a branch's element counts for, beside those of the other branches.

use std::ops::Range;

use super::{Leaf, Raw, Scratch, Tensor};
use crate::error::{Error, Result};
use crate::fit::number::Number;
use crate::read::dtype;

/// The importances of the branches' elements. A branch's element x becomes x·F/(Σ w·F/Σ w): a weighted mean of such elements
/// is Σ w·F·x/Σ w·F (Matena and Raffel, Merging models with Fisher-weighted averaging, arXiv 2111.09832).
#[derive(Debug, Clone)]
pub struct Importance<'a> {
    leaves: Vec<Leaf<'a>>,
    /// What each branch's importance counts for in their mean; they sum to 1.
    shares: Vec<f64>,
}

impl<'a> Importance<'a> {
    /// One tensor of importances a branch, and the branches' weights.
    #[must_use]
    pub fn new(leaves: Vec<Leaf<'a>>, weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().map(|weight| weight.abs()).sum();
        let even = 1.0 / leaves.len() as f64;
        let share = |weight: &f64| if sum > 0.0 { weight.abs() / sum } else { even };
        Self { shares: weights.iter().map(share).collect(), leaves }
    }

    /// The stored importances.
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf<'a>> {
        self.leaves.iter()
    }
}

impl<R: Number> Tensor<'_, R> {
    /// Weighs the branches' elements `within` what was read. `leaf` counts the leaves passed.
    pub(super) fn weigh(
        &self,
        importance: &Importance<'_>,
        raw: &Raw<'_>,
        leaf: &mut usize,
        within: Range<usize>,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let (length, stride) = (within.len(), scratch.stride);
        scratch.importances.resize(importance.leaves.len() * stride, R::ZERO);
        scratch.means.clear();
        scratch.means.resize(length, 0.0);
        let rows = scratch.importances.chunks_mut(stride);
        for ((stored, share), values) in importance.leaves.iter().zip(&importance.shares).zip(rows)
        {
            let (bytes, values) = (raw.leaves[*leaf], &mut values[..length]);
            *leaf += 1;
            let size = (stored.stored.dtype.bits() / 8) as usize;
            let bytes = &bytes[within.start * size..within.end * size];
            dtype::decode(stored.stored.dtype, bytes, values)?;
            if let Some(at) =
                values.iter().position(|value| !(value.is_finite() && *value >= R::ZERO))
            {
                let element = raw.start + (within.start + at) as u64;
                let found = values[at].to_f64();
                let what =
                    format!("element {element} is {found}, expected importances of 0 and more");
                let error = Error::malformed(what).tensor(self.name).branch(stored.label);
                return Err(error.path(stored.source.path()));
            }
            add(&mut scratch.means, values, *share);
        }
        let first = usize::from(self.has_base);
        let branches = scratch.values.chunks_mut(stride).skip(first);
        for (branch, values) in branches.zip(scratch.importances.chunks(stride)) {
            scale(&mut branch[..length], &values[..length], &scratch.means);
        }
        Ok(())
    }
}

vectorised! {
    fn add<R: Number>(means: &mut [f64], values: &[R], share: f64) {
        for (mean, value) in means.iter_mut().zip(values) {
            *mean += share * value.to_f64();
        }
    }
}

vectorised! {
    /// Elements that are of no importance in any branch are left as they are.
    fn scale<R: Number>(elements: &mut [R], values: &[R], means: &[f64]) {
        for ((element, value), &mean) in elements.iter_mut().zip(values).zip(means) {
            let scaled = R::from_f64(element.to_f64() * (value.to_f64() / mean));
            *element = if mean > 0.0 { scaled } else { *element };
        }
    }
}
