//! `iso_c`: the sum of the deltas with all its singular values made equal.

use super::parameters::LAMBDA;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct IsoC;

static SPEC: Spec = Spec {
    name: "iso_c",
    sentence: "adds the mean of the deltas with all its singular values made equal, so that no direction outweighs another",
    paper: "Marczak et al., No task left behind: Isotropic model merging, arXiv 2502.04959, and its released code",
    formula: "T = Σ (x − b)/n = U·S·Vᵀ; y = b + λ·s̄·U·Vᵀ, s̄ the mean of all min(rows, columns) singular values; directions below \
              1e-6 of the largest are left out; y = b + λ·T for what is no map (embeddings, heads, one or more than two dimensions)",
    guide: Guide {
        detail: "What several branches share has large singular values and would drown what one of them alone has learned.",
        when: "several branches of one base, each with a skill of its own; it was second best on RL-trained 7B branches",
        avoid: "deltas are low-rank (LoRA): directions of noise grow to the size of the skill; or lambda is not tuned",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[LAMBDA],
    passes: |_, _| 2,
    // The sum while its eigenvectors are found; then the sum, the result, the vectors and what scales them.
    memory: |_, extent| {
        linalg::memory(extent, linalg::short_side(extent), &[(1, linalg::EIGEN), (2, 3)])
    },
    bits: Bits::Machine,
    ..USUAL
};

impl Method for IsoC {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            return Ok(linalg::mean(count, scale));
        }
        let mut sum = linalg::empty(tensor)?;
        for i in 0..count {
            sum.add(tensor, i, 1.0 / count as f64)?;
        }
        Ok(linalg::whole(linalg::flat(&sum, scale, tensor.name)?))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::svd;
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let deltas = case.deltas();
        let n = deltas.len() as f64;
        let mean: Vec<f64> =
            (0..deltas[0].len()).map(|e| deltas.iter().map(|d| d[e]).sum::<f64>() / n).collect();
        let rows: Vec<Vec<f64>> = mean.chunks(case.row).map(<[f64]>::to_vec).collect();
        let (u, s, v) = svd(&rows);
        let flat = s.iter().sum::<f64>() / rows.len().min(case.row) as f64;
        let element = |e: usize| {
            let (row, column) = (e / case.row, e % case.row);
            let sum: f64 = (0..s.len()).map(|k| u[k][row] * v[k][column]).sum();
            case.parameters.number("lambda") * flat * sum
        };
        case.on_base(vec![(0..mean.len()).map(element).collect()])
    }

    check_machine!(IsoC, naive);
}
