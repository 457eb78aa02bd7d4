//! `multislerp`: the weighted mean of directions, with the weighted mean of lengths.

use super::parameters::WEIGHT;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct MultiSlerp;

static SPEC: Spec = Spec {
    name: "multislerp",
    sentence: "the mean direction of the models (with a base, of what they changed), as long as they are on the average",
    paper: "Goddard, Multi-SLERP, the mergekit author's blog, 2025",
    formula: "u = d/|d|, d = x − b or x; m = Σ w·u; y = b + Σ w·|d| · m/|m|; where |m| < eps·Σ|w| y = b + Σ w·d",
    guide: Guide {
        detail: "Long and short deltas have the same say about the direction, and the length is their mean.",
        when: "several branches, of which one changed far more than the others and should not drown them",
        avoid: "the size of a branch's change says how much it matters",
        example: "{\"weight\": [0.5, 0.5]}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Optional,
    parameters: &[
        WEIGHT,
        Parameter {
            name: "normalize_weights",
            kind: Type::Flag,
            default: Some(Value::Flag(true)),
            per: Per::Global,
            help: "divide the weights by their sum",
        },
        Parameter {
            name: "eps",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(1e-8)),
            per: Per::Global,
            help: "directions whose mean is shorter cancel: the deltas are added as they are",
        },
    ],
    differences: &[
        "mergekit's tangents at the mean sum to zero, so that its exponential map adds nothing: this is what it comes to",
        "directions that cancel are added as they are, however many; mergekit ends with an error for three or more",
        "a tensor that no model changed is the base's, bit for bit; mergekit ends with an error where there are three models or more",
        "norms and dot products are summed in f64, and no eps is added to a norm",
        "weights that sum to 0 under normalize_weights are an error",
    ],
    check: |parameters| combine::check_sum(parameters, "normalize_weights"),
    passes: |parameters, _| if parameters.branches.len() > 1 { 2 } else { 1 },
    ..USUAL
};

impl Method for MultiSlerp {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        (SPEC.check)(parameters)?;
        let mut weights = parameters.numbers("weight");
        if parameters.flag("normalize_weights") {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        if weights.len() == 1 {
            // There is nothing to turn to.
            return Ok(Mixture::Tensor(vec![1.0]).fit());
        }
        let gram = gram::products(tensor)?;
        let direct = |i: usize| if gram.norm(i) > 0.0 { weights[i] / gram.norm(i) } else { 0.0 };
        let directed: Vec<f64> = (0..weights.len()).map(direct).collect();
        let length = gram.square(&directed).max(0.0).sqrt();
        let size: f64 = weights.iter().map(|weight| weight.abs()).sum();
        let cancels = length <= parameters.number("eps") * size;
        let mut fit = if cancels {
            Mixture::Tensor(weights).fit()
        } else {
            let norms: f64 = weights.iter().enumerate().map(|(i, w)| w * gram.norm(i)).sum();
            Mixture::Tensor(directed.iter().map(|weight| weight * norms / length).collect()).fit()
        };
        fit.figures.numbers.push(("agreement", length));
        Ok(fit)
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let mut weights = case.parameters.numbers("weight");
        let sum: f64 = weights.iter().sum();
        if case.parameters.flag("normalize_weights") {
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        let deltas = case.deltas();
        if deltas.len() == 1 {
            return case.on_base(deltas);
        }
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let add = |factors: &[f64]| -> Vec<f64> {
            let at = |e: usize| deltas.iter().zip(factors).map(|(d, f)| f * d[e]).sum();
            (0..deltas[0].len()).map(at).collect()
        };
        let norms: Vec<f64> = deltas.iter().map(|d| norm(d)).collect();
        let per_norm = |(w, n): (&f64, &f64)| if *n > 0.0 { w / n } else { 0.0 };
        let mean = add(&weights.iter().zip(&norms).map(per_norm).collect::<Vec<_>>());
        let size: f64 = weights.iter().map(|w| w.abs()).sum();
        if norm(&mean) <= case.parameters.number("eps") * size {
            return case.on_base(vec![add(&weights)]);
        }
        let length: f64 = weights.iter().zip(&norms).map(|(w, n)| w * n).sum();
        let scale = length / norm(&mean);
        case.on_base(vec![mean.iter().map(|m| m * scale).collect()])
    }

    check!(MultiSlerp, naive, "4e4e31bc3b311349");
}
