//! `linear`: the weighted mean of models.

use super::parameters::{WEIGHT, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Linear;

static SPEC: Spec = Spec {
    name: "linear",
    aliases: &[],
    sentence: "the weighted mean (or sum) of models",
    paper: "Wortsman et al., Model soups, arXiv 2203.05482",
    formula: "y = Σ w·x, divided by Σ w under normalize",
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::None,
    fewest: 1,
    most: None,
    folds: false,
    parameters: &[WEIGHT, normalize(true)],
    differences: &[
        "sums in f64 whatever the inputs' dtype",
        "weights that sum to 0 under normalize are an error; mergekit writes NaN",
        "base_model must be one of the models; mergekit takes it for one model more",
    ],
    check: combine::check_weights,
    passes: |_, _| 1,
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
                mean(&weights, &operands, out);
            }));
        }
        Ok(Fit::new(move |block, out| {
            let operands: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
            combine::weighted_sum(&weights, &operands, 1.0, out);
        }))
    }
}

vectorised! {
    /// x₀ + Σ w·(x − x₀) for weights that sum to 1: models that agree give exactly what they agree on.
    fn mean<R: Number>(weights: &[f64], operands: &[&[R]], out: &mut [R]) {
        let first = operands[0];
        for (group, out) in out.chunks_mut(16).enumerate() {
            let range = group * 16..group * 16 + out.len();
            let start = &first[range.clone()];
            let mut sum = [0.0f64; 16];
            for (&weight, operand) in weights.iter().zip(operands).skip(1) {
                let operand = &operand[range.clone()];
                if let (Ok(operand), Ok(start)) = (<&[R; 16]>::try_from(operand), <&[R; 16]>::try_from(start)) {
                    for lane in 0..16 {
                        sum[lane] += weight * (operand[lane].to_f64() - start[lane].to_f64());
                    }
                } else {
                    for lane in 0..operand.len() {
                        sum[lane] += weight * (operand[lane].to_f64() - start[lane].to_f64());
                    }
                }
            }
            for (lane, out) in out.iter_mut().enumerate() {
                let value = R::from_f64(start[lane].to_f64() + sum[lane]);
                // Adding +0 to −0 would lose its sign.
                *out = if sum[lane] == 0.0 { start[lane] } else { value };
            }
        }
    }
}
