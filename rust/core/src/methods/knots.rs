//! `knots`: TIES in the directions that the branches share.

use super::parameters::{DENSITY, EVEN_WEIGHT, LAMBDA, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Knots;

static SPEC: Spec = Spec {
    name: "knots",
    sentence: "turns the deltas into directions that they share, and merges them there as `ties` does",
    paper: "Stoica et al., Model merging with SVD to tie the KnOTS, arXiv 2410.19735",
    formula: "t = x − b; [t₁ … tₙ] = U·S·[V₁ … Vₙ]; y = b + λ·U·TIES(S·V₁, …, S·Vₙ), with its density, weight and normalize; the t one below \
              the other where rows outnumber columns; directions below 1e-6 of the largest are left out; \
              y = b + λ·Σ w·t (divided by Σ w under normalize) for what is no map (embeddings, heads, one or more than two dimensions)",
    guide: Guide {
        detail: "In shared directions a sign means the same for every branch, which it does not in the weights of adapters.",
        when: "branches that were trained as LoRA adapters, where `ties` on their weights does little",
        avoid: "one branch, of which it only trims what has no meaning alone; or time is short",
        example: "{\"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[EVEN_WEIGHT, DENSITY, normalize(true), LAMBDA],
    check: combine::check_weights,
    passes: |parameters, _| 2 * parameters.branches.len() as u64 + 1,
    // The eigenvectors; then all deltas in their directions, what trimming sorts, and the result.
    memory: |_, extent| {
        let side = linalg::short_side(extent);
        linalg::memory(extent, side, &[(1, 1), (0, linalg::EIGEN), (extent.branches + 4, 2)])
    },
    bits: Bits::Machine,
    ..USUAL
};

impl Method for Knots {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            return Ok(Combine::new(parameters, Vote::None).fit());
        }
        let left = tensor.elements / tensor.row_length <= tensor.row_length;
        let basis = linalg::directions(tensor, left, usize::MAX)?;
        let along = |i: usize| {
            let delta = linalg::branch(tensor, i)?;
            if left {
                linalg::product(Factor::Plain(&basis), Factor::Plain(&delta))
            } else {
                linalg::product(Factor::Plain(&delta), Factor::Turned(&basis))
            }
        };
        let parts = (0..tensor.branches()).map(along).collect::<Result<Vec<_>>>()?;
        let merged = sparsify::ties(parts, parameters, &tensor.streams)?;
        let (basis_, merged) = (Factor::Plain(&basis), Factor::Plain(&merged));
        let whole = if left {
            linalg::product(Factor::Turned(&basis), merged)?
        } else {
            linalg::product(merged, basis_)?
        };
        Ok(linalg::whole(whole))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::{svd, turned};
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let rows =
            |delta: &Vec<f64>| delta.chunks(case.row).map(<[f64]>::to_vec).collect::<Vec<_>>();
        let mut matrices: Vec<Vec<Vec<f64>>> = case.deltas().iter().map(rows).collect();
        let tall = matrices[0].len() > case.row;
        if tall {
            matrices = matrices.iter().map(|matrix| turned(matrix)).collect();
        }
        let beside = |r: usize| matrices.iter().flat_map(|matrix| matrix[r].clone()).collect();
        let (u, s, v) = svd(&(0..matrices[0].len()).map(beside).collect::<Vec<Vec<f64>>>());
        let there = s.iter().filter(|value| **value > 1e-6 * s[0]).count();
        let length = matrices[0][0].len();
        let part = |i: usize| -> Vec<f64> {
            let own = |(s, v): (&f64, &Vec<f64>)| -> Vec<f64> {
                v[i * length..(i + 1) * length].iter().map(|x| x * s).collect()
            };
            s.iter().zip(&v).take(there).flat_map(own).collect()
        };
        let parts: Vec<Vec<f64>> = (0..matrices.len()).map(part).collect();
        let whole = |merged: Vec<f64>| {
            let row = |r: usize| -> Vec<f64> {
                let of = |c: usize| (0..there).map(|k| u[k][r] * merged[k * length + c]).sum();
                (0..length).map(of).collect()
            };
            let whole: Vec<Vec<f64>> = (0..matrices[0].len()).map(row).collect();
            if tall { turned(&whole).concat() } else { whole.concat() }
        };
        let found = sparsify::naive_ties(case.parameters, &parts).into_iter().map(whole);
        case.on_base(found.collect())
    }

    check_machine!(Knots, naive);
}
