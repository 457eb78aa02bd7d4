//! `passthrough`: one model as it is, or a multiple of it.

use super::parameters::ANY;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Passthrough;

static SPEC: Spec = Spec {
    name: "passthrough",
    sentence: "one model as it is, or scaled",
    paper: "",
    formula: "y = scale·x",
    guide: Guide {
        detail: "Its bytes are the model's where scale is 1.",
        when: "to copy tensors or layers of a model in a larger recipe, or to scale them",
        avoid: "two models are to be mixed",
        example: "{\"scale\": 0.5}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::None,
    most: Some(1),
    parameters: &[Parameter {
        name: "scale",
        kind: ANY,
        default: Some(Value::Number(1.0)),
        per: Per::Model,
        help: "factor of every element",
    }],
    ..USUAL
};

impl Method for Passthrough {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, _: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let scale = parameters.numbers("scale")[0];
        Ok(Fit::new(move |block, out| {
            if scale == 1.0 {
                out.copy_from_slice(block.branch(0));
            } else {
                combine::weighted_sum(&[scale], &[block.branch(0)], 1.0, out);
            }
        }))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let scale = case.parameters.numbers("scale")[0];
        vec![case.operands[0].iter().map(|x| scale * x).collect()]
    }

    check!(Passthrough, naive, "d901ecd51635536a");
}
