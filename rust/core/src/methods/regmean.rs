//! `regmean`: the weights that answer most like every branch on the inputs that it sees.

use crate::fit::prelude::*;

/// See the module.
pub(super) struct RegMean;

static SPEC: Spec = Spec {
    name: "regmean",
    sentence: "finds for every matrix the weights whose answers are nearest to those of each branch, on the inputs that it sees",
    paper: "Jin et al., Dataless knowledge fusion by merging weights of language models, arXiv 2212.09849",
    formula: "G = XᵀX of each branch's inputs, all but its diagonal times off_diagonal; y = (Σ x·G)·(Σ G)⁻¹, of deltas where there is a base; \
              the mean for inputs that no branch uses, and for what has no Gram matrix (embeddings, heads, norms)",
    guide: Guide {
        detail: "It is a mean in which every input direction counts for the branch that uses it most.",
        when: "a few hundred texts of each branch's domain are at hand, and `branchmerge grams` can run on them",
        avoid: "there is no text; or the files of wide layers are too large, 4 bytes × inputs² for each matrix",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Optional,
    parameters: &[Parameter {
        name: "off_diagonal",
        kind: Type::Number { low: 0.0, high: 1.0 },
        default: Some(Value::Number(0.9)),
        per: Per::Global,
        help: "what the Gram matrices are multiplied with beside their diagonals; below 1 they cannot be singular",
    }],
    grams: true,
    // Each branch for its product, less the first where there is no base; again where some inputs are used by none.
    passes: |parameters, _| 3 * parameters.branches.len() as u64 + 2,
    memory: |_, extent| linalg::memory(extent, extent.row, &[(2, 1)]) + inputs::memory(extent),
    bits: Bits::Machine,
    ..USUAL
};

impl Method for RegMean {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let count = tensor.branches();
        if !inputs::known(tensor) {
            return Ok(linalg::mean(count, 1.0));
        }
        let (mut sum, mut merged) = inputs::weighed(tensor, parameters.number("off_diagonal"))?;
        let size = sum.columns;
        let unused: Vec<usize> = (0..size).filter(|&e| sum.values[e * size + e] <= 0.0).collect();
        if !unused.is_empty() {
            let mut mean = linalg::empty(tensor)?;
            for i in 0..count {
                mean.add(tensor, i, 1.0 / count as f64)?;
            }
            if !tensor.has_base {
                mean.add(tensor, 0, -1.0)?;
            }
            for &e in &unused {
                sum.values[e * size + e] = 1.0;
                let rows = merged.values.chunks_mut(size).zip(mean.values.chunks(size));
                rows.for_each(|(merged, mean)| merged[e] = mean[e]);
            }
        }
        linalg::solve(sum, &mut merged, tensor.name)?;
        Ok(if tensor.has_base { linalg::whole(merged) } else { on_first(merged) })
    }
}

/// The first branch plus what was found.
fn on_first<R: Number>(change: Matrix) -> Fit<R> {
    Fit::new(move |block: &Block<'_, R>, out: &mut [R]| {
        let change = &change.values[block.start as usize..][..block.length];
        for ((out, &first), &change) in out.iter_mut().zip(block.branch(0)).zip(change) {
            *out = if change == 0.0 { first } else { R::from_f64(first.to_f64() + change) };
        }
    })
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::solve;
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, n) = (case.deltas(), case.row);
        let off = case.parameters.number("off_diagonal");
        let gram = |i: usize, r: usize, c: usize| {
            case.grams[i][r * n + c] * if r == c { 1.0 } else { off }
        };
        let entry = |r: usize, c: usize| (0..deltas.len()).map(|i| gram(i, r, c)).sum::<f64>();
        let sum: Vec<Vec<f64>> = (0..n).map(|r| (0..n).map(|c| entry(r, c)).collect()).collect();
        let mut merged = Vec::new();
        for first in (0..deltas[0].len()).step_by(n) {
            let pull = |c: usize| {
                let of =
                    |i: usize| (0..n).map(|k| deltas[i][first + k] * gram(i, k, c)).sum::<f64>();
                (0..deltas.len()).map(of).sum::<f64>()
            };
            merged.extend(solve(&sum, (0..n).map(pull).collect()));
        }
        case.on_base(vec![merged])
    }

    check_machine!(RegMean, naive);
}
