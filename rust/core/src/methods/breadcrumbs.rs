//! `breadcrumbs` and `breadcrumbs_ties`: leave the largest and the smallest elements of every delta out, and add the rest;
//! the second by majority sign. Two methods in one file: they differ in one word.

use super::parameters::{DENSITY, LAMBDA, WEIGHT, normalize, rescale};
use crate::fit::prelude::*;

/// Deltas are added as they are.
pub(super) struct Breadcrumbs;
/// Deltas are added where they agree with the majority sign.
pub(super) struct BreadcrumbsTies;

const PARAMETERS: &[Parameter] = &[
    WEIGHT,
    DENSITY,
    Parameter {
        name: "gamma",
        kind: Type::Number { low: 0.0, high: 1.0 },
        default: Some(Value::Number(0.01)),
        per: Per::Model,
        help: "share of the delta's elements, the largest, that is left out; less where density leaves no room",
    },
    rescale(false),
    normalize(false),
    LAMBDA,
];

const DIFFERENCES: &[&str] = &[
    "both cuts are exact, and among equal magnitudes at them a hash of the element decides; mergekit's sort is unstable",
    "deltas in f32 and sums in f64 whatever the inputs' dtype",
    "a density or gamma outside 0..1, or weights that sum to 0 under normalize, are errors",
];

const PAPER: &str = "Davari and Belilovsky, Model Breadcrumbs, arXiv 2312.06795";

static PLAIN: Spec = Spec {
    name: "breadcrumbs",
    sentence: "leaves the largest and the smallest elements of every delta out, and adds the rest to the base",
    paper: PAPER,
    formula: "of |x − b| in ascending order, d keeps ⌊density·n⌋ from max(0, n − ⌊density·n⌋ − ⌊gamma·n⌋) on, all where \
              density is 1, times Σ|x − b|/Σ|d| under rescale; y = b + λ·Σ w·d, divided by Σ w under normalize",
    guide: Guide {
        detail: "The largest changes are taken for outliers, the smallest for noise.",
        when: "many branches, or branches with a few wild elements",
        avoid: "the largest changes are the skill itself, as after short reinforcement learning",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5, \"gamma\": 0.25}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
    memory,
    ..USUAL
};

static TIES: Spec = Spec {
    name: "breadcrumbs_ties",
    sentence: "leaves the largest and the smallest elements of every delta out, and adds what agrees with the majority sign",
    paper: PAPER,
    formula: "d as in breadcrumbs; s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    guide: Guide {
        detail: "The largest changes are taken for outliers, the smallest for noise, and what contradicts the majority cancels no longer.",
        when: "many branches with a few wild elements that interfere",
        avoid: "the largest changes are the skill itself, as after short reinforcement learning",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5, \"gamma\": 0.25}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
    memory,
    ..USUAL
};

fn cuts(parameters: &Parameters) -> bool {
    parameters.numbers("density").iter().any(|&density| density < 1.0)
}

fn passes(parameters: &Parameters, _: u64) -> u64 {
    1 + u64::from(cuts(parameters)) * (1 + u64::from(parameters.flag("rescale")))
}

fn memory(_: &Parameters, extent: &Extent<'_>) -> u64 {
    select::memory(extent, extent.branches, 2)
}

impl Method for Breadcrumbs {
    fn spec(&self) -> &'static Spec {
        &PLAIN
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::None)
    }
}

impl Method for BreadcrumbsTies {
    fn spec(&self) -> &'static Spec {
        &TIES
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::Weighted)
    }
}

fn fit<R: Number>(tensor: &Tensor<'_, R>, parameters: &Parameters, vote: Vote) -> Result<Fit<R>> {
    combine::check_weights(parameters)?;
    let bands = bands(tensor, &quotas(parameters, tensor.elements))?;
    let streams = tensor.streams.clone();
    let rescale = cuts(parameters) && parameters.flag("rescale");
    sparse(tensor, Combine::new(parameters, vote), rescale, move |i, block, kept| {
        bands[i].keep(streams[i], block.start, block.branch(i), kept);
    })
}

/// What each branch keeps of so many elements.
fn quotas(parameters: &Parameters, elements: u64) -> Vec<Quota> {
    let share = |share: f64| ((share * elements as f64) as u64).min(elements);
    let quota = |(density, gamma): (f64, f64)| match share(density) {
        _ if density >= 1.0 => Quota { kept: elements, above: 0 },
        kept => Quota { kept, above: share(gamma).min(elements - kept) },
    };
    parameters.numbers("density").into_iter().zip(parameters.numbers("gamma")).map(quota).collect()
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};
    use crate::fit::{magnitude, sparsify};

    fn naive(case: &Case<'_>, consensus: bool) -> Vec<Vec<f64>> {
        let (density, gamma) =
            (case.parameters.numbers("density"), case.parameters.numbers("gamma"));
        let thin = |(i, delta): (usize, Vec<f64>)| {
            let all = delta.len();
            let share = |share: f64| (share * all as f64) as usize;
            let kept = if density[i] >= 1.0 { all } else { share(density[i]) };
            let bottom = all.saturating_sub(kept + share(gamma[i]));
            let quota = Quota { kept: kept as u64, above: (all - bottom - kept) as u64 };
            magnitude::naive(&delta, quota)
        };
        let thinned: Vec<_> = case.deltas().into_iter().enumerate().map(thin).collect();
        sparsify::naive(case, &thinned, consensus)
    }

    mod plain {
        use super::*;
        check!(Breadcrumbs, |case| naive(case, false), "62435336b8966222");
    }

    mod ties {
        use super::*;
        check!(BreadcrumbsTies, |case| naive(case, true), "2a0d0685d95e31af");
    }
}
