//! `della_linear` and `della`: drop elements of the deltas at random, the small ones of a row more often, rescale the rest
//! and add them; the second by majority sign. Two methods in one file: they differ in one word.

use super::parameters::{DENSITY, LAMBDA, WEIGHT, normalize, rescale};
use crate::fit::prelude::*;

/// Deltas are added as they are.
pub(super) struct DellaLinear;
/// Deltas are added where they agree with the majority sign.
pub(super) struct Della;

const EPSILON: Parameter = Parameter {
    name: "epsilon",
    kind: Type::Number { low: 0.0, high: 0.5 },
    default: Some(Value::Number(0.15)),
    per: Per::Model,
    help: "how much less than the density the smallest of a row, and how much more the largest, is likely to be kept",
};

const LINEAR_PARAMETERS: &[Parameter] =
    &[WEIGHT, DENSITY, EPSILON, rescale(true), normalize(false), LAMBDA];
const TIES_PARAMETERS: &[Parameter] =
    &[WEIGHT, DENSITY, EPSILON, rescale(true), normalize(true), LAMBDA];

const DIFFERENCES: &[&str] = &[
    "ranks are exact, and equal magnitudes share their mean rank; mergekit's come from an unstable sort",
    "the mask is a function of seed, tensor, branch and element, not of threads, shards or order",
    "a row is the last dimension; mergekit takes the second where there are more",
    "the one element of a row of one is kept with the odds of the density; mergekit divides 0 by 0",
    "deltas in f32 and sums in f64 whatever the inputs' dtype",
];

const PAPER: &str = "Deep et al., DELLA-Merging, arXiv 2406.11617";

static LINEAR: Spec = Spec {
    name: "della_linear",
    sentence: "drops elements of every delta at random, small ones more often, rescales the rest, and adds them to the base",
    paper: PAPER,
    formula: "k = rank of |x − b| in its row, 1 to n; d = r·m·(x − b), m drawn with probability \
              density − ε + 2ε·(k − 1)/(n − 1), r = Σ|x − b|/Σ|m·(x − b)| under rescale; \
              y = b + λ·Σ w·d, divided by Σ w under normalize",
    guide: Guide {
        detail: "The odds rise in a straight line from density − epsilon for the smallest of a row to density + epsilon for the largest.",
        when: "as dare_linear, where large changes should rather survive",
        avoid: "as dare_linear: what is random costs quality where deltas are large",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Row,
    base: Base::Required,
    parameters: LINEAR_PARAMETERS,
    differences: DIFFERENCES,
    check,
    passes,
    memory,
    ..USUAL
};

static TIES: Spec = Spec {
    name: "della",
    sentence: "drops elements of every delta at random, small ones more often, rescales the rest, and adds what agrees with the majority sign",
    paper: PAPER,
    formula: "d as in della_linear; s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    guide: Guide {
        detail: "The odds rise in a straight line from density − epsilon for the smallest of a row to density + epsilon for the largest.",
        when: "as dare_ties, where large changes should rather survive",
        avoid: "as dare_ties: what is random costs quality where deltas are large",
        example: "{\"weight\": [0.5, 0.5], \"density\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Row,
    base: Base::Required,
    parameters: TIES_PARAMETERS,
    differences: DIFFERENCES,
    check,
    passes,
    memory,
    ..USUAL
};

fn check(parameters: &Parameters) -> Result<()> {
    let (densities, epsilons) = (parameters.numbers("density"), parameters.numbers("epsilon"));
    for (density, epsilon) in densities.into_iter().zip(epsilons) {
        if density > 0.0 && density < 1.0 && (density - epsilon < 0.0 || density + epsilon > 1.0) {
            let most = density.min(1.0 - density);
            let what = format!(
                "`density` {density} and `epsilon` {epsilon} leave the probabilities 0 to 1"
            );
            return Err(Error::recipe_with_hint(
                what,
                format!("set `epsilon` to at most {most:.6}"),
            ));
        }
    }
    combine::check_weights(parameters)
}

fn drops(parameters: &Parameters) -> bool {
    parameters.numbers("density").iter().any(|&density| density < 1.0)
}

fn passes(parameters: &Parameters, _: u64) -> u64 {
    1 + u64::from(drops(parameters))
}

fn memory(parameters: &Parameters, extent: &Extent<'_>) -> u64 {
    if !drops(parameters) {
        return 0;
    }
    Marks::memory(extent, 2 * extent.branches) + extent.workers * Ranks::memory(extent.row)
}

impl Method for DellaLinear {
    fn spec(&self) -> &'static Spec {
        &LINEAR
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::None)
    }
}

