//! `wsm`: checkpoints of one run, averaged as a decay of the learning rate would have weighed its steps.

use crate::fit::prelude::*;

/// See the module.
pub(super) struct Wsm;

static SPEC: Spec = Spec {
    name: "wsm",
    sentence: "averages the checkpoints of one run, listed from the oldest to the newest, as if its learning rate had decayed over them",
    paper: "Tian et al., WSM: Decay-free learning rate schedule via checkpoint merging, arXiv 2507.17634",
    formula: "y = Σ c·x over the checkpoints x₀ … x_k; v(p) the decay at p = i/(k + 1): c₀ = 1 − v₁, c_i = v_i − v_{i+1}, c_k = v_k; \
              v is 1 − p (linear), (1 + cos πp)/2 (cosine) or 1 − √p (sqrt)",
    guide: Guide {
        detail: "A linear decay gives all checkpoints the same weight. How long a stretch of training they span matters more than how many they are.",
        when: "a run at a constant rate left several checkpoints: before merging branches, or instead of a decay",
        avoid: "the checkpoints are of different runs (`linear`), or the rate has decayed already",
        example: "{\"decay\": \"sqrt\"}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::None,
    parameters: &[Parameter {
        name: "decay",
        kind: Type::Choice(&["linear", "cosine", "sqrt"]),
        default: Some(Value::Choice("linear")),
        per: Per::Global,
        help: "the decay that is imitated",
    }],
    ..USUAL
};

impl Method for Wsm {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        Ok(Mixture::Tensor(weights(parameters.choice("decay"), tensor.branches())).fit())
    }
}

/// The weights of so many checkpoints, which sum to 1.
fn weights(decay: &str, count: usize) -> Vec<f64> {
    let rate = |i: usize| {
        let past = i as f64 / count as f64;
        match decay {
            _ if i == 0 => 1.0,
            _ if i == count => 0.0,
            "cosine" => 0.5 * (1.0 + number::cos(std::f64::consts::PI * past)),
            "sqrt" => 1.0 - past.sqrt(),
            _ => 1.0 - past,
        }
    };
    (0..count).map(|i| rate(i) - rate(i + 1)).collect()
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let count = case.operands.len();
        let rate = |i: usize| {
            let past = i as f64 / count as f64;
            match case.parameters.choice("decay") {
                "cosine" => 0.5 + (std::f64::consts::PI * past).cos() / 2.0,
                "sqrt" => 1.0 - past.sqrt(),
                _ => 1.0 - past,
            }
        };
        let element = |e: usize| {
            let terms =
                case.operands.iter().enumerate().map(|(i, x)| (rate(i) - rate(i + 1)) * x[e]);
            terms.sum::<f64>()
        };
        vec![(0..case.operands[0].len()).map(element).collect()]
    }

    check!(Wsm, naive, "0ae8119b8a7fef24");

    #[test]
    fn newer_checkpoints_weigh_more_but_for_a_linear_decay() {
        assert_eq!(weights("linear", 4), [0.25; 4]);
        for decay in ["cosine", "sqrt"] {
            assert!((weights(decay, 5).iter().sum::<f64>() - 1.0).abs() < 1e-15);
        }
        assert!(weights("sqrt", 4).windows(2).all(|pair| pair[0] > pair[1]));
    }
}
