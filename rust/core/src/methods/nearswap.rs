//! `nearswap`: step from the base toward the other model, by no more than a fixed amount in any element.

use crate::fit::prelude::*;

/// See the module.
pub(super) struct NearSwap;

static SPEC: Spec = Spec {
    name: "nearswap",
    sentence: "steps from the base toward the other model by at most t in every element: near ones are taken over",
    paper: "alchemonaut, QuartetAnemoi-70B, a model card on the Hugging Face hub, 2024",
    formula: "y = b + max(−t, min(t, x − b)); y = x where |x − b| ≤ t",
    guide: Guide {
        detail: "Where the two differ by less than t the other model's element is taken, elsewhere the step is t.",
        when: "a model should take a little of another's style without losing itself",
        avoid: "t is not known to the weights' scale: values of 0.0001 to 0.01 are usual",
        example: "{\"t\": 0.025}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::First,
    most: Some(1),
    parameters: &[Parameter {
        name: "t",
        kind: Type::Number { low: 0.0, high: f64::MAX },
        default: None,
        per: Per::Global,
        help: "the longest step of an element",
    }],
    differences: &[
        "mergekit divides t by max(|x − b|, 1e-6), so that it mixes elements nearer than that where t is smaller still",
        "an element within t has the model's own bits; steps in f64, rounded once",
        "a negative t is an error; mergekit returns the base",
    ],
    ..USUAL
};

impl Method for NearSwap {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, _: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let t = parameters.number("t");
        let kernel: Kernel<R> =
            Box::new(move |block, out| step(t, block.base(), block.branch(0), out));
        Ok(Fit { kernel, figures: Figures { takes: true, ..Figures::default() } })
    }
}

vectorised! {
    fn step<R: Number>(t: f64, base: &[R], other: &[R], out: &mut [R]) -> u64 {
        let mut taken = 0u32;
        for ((out, &base), &other) in out.iter_mut().zip(base).zip(other) {
            let way = other.to_f64() - base.to_f64();
            let step = R::from_f64(base.to_f64() + if way > 0.0 { t } else { -t });
            let near = way.abs() <= t;
            let reached = if near { other } else { step };
            *out = if way == 0.0 || t == 0.0 { base } else { reached };
            taken += u32::from(near);
        }
        u64::from(taken)
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let t = case.parameters.number("t");
        let (base, other) = (&case.operands[0], &case.operands[1]);
        vec![base.iter().zip(other).map(|(b, x)| b + (x - b).clamp(-t, t)).collect()]
    }

    check!(NearSwap, naive, "202d5a591f6294e7");
}
