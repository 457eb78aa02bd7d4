//! `expo`: beyond a model, on the way that led to it from an earlier one.

use super::parameters::ANY;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Expo;

static SPEC: Spec = Spec {
    name: "expo",
    sentence: "goes on beyond a model, in the direction that led to it from an earlier one",
    paper: "Zheng et al., Weak-to-strong extrapolation expedites alignment (ExPO), arXiv 2404.16792",
    formula: "y = x + alpha·(x − b)",
    guide: Guide {
        detail: "The base is the earlier checkpoint, such as the SFT model of one trained further by preferences.",
        when: "alignment was stopped early; alpha of 0.1 to 0.5 was found by a sweep",
        avoid: "training has converged or was long: what lies beyond is mostly worse",
        example: "{\"alpha\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Element,
    base: Base::Required,
    most: Some(1),
    parameters: &[Parameter {
        name: "alpha",
        kind: ANY,
        default: Some(Value::Number(0.3)),
        per: Per::Global,
        help: "how much further, in lengths of the way so far; 0 is the model",
    }],
    ..USUAL
};

impl Method for Expo {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, _: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        Ok(Mixture::Tensor(vec![1.0 + parameters.number("alpha")]).fit())
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let alpha = case.parameters.number("alpha");
        let on = |(b, x): (&f64, &f64)| x + alpha * (x - b);
        vec![case.operands[0].iter().zip(&case.operands[1]).map(on).collect()]
    }

    check!(Expo, naive, "6e3ad73b1a32ad22");
}
