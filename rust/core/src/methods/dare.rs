//! `dare_linear` and `dare_ties`: drop elements of the deltas at random, rescale the rest, and add them; the second by
//! majority sign. Two methods in one file: they differ in one word.

use super::parameters::{DENSITY, LAMBDA, WEIGHT, normalize};
use crate::fit::prelude::*;

/// Deltas are added as they are.
pub(super) struct DareLinear;
/// Deltas are added where they agree with the majority sign.
pub(super) struct DareTies;

const PARAMETERS: &[Parameter] = &[
    WEIGHT,
    DENSITY,
    Parameter {
        name: "rescale",
        kind: Type::FlagOrChoice(&["density"]),
        default: Some(Value::Flag(true)),
        per: Per::Global,
        help: "true: keep the delta's L1 norm, as mergekit does; density: divide by the density, as the paper does; false: neither",
    },
    Parameter {
        name: "q",
        kind: Type::Number { low: 0.0, high: f64::MAX },
        default: Some(Value::Number(0.0)),
        per: Per::Global,
        help: "what kept elements are divided by, as in DAREx-q; 0: as rescale says",
    },
    normalize(false),
    LAMBDA,
];

const DIFFERENCES: &[&str] = &[
    "the mask is a function of seed, tensor, branch and element, not of threads, shards or order",
    "rescale: density is the paper's 1/density",
    "deltas in f32 and sums in f64 whatever the inputs' dtype",
    "a density outside 0..1, or weights that sum to 0 under normalize, are errors",
];

const PAPER: &str = "Yu et al., Language models are super Mario, arXiv 2311.03099; q: Deng et al., DARE the Extreme, arXiv 2410.09344";

static LINEAR: Spec = Spec {
    name: "dare_linear",
    sentence: "drops elements of every delta at random, rescales the rest, and adds them to the base",
    paper: PAPER,
    formula: "d = r·m·(x − b), m drawn with probability density, r by rescale; y = b + λ·Σ w·d, divided by Σ w under normalize",
    guide: Guide {
        detail: "Deltas are so redundant that a random part of them, scaled up, does the work of the whole.",
        when: "many branches of one base with small deltas, to lower their interference",
        avoid: "deltas are large or reasoning is at stake: it was below its host method at 7B",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Element,
    base: Base::Required,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
    ..USUAL
};

static TIES: Spec = Spec {
    name: "dare_ties",
    sentence: "drops elements of every delta at random, rescales the rest, and adds what agrees with the majority sign",
    paper: PAPER,
    formula: "d = r·m·(x − b), m drawn with probability density, r by rescale; s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    guide: Guide {
        detail: "Thinned deltas collide less, and what still contradicts the majority is left out.",
        when: "many branches of one base that interfere",
        avoid: "deltas are large or reasoning is at stake: it was far below plain methods on GPQA",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Element,
    base: Base::Required,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
    ..USUAL
};

fn passes(parameters: &Parameters, _: u64) -> u64 {
    1 + u64::from(drops(parameters) && keeps_norms(parameters))
}

impl Method for DareLinear {
    fn spec(&self) -> &'static Spec {
        &LINEAR
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::None)
    }
}

impl Method for DareTies {
    fn spec(&self) -> &'static Spec {
        &TIES
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::Weighted)
    }
}

fn fit<R: Number>(tensor: &Tensor<'_, R>, parameters: &Parameters, vote: Vote) -> Result<Fit<R>> {
    combine::check_weights(parameters)?;
    let mut combine = Combine::new(parameters, vote);
    let densities = parameters.numbers("density");
    let streams = tensor.streams.clone();
    let divisor = |density: f64| match (parameters.number("q"), parameters.choice("rescale")) {
        (q, _) if q > 0.0 => q,
        (_, "density") if density > 0.0 => density,
        _ => 1.0,
    };
    for (growth, &density) in combine.growth.iter_mut().zip(&densities) {
        *growth = if density < 1.0 { 1.0 / divisor(density) } else { 1.0 };
    }
    let rescale = drops(parameters) && keeps_norms(parameters);
    sparse(tensor, combine, rescale, move |i, block, kept| {
        let (density, delta) = (densities[i], block.branch(i));
        if density >= 1.0 {
            return kept.copy_from_slice(delta);
        }
        let mut numbers = vec![0; block.length];
        streams[i].uniform(block.start, &mut numbers);
        // With a probability of the density, to within 2⁻³².
        draw(&numbers, (density * 2f64.powi(32)) as u32, delta, kept);
    })
}

fn drops(parameters: &Parameters) -> bool {
    parameters.numbers("density").iter().any(|&density| density < 1.0)
}

fn keeps_norms(parameters: &Parameters) -> bool {
    parameters.flag("rescale") && parameters.number("q") == 0.0
}

vectorised! {
    fn draw<R: Number>(numbers: &[u32], below: u32, delta: &[R], kept: &mut [R]) {
        for ((kept, &value), &number) in kept.iter_mut().zip(delta).zip(numbers) {
            *kept = if number < below { value } else { R::ZERO };
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>, consensus: bool) -> Vec<Vec<f64>> {
        let densities = case.parameters.numbers("density");
        let sum = |values: &[f64]| values.iter().map(|value| value.abs()).sum::<f64>();
        let thinned = case.deltas().into_iter().zip(&densities).zip(case.streams);
        let thinned = thinned.map(|((delta, &density), stream)| {
            let mut numbers = vec![0; delta.len()];
            stream.uniform(0, &mut numbers);
            let kept = |number: u32| {
                f64::from(number) < (density * 2f64.powi(32)).floor() || density >= 1.0
            };
            let thin: Vec<f64> = delta
                .iter()
                .zip(numbers)
                .map(|(d, number)| if kept(number) { *d } else { 0.0 })
                .collect();
            let q = case.parameters.number("q");
            let factor = match case.parameters.choice("rescale") {
                _ if density >= 1.0 => 1.0,
                _ if q > 0.0 => 1.0 / q,
                "density" if density > 0.0 => 1.0 / density,
                _ if case.parameters.flag("rescale") && sum(&thin) > 0.0 => {
                    sum(&delta) / sum(&thin)
                }
                _ => 1.0,
            };
            thin.iter().map(|d| d * factor).collect()
        });
        let thinned: Vec<Vec<f64>> = thinned.collect();
        case.on_base(combine::naive(case.parameters, &thinned, consensus))
    }

    mod linear {
        use super::*;
        check!(DareLinear, |case| naive(case, false), "6e69538301ca4526");
    }

    mod ties {
        use super::*;
        check!(DareTies, |case| naive(case, true), "251e1199f9c4c670");
    }
}
