//! `model_stock`: from the base toward the mean of the branches, as far as the angles between their deltas say.

use crate::fit::prelude::*;

/// See the module.
pub(super) struct ModelStock;

/// A denominator this small has no finite answer, and the base stays.
const SINGULAR: f64 = 1e-6;

static SPEC: Spec = Spec {
    name: "model_stock",
    sentence: "goes from the base toward the mean of the branches, the further the more their deltas agree",
    paper: "Jang et al., Model Stock: All we need is just a few fine-tuned models, arXiv 2403.19522",
    formula: "c = mean cosine of all pairs of deltas; t = n·c/(1 + (n − 1)·c), 0 where |1 + (n − 1)·c| < 1e-6; \
              y = b + t·Σ (x − b)/n",
    guide: Guide {
        detail: "Deltas that agree are trusted, deltas that are orthogonal are mostly noise.",
        when: "several fine-tunes of one base on the same data with other seeds",
        avoid: "branches of different domains: their deltas are near-orthogonal, and the result is near the base",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Row,
    base: Base::Required,
    fewest: 2,
    parameters: &[Parameter {
        name: "filter_wise",
        kind: Type::Flag,
        default: Some(Value::Flag(false)),
        per: Per::Global,
        help: "a t for each row (the last dimension) instead of one for the tensor",
    }],
    differences: &[
        "the cosine does not depend on the size of the deltas; mergekit takes norms whose product is below 1e-6 for 1e-6",
        "a delta that is zero has the cosine 0 with every other",
        "norms and dot products are summed in f64; `weight`, which does nothing in mergekit, is no parameter",
    ],
    passes: |_, _| 2,
    memory: |parameters, extent| {
        let rows = parameters.flag("filter_wise");
        if rows { gram::memory_by_row(extent, extent.branches) } else { 0 }
    },
    ..USUAL
};

impl Method for ModelStock {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let count = tensor.branches();
        let weights = |gram: &Gram| vec![toward(gram, count) / count as f64; count];
        if parameters.flag("filter_wise") {
            let weights = gram::by_row(tensor, weights)?;
            return Ok(Mixture::Rows { length: tensor.row_length, weights }.fit());
        }
        let gram = gram::products(tensor)?;
        let mut fit = Mixture::Tensor(weights(&gram)).fit();
        fit.figures.numbers.push(("t", toward(&gram, count)));
        Ok(fit)
    }
}

/// How far toward the mean.
fn toward(gram: &Gram, count: usize) -> f64 {
    let pairs = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| gram.cosine(i, j)).sum();
    let n = count as f64;
    let cosine = sum / (n * (n - 1.0) / 2.0);
    let divisor = 1.0 + (n - 1.0) * cosine;
    if divisor.abs() < SINGULAR { 0.0 } else { n * cosine / divisor }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let deltas = case.deltas();
        let (n, all) = (deltas.len(), deltas[0].len());
        let part = if case.parameters.flag("filter_wise") { case.row } else { all };
        let mut merged = vec![0.0; all];
        for first in (0..all).step_by(part) {
            let range = first..first + part;
            let dot = |i: usize, j: usize| -> f64 {
                range.clone().map(|e| deltas[i][e] * deltas[j][e]).sum()
            };
            let mut cosines = Vec::new();
            for i in 0..n {
                for j in i + 1..n {
                    let norms = dot(i, i).sqrt() * dot(j, j).sqrt();
                    cosines.push(if norms > 0.0 { dot(i, j) / norms } else { 0.0 });
                }
            }
            let c = cosines.iter().sum::<f64>() / cosines.len() as f64;
            let divisor = 1.0 + (n as f64 - 1.0) * c;
            let t = if divisor.abs() < 1e-6 { 0.0 } else { n as f64 * c / divisor };
            for e in range {
                merged[e] = t * deltas.iter().map(|d| d[e]).sum::<f64>() / n as f64;
            }
        }
        case.on_base(vec![merged])
    }

    check!(ModelStock, naive, "55a60ce16044143a");
}
