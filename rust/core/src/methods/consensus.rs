//! `consensus`: task arithmetic on the elements that enough branches need.

use super::parameters::LAMBDA;
use crate::fit::group::{LANES, group, put};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Consensus;

static SPEC: Spec = Spec {
    name: "consensus",
    sentence: "adds the deltas on the elements that enough branches need, and leaves the base on the others",
    paper: "Wang et al., Localizing task information for improved model merging (TALL masks), arXiv 2405.07813",
    formula: "S = Σ (x − b); branch i needs an element where |x − b| ≥ mask·|S − (x − b)|; \
              y = b + λ·S where at least agreement branches need it, else b",
    guide: Guide {
        detail: "An element that one branch alone changed helps that branch and hurts the rest; one that nobody needs is noise.",
        when: "many branches of one base, of which each should keep its own skill",
        avoid: "there are two or three branches: few elements are needed by two of them",
        example: "{\"mask\": 0.4, \"agreement\": 1}",
    },
    space: Space::Delta,
    grain: Grain::Element,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "mask",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.4)),
            per: Per::Model,
            help: "how large a branch's change must be beside that of all others; the paper tries 0.2 to 0.6",
        },
        Parameter {
            name: "agreement",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(2.0)),
            per: Per::Global,
            help: "how many branches must need an element",
        },
        LAMBDA,
    ],
    ..USUAL
};

impl Method for Consensus {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, masks) = (tensor.branches(), parameters.numbers("mask"));
        let (agreement, scale) = (parameters.number("agreement"), parameters.number("lambda"));
        let kernel: Kernel<R> = Box::new(move |block, out| {
            let deltas: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
            agree(&masks, agreement, scale, &deltas, out)
        });
        Ok(Fit { kernel, figures: Figures { takes: true, ..Figures::default() } })
    }
}

vectorised! {
    /// Returns how many elements were agreed on.
    fn agree<R: Number>(masks: &[f64], agreement: f64, scale: f64, deltas: &[&[R]], out: &mut [R]) -> u64 {
        let mut agreed = 0;
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let mut sum = [0.0f64; LANES];
            for delta in deltas {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    sum[lane] += delta[lane].to_f64();
                }
            }
            let mut needed = [0.0f64; LANES];
            for (&mask, delta) in masks.iter().zip(deltas) {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    let own = delta[lane].to_f64();
                    needed[lane] += if own.abs() >= mask * (sum[lane] - own).abs() { 1.0 } else { 0.0 };
                }
            }
            let mut merged = [R::ZERO; LANES];
            for lane in 0..LANES {
                merged[lane] = if needed[lane] >= agreement { R::from_f64(scale * sum[lane]) } else { R::ZERO };
            }
            agreed += needed[..out.len()].iter().filter(|needed| **needed >= agreement).count() as u64;
            put(&merged, out);
        }
        agreed
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, masks) = (case.deltas(), case.parameters.numbers("mask"));
        let merged = |margin: f64| {
            let element = |e: usize| {
                let sum: f64 = deltas.iter().map(|d| d[e]).sum();
                let needs = |(d, mask): &(&Vec<f64>, &f64)| {
                    d[e].abs() * margin >= *mask * (sum - d[e]).abs()
                };
                let needed = deltas.iter().zip(&masks).filter(needs).count() as f64;
                let agreed = needed >= case.parameters.number("agreement");
                if agreed { case.parameters.number("lambda") * sum } else { 0.0 }
            };
            (0..deltas[0].len()).map(element).collect()
        };
        case.on_base([1.0 - 1e-6, 1.0, 1.0 + 1e-6].map(merged).into())
    }

    check!(Consensus, naive, "b4edfa91af937533");
}
