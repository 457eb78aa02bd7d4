//! `param_delta`: what fine-tuning changed in an old base, added to a new one.

use super::parameters::{LAMBDA, WEIGHT};
use crate::fit::group::{LANES, group, put};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct ParamDelta;

static SPEC: Spec = Spec {
    name: "param_delta",
    sentence: "adds to a new base what fine-tuning changed in an old one",
    paper: "Cao et al., ParamΔ for direct weight mixing, arXiv 2504.21023; Huang et al., Chat vector, arXiv 2310.04799",
    formula: "y = b + λ·Σ w·(x − o): b the new base, o the old one (the first model), x its fine-tunes (the others)",
    guide: Guide {
        detail: "The recipe's base is the new base, whose config and tokenizer the result has; the first model is the old base.",
        when: "a base was trained further, and the skills of a fine-tune of its older self should move to it",
        avoid: "the two bases are not of one lineage, or their shapes differ",
        example: "{\"weight\": 1.0}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::Required,
    fewest: 2,
    parameters: &[
        Parameter {
            default: Some(Value::Number(1.0)),
            help: "how much the fine-tune's change counts; the old base's does nothing",
            ..WEIGHT
        },
        LAMBDA,
    ],
    ..USUAL
};

impl Method for ParamDelta {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        let mut weights = parameters.numbers("weight");
        weights.iter_mut().for_each(|weight| *weight *= scale);
        Ok(Fit::new(move |block, out| {
            let tuned: Vec<&[R]> = (1..count).map(|i| block.branch(i)).collect();
            add_changes(&weights[1..], block.base(), block.branch(0), &tuned, out);
        }))
    }
}

vectorised! {
    fn add_changes<R: Number>(weights: &[f64], base: &[R], old: &[R], tuned: &[&[R]], out: &mut [R]) {
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let at = number * LANES;
            let (base, old) = (group(base, at), group(old, at));
            let mut sum = [0.0f64; LANES];
            for (&weight, tuned) in weights.iter().zip(tuned) {
                let tuned = group(tuned, at);
                for lane in 0..LANES {
                    sum[lane] += weight * (tuned[lane].to_f64() - old[lane].to_f64());
                }
            }
            let mut moved = [R::ZERO; LANES];
            for lane in 0..LANES {
                let value = R::from_f64(base[lane].to_f64() + sum[lane]);
                // Adding +0 to −0 would lose the base's sign.
                moved[lane] = if sum[lane] == 0.0 { base[lane] } else { value };
            }
            put(&moved, out);
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (weights, scale) =
            (case.parameters.numbers("weight"), case.parameters.number("lambda"));
        let [base, old, tuned @ ..] = &case.operands[..] else { return Vec::new() };
        let element = |e: usize| {
            let terms = tuned.iter().zip(&weights[1..]).map(|(x, w)| w * (x[e] - old[e]));
            base[e] + scale * terms.sum::<f64>()
        };
        vec![(0..base.len()).map(element).collect()]
    }

    check!(ParamDelta, naive, "0245f764a0ba5568");
}
