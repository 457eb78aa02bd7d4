//! `task_arithmetic`: the base plus the weighted sum of the branches' deltas.

use super::parameters::{LAMBDA, WEIGHT, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct TaskArithmetic;

static SPEC: Spec = Spec {
    name: "task_arithmetic",
    sentence: "the base plus the weighted sum of what the branches changed",
    paper: "Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089",
    formula: "y = b + λ·Σ w·(x − b), divided by Σ w under normalize",
    guide: Guide {
        detail: "The scale lambda is worth a search: it decides more than the choice among delta methods does.",
        when: "branches of one base; the one gain that was found again and again",
        avoid: "the deltas contradict each other in many elements (`ties`), or the parents differ",
        example: "{\"weight\": [0.6, 0.4]}",
    },
    space: Space::Delta,
    grain: Grain::Element,
    base: Base::Required,
    parameters: &[WEIGHT, normalize(false), LAMBDA],
    differences: &[
        "deltas in f32 and sums in f64 whatever the inputs' dtype",
        "weights that sum to 0 under normalize are an error; mergekit divides by 1",
        "density and rescale, which do nothing in mergekit's, are no parameters",
    ],
    check: combine::check_weights,
    ..USUAL
};

impl Method for TaskArithmetic {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, _: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        Ok(Combine::new(parameters, Vote::None).fit())
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        case.on_base(combine::naive(case.parameters, &case.deltas(), false))
    }

    check!(TaskArithmetic, naive, "8dcc8c12a1a187da");
}
