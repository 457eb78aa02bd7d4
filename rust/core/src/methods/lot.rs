//! `lot`: the delta whose answers are nearest to those of each branch, layer by layer.

use super::parameters::LAMBDA;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Lot;

static SPEC: Spec = Spec {
    name: "lot",
    sentence: "adds for every matrix the delta whose answers are nearest to those of each branch's delta, on the inputs that it sees",
    paper: "Sun et al., Towards minimizing feature drift in model merging (LOT Merging), arXiv 2505.23859",
    formula: "t = x − b, G = XᵀX of each branch's inputs; y = b + λ·(Σ t·G)·(Σ G)⁺, eigenvalues of Σ G below cut·the largest left out; \
              y = b + λ·Σ t·g/Σ g for scales of norms, g the squares of what they multiply; the mean of t for what has neither",
    guide: Guide {
        detail: "Directions in which no branch sees inputs stay as they are in the base.",
        when: "a few hundred texts of each branch's domain are at hand, and `branchmerge grams` can run on them",
        avoid: "there is no text; or memory is short: it needs eigenvectors of inputs by inputs",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "cut",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(1e-6)),
            per: Per::Global,
            help: "eigenvalues below this share of the largest count as 0",
        },
        LAMBDA,
    ],
    grams: true,
    passes: |parameters, _| parameters.branches.len() as u64 + 1,
    // The product while the eigenvectors of the inputs are found; then it along them.
    memory: |_, extent| {
        linalg::memory(extent, extent.row, &[(2, 1), (1, linalg::EIGEN), (2, 1)])
            + inputs::memory(extent)
    },
    bits: Bits::Machine,
    ..USUAL
};

impl Method for Lot {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        let squares = inputs::squares(tensor)?;
        if !squares.is_empty() {
            return Ok(of_vector(&squares, scale));
        }
        if !inputs::known(tensor) {
            return Ok(linalg::mean(count, scale));
        }
        let (sum, weighed) = inputs::weighed(tensor, 1.0)?;
        let (values, vectors) = linalg::eigen(&sum, tensor.name)?;
        drop(sum);
        // In the directions of the eigenvectors, one a column.
        let mut along = linalg::product(Factor::Plain(&weighed), Factor::Turned(&vectors))?;
        drop(weighed);
        let least = values[0] * parameters.number("cut");
        for row in along.values.chunks_mut(values.len()) {
            for (element, &value) in row.iter_mut().zip(&values) {
                *element = if value > least.max(0.0) { scale * *element / value } else { 0.0 };
            }
        }
        Ok(linalg::whole(linalg::product(Factor::Plain(&along), Factor::Plain(&vectors))?))
    }
}

/// The mean of a vector's elements, each weighed by the squares of what it multiplies.
fn of_vector<R: Number>(squares: &[Vec<f64>], scale: f64) -> Fit<R> {
    let even = scale / squares.len() as f64;
    let weights = squares.iter().map(|own| {
        let weight = |(e, square): (usize, &f64)| {
            let sum: f64 = squares.iter().map(|other| other[e]).sum();
            if sum > 0.0 { scale * square / sum } else { even }
        };
        own.iter().enumerate().map(weight).collect()
    });
    Mixture::Columns(weights.collect()).fit()
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::svd;
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, n) = (case.deltas(), case.row);
        let entry = |r: usize, c: usize| case.grams.iter().map(|gram| gram[r * n + c]).sum::<f64>();
        let sum: Vec<Vec<f64>> = (0..n).map(|r| (0..n).map(|c| entry(r, c)).collect()).collect();
        let (_, s, v) = svd(&sum);
        let (cut, scale) = (case.parameters.number("cut"), case.parameters.number("lambda"));
        let mut merged = vec![0.0; deltas[0].len()];
        for first in (0..merged.len()).step_by(n) {
            let pull = |c: usize| {
                let of = |i: usize| {
                    (0..n).map(|k| deltas[i][first + k] * case.grams[i][k * n + c]).sum::<f64>()
                };
                (0..deltas.len()).map(of).sum::<f64>()
            };
            let pull: Vec<f64> = (0..n).map(pull).collect();
            for (s, v) in s.iter().zip(&v).filter(|(value, _)| **value > cut * s[0]) {
                let along = pull.iter().zip(v).map(|(x, y)| x * y).sum::<f64>();
                (0..n).for_each(|c| merged[first + c] += scale * along / s * v[c]);
            }
        }
        case.on_base(vec![merged])
    }

    check_machine!(Lot, naive);
}
