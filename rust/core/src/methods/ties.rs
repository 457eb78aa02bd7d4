//! `ties`: trim the deltas to their largest elements, elect a sign, add what agrees with it.

use super::parameters::{DENSITY, LAMBDA, WEIGHT, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Ties;

static SPEC: Spec = Spec {
    name: "ties",
    aliases: &[],
    sentence: "trims every delta to its largest elements, elects a sign, and adds what agrees with it",
    paper: "Yadav et al., TIES-Merging, arXiv 2306.01708",
    formula: "d = the k largest |x − b|, k = max(1, ⌊density·n⌋); s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    space: Space::Delta,
    grain: Grain::Tensor,
    ranks: 1,
    base: Base::Required,
    fewest: 1,
    most: None,
    folds: false,
    parameters: &[WEIGHT, DENSITY, normalize(true), LAMBDA],
    differences: &[
        "the cut is exact, and among equal magnitudes at it a hash of the element decides; mergekit's sort is unstable",
        "deltas in f32 and sums in f64 whatever the inputs' dtype",
        "a density outside 0..1, or weights that sum to 0 under normalize, are errors",
    ],
    check: combine::check_weights,
    // One sweep for the cut, and the kernel.
    passes: |parameters, _| {
        if parameters.numbers("density").iter().any(|&d| d > 0.0 && d < 1.0) { 2 } else { 1 }
    },
};

impl Method for Ties {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        let combine = Combine::new(parameters, true);
        let largest = largest::largest(tensor, &parameters.numbers("density"))?;
        let streams = tensor.streams.clone();
        Ok(Fit::new(move |block, out| {
            let mut trimmed = vec![R::ZERO; largest.len() * block.length];
            for (i, kept) in trimmed.chunks_mut(block.length).enumerate() {
                largest[i].keep(streams[i], block.start, block.branch(i), kept);
            }
            let deltas: Vec<&[R]> = trimmed.chunks(block.length).collect();
            combine.apply(&deltas, out);
        }))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        // At the cut either side is right: all of its equals, or none.
        let trim = |delta: &Vec<f64>, density: f64, equals: bool| -> Vec<f64> {
            let mut sizes: Vec<f64> = delta.iter().map(|d| d.abs()).collect();
            sizes.sort_by(f64::total_cmp);
            let wanted = ((density * sizes.len() as f64) as usize).max(1);
            let cut = sizes[sizes.len() - wanted];
            let kept = |d: &f64| density > 0.0 && (d.abs() > cut || equals && d.abs() == cut);
            delta.iter().map(|d| if kept(d) { *d } else { 0.0 }).collect()
        };
        let densities = case.parameters.numbers("density");
        let deltas = case.deltas();
        let choices = 0..1 << deltas.len();
        let result = |choice: usize| {
            let trimmed = deltas.iter().zip(&densities).enumerate();
            let trimmed: Vec<Vec<f64>> = trimmed
                .map(|(i, (delta, &density))| trim(delta, density, choice >> i & 1 == 1))
                .collect();
            case.on_base(combine::naive(case.parameters, &trimmed, true))
        };
        choices.flat_map(result).collect()
    }

    check!(Ties, naive, "650b9e3751395d1a");
}
