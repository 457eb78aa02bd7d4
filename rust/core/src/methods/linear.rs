//! `linear`: the weighted mean of models.

use super::parameters::{WEIGHT, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Linear;

static SPEC: Spec = Spec {
    name: "linear",
    sentence: "the weighted mean (or sum) of models",
    paper: "Wortsman et al., Model soups, arXiv 2203.05482",
    formula: "y = Σ w·x, divided by Σ w under normalize",
    guide: Guide {
        detail: "With weights that sum to 1 it is a point between the models.",
        when: "first of all: it is the bar for every other method. Also for checkpoints of one run",
        avoid: "the models have different parents: their mean is usually worse than either",
        example: "{\"weight\": [0.75, 0.25]}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::None,
    parameters: &[WEIGHT, normalize(true)],
    differences: &[
        "sums in f64 whatever the inputs' dtype",
        "weights that sum to 0 under normalize are an error; mergekit writes NaN",
        "base_model must be one of the models; mergekit takes it for one model more",
    ],
    check: combine::check_weights,
    ..USUAL
};

impl Method for Linear {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        let mut weights = parameters.numbers("weight");
        let count = tensor.branches();
        if parameters.flag("normalize") {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            return Ok(Fit::new(move |block, out| {
                let operands: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
                combine::mix(&weights, &operands, out);
            }));
        }
        Ok(Fit::new(move |block, out| {
            let operands: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
            combine::weighted_sum(&weights, &operands, 1.0, out);
        }))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let weights = case.parameters.numbers("weight");
        let divisor = if case.parameters.flag("normalize") { weights.iter().sum() } else { 1.0 };
        let mean = |e: usize| {
            let terms = weights.iter().zip(&case.operands).map(|(w, x)| w * x[e]);
            terms.sum::<f64>() / divisor
        };
        vec![(0..case.operands[0].len()).map(mean).collect()]
    }

    check!(Linear, naive, "027af99c32e7d3b8");
}
