//! `localize_and_stitch`: each branch's largest changes, stitched into the base; where several have one, their mean.

use super::parameters::{DENSITY, LAMBDA, SCOPE, model_cuts, tensor_cuts};
use crate::fit::group::{LANES, group, put};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct LocalizeAndStitch;

static SPEC: Spec = Spec {
    name: "localize_and_stitch",
    sentence: "stitches each branch's largest changes into the base, their mean where several branches have one",
    paper: "He et al., Localize-and-Stitch (the form without data), arXiv 2408.13656",
    formula: "A = branches of which |x − b| is among the ⌊density·n⌋ largest (at least one) of the tensor, or of the model by scope; y = b + λ·Σ_A (x − b)/|A|, b where A is empty",
    guide: Guide {
        detail: "A few percent of a delta hold most of a skill, and so few seldom meet those of another branch.",
        when: "several branches of one base that must not disturb one another",
        avoid: "the branches were trained long, with changes spread over all elements",
        example: "{\"density\": 0.25}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            default: Some(Value::Number(0.05)),
            help: "share of each delta's elements, the largest, that is stitched in",
            ..DENSITY
        },
        SCOPE,
        LAMBDA,
    ],
    cuts: model_cuts,
    passes: |parameters, _| 1 + tensor_cuts(parameters),
    memory: |parameters, extent| {
        tensor_cuts(parameters) * select::memory(extent, extent.branches, 1)
    },
    ..USUAL
};

impl Method for LocalizeAndStitch {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let bands = bands_by_density(tensor, parameters)?;
        let (streams, scale) = (tensor.streams.clone(), parameters.number("lambda"));
        let kernel: Kernel<R> = Box::new(move |block, out| {
            let mut kept = vec![R::ZERO; bands.len() * block.length];
            for (i, kept) in kept.chunks_mut(block.length).enumerate() {
                bands[i].keep(streams[i], block.start, block.branch(i), kept);
            }
            let kept: Vec<&[R]> = kept.chunks(block.length).collect();
            stitch(scale, &kept, out)
        });
        Ok(Fit { kernel, figures: Figures { takes: true, ..Figures::default() } })
    }
}

vectorised! {
    /// The mean of what is not zero, times `scale`; returns how many elements have any.
    fn stitch<R: Number>(scale: f64, kept: &[&[R]], out: &mut [R]) -> u64 {
        let mut taken = 0;
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let (mut sum, mut owners) = ([0.0f64; LANES], [0.0f64; LANES]);
            for kept in kept {
                let kept = group(kept, number * LANES);
                for lane in 0..LANES {
                    sum[lane] += kept[lane].to_f64();
                    owners[lane] += if kept[lane] == R::ZERO { 0.0 } else { 1.0 };
                }
            }
            let mut merged = [R::ZERO; LANES];
            for lane in 0..LANES {
                let divisor = if owners[lane] > 1.0 { owners[lane] } else { 1.0 };
                merged[lane] = R::from_f64(scale * (sum[lane] / divisor));
            }
            taken += owners[..out.len()].iter().filter(|owners| **owners > 0.0).count() as u64;
            put(&merged, out);
        }
        taken
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::magnitude;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, densities) = (case.deltas(), case.parameters.numbers("density"));
        let trim = |(delta, &density): (&Vec<f64>, &f64)| {
            magnitude::naive(delta, Quota::largest(density, delta.len() as u64)).0
        };
        let trimmed: Vec<[Vec<f64>; 2]> = deltas.iter().zip(&densities).map(trim).collect();
        let merged = |choice: usize| {
            let element = |e: usize| {
                let kept = trimmed.iter().enumerate().map(|(i, two)| two[choice >> i & 1][e]);
                let kept: Vec<f64> = kept.filter(|d| *d != 0.0).collect();
                case.parameters.number("lambda") * kept.iter().sum::<f64>()
                    / kept.len().max(1) as f64
            };
            (0..deltas[0].len()).map(element).collect()
        };
        case.on_base((0..1 << deltas.len()).map(merged).collect())
    }

    check!(LocalizeAndStitch, naive, "91f42c168b68a4a6");
}
