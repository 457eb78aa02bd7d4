//! `ties`: trim the deltas to their largest elements, elect a sign, add what agrees with it.

use super::parameters::{
    DENSITY, LAMBDA, SCOPE, WEIGHT, model_cuts, normalize, rescale, tensor_cuts,
};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Ties;

static SPEC: Spec = Spec {
    name: "ties",
    sentence: "trims every delta to its largest elements, elects a sign, and adds what agrees with it",
    paper: "Yadav et al., TIES-Merging, arXiv 2306.01708",
    formula: "d = the k largest |x − b| of a tensor (of the model, by scope), k = max(1, ⌊density·n⌋), times Σ|x − b|/Σ|d| under rescale; s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    guide: Guide {
        detail: "What is trimmed is mostly noise, and what contradicts the majority would cancel.",
        when: "several branches of one base whose deltas interfere; densities of 0.5 and more are safe",
        avoid: "reasoning models lose at low densities; with one branch it only trims",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[WEIGHT, DENSITY, SCOPE, rescale(false), normalize(true), LAMBDA],
    differences: &[
        "the cut is exact, and among equal magnitudes at it a hash of the element decides; mergekit's sort is unstable",
        "deltas in f32 and sums in f64 whatever the inputs' dtype",
        "a density outside 0..1, or weights that sum to 0 under normalize, are errors",
    ],
    check: combine::check_weights,
    cuts: model_cuts,
    // One sweep for the cut, one for the norms, and the kernel.
    passes: |parameters, _| {
        let thins = parameters.numbers("density").iter().any(|&density| density < 1.0);
        1 + tensor_cuts(parameters) + u64::from(thins && parameters.flag("rescale"))
    },
    memory: |parameters, extent| {
        tensor_cuts(parameters) * select::memory(extent, extent.branches, 1)
    },
    ..USUAL
};

impl Method for Ties {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        let bands = bands_by_density(tensor, parameters)?;
        let streams = tensor.streams.clone();
        let thins = parameters.numbers("density").iter().any(|&density| density < 1.0);
        let combine = Combine::new(parameters, Vote::Weighted);
        sparse(tensor, combine, thins && parameters.flag("rescale"), move |i, block, kept| {
            bands[i].keep(streams[i], block.start, block.branch(i), kept);
        })
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};
    use crate::fit::{magnitude, sparsify};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let densities = case.parameters.numbers("density");
        let trim = |(delta, &density): (&Vec<f64>, &f64)| {
            magnitude::naive(delta, Quota::largest(density, delta.len() as u64))
        };
        let trimmed: Vec<_> = case.deltas().iter().zip(&densities).map(trim).collect();
        sparsify::naive(case, &trimmed, true)
    }

    check!(Ties, naive, "dbff3689f5d6dc3b");
}