impl Method for Della {
    fn spec(&self) -> &'static Spec {
        &TIES
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, Vote::Weighted)
    }
}

fn fit<R: Number>(tensor: &Tensor<'_, R>, parameters: &Parameters, vote: Vote) -> Result<Fit<R>> {
    check(parameters)?;
    let mut combine = Combine::new(parameters, vote);
    let densities = parameters.numbers("density");
    if !drops(parameters) {
        return sparse(tensor, combine, false, |i, block, kept| {
            kept.copy_from_slice(block.branch(i));
        });
    }
    let (marks, norms) = draw(tensor, &densities, &parameters.numbers("epsilon"))?;
    if parameters.flag("rescale") {
        combine.growth = norms.iter().map(|[whole, kept]| sparsify::ratio(*whole, *kept)).collect();
    }
    sparse(tensor, combine, false, move |i, block, kept| match densities[i] {
        density if density >= 1.0 => kept.copy_from_slice(block.branch(i)),
        density if density <= 0.0 => kept.fill(R::ZERO),
        _ => marks.keep(i, block, kept),
    })
}

/// Which elements are kept, and each branch's L1 norm of all and of what is kept.
fn draw<R: Number>(
    tensor: &Tensor<'_, R>,
    densities: &[f64],
    epsilons: &[f64],
) -> Result<(Marks, Vec<[f64; 2]>)> {
    let drawn: Vec<usize> =
        (0..densities.len()).filter(|&i| densities[i] > 0.0 && densities[i] < 1.0).collect();
    let (marks, rows) = Marks::find(tensor, Ranks::default, |ranks, row, marks| {
        let mut norms = vec![[0.0; 2]; densities.len()];
        for &i in &drawn {
            let odds = Odds { least: densities[i] - epsilons[i], most: densities[i] + epsilons[i] };
            ranks.choose(row, i, tensor.streams[i], odds, marks.branch(i))?;
            norms[i] = marks.norms(row, i)?;
        }
        Ok(norms)
    })?;
    let mut sums = vec![[0.0; 2]; densities.len()];
    for norms in rows {
        for (sums, norms) in sums.iter_mut().zip(norms) {
            sums.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += norm);
        }
    }
    Ok((marks, sums))
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>, consensus: bool) -> Vec<Vec<f64>> {
        let (density, epsilon) =
            (case.parameters.numbers("density"), case.parameters.numbers("epsilon"));
        let thin = |(i, delta): (usize, Vec<f64>)| {
            let mut numbers = vec![0; delta.len()];
            case.streams[i].uniform(0, &mut numbers);
            let kept = |e: usize| {
                let row = e / case.row * case.row;
                let sizes = delta[row..row + case.row].iter().map(|d| d.abs());
                let smaller = sizes.clone().filter(|size| *size < delta[e].abs()).count() as f64;
                let equal = sizes.filter(|size| *size == delta[e].abs()).count() as f64;
                let rank = smaller + (equal - 1.0) / 2.0;
                let place = if case.row > 1 { rank / (case.row - 1) as f64 } else { 0.5 };
                let odds = density[i] - epsilon[i] + 2.0 * epsilon[i] * place;
                f64::from(numbers[e]) < (odds * 2f64.powi(32)).floor()
            };
            let whole = density[i] >= 1.0;
            let thin = |e: usize| if whole || density[i] > 0.0 && kept(e) { delta[e] } else { 0.0 };
            let thinned: Vec<f64> = (0..delta.len()).map(thin).collect();
            let norm = thinned.iter().map(|d| d.abs()).sum();
            ([thinned.clone(), thinned], if whole { 0.0 } else { norm })
        };
        let thinned: Vec<_> = case.deltas().into_iter().enumerate().map(thin).collect();
        sparsify::naive(case, &thinned, consensus)
    }

    mod linear {
        use super::*;
        check!(DellaLinear, |case| naive(case, false), "baad06e2e0b5ac25");
    }

    mod ties {
        use super::*;
        check!(Della, |case| naive(case, true), "bb21c752cc259b3d");
    }
}
