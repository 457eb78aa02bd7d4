//! `dare_linear` and `dare_ties`: drop elements of the deltas at random, rescale the rest, and add them; the second by
//! majority sign. Two methods in one file: they differ in one word.

use super::parameters::{DENSITY, LAMBDA, WEIGHT, normalize};
use crate::fit::prelude::*;

/// Deltas are added as they are.
pub(super) struct DareLinear;
/// Deltas are added where they agree with the majority sign.
pub(super) struct DareTies;

/// Norms below this are not divided by, as in mergekit.
const NOTHING: f64 = 1e-7;

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
    normalize(false),
    LAMBDA,
];

const DIFFERENCES: &[&str] = &[
    "the mask is a function of seed, tensor, branch and element, not of threads, shards or order",
    "rescale: density is the paper's 1/density",
    "deltas in f32 and sums in f64 whatever the inputs' dtype",
    "a density outside 0..1, or weights that sum to 0 under normalize, are errors",
];

const PAPER: &str = "Yu et al., Language models are super Mario, arXiv 2311.03099";

static LINEAR: Spec = Spec {
    name: "dare_linear",
    aliases: &[],
    sentence: "drops elements of every delta at random, rescales the rest, and adds them to the base",
    paper: PAPER,
    formula: "d = r·m·(x − b), m drawn with probability density, r by rescale; y = b + λ·Σ w·d, divided by Σ w under normalize",
    space: Space::Delta,
    grain: Grain::Element,
    ranks: 0,
    base: Base::Required,
    fewest: 1,
    most: None,
    folds: false,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
};

static TIES: Spec = Spec {
    name: "dare_ties",
    aliases: &[],
    sentence: "drops elements of every delta at random, rescales the rest, and adds what agrees with the majority sign",
    paper: PAPER,
    formula: "d = r·m·(x − b), m drawn with probability density, r by rescale; s = sign of Σ w·d (+ where it is 0); \
              y = b + λ·Σ w·d over sign(w·d) = s, divided by their Σ w under normalize",
    space: Space::Delta,
    grain: Grain::Element,
    ranks: 0,
    base: Base::Required,
    fewest: 1,
    most: None,
    folds: false,
    parameters: PARAMETERS,
    differences: DIFFERENCES,
    check: combine::check_weights,
    passes,
};

fn passes(parameters: &Parameters, _: u64) -> u64 {
    let drops = parameters.numbers("density").iter().any(|&density| density < 1.0);
    1 + u64::from(drops && parameters.flag("rescale"))
}

impl Method for DareLinear {
    fn spec(&self) -> &'static Spec {
        &LINEAR
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, false)
    }
}

impl Method for DareTies {
    fn spec(&self) -> &'static Spec {
        &TIES
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        fit(tensor, parameters, true)
    }
}

/// How a branch is thinned.
#[derive(Clone, Copy)]
struct Thinning {
    stream: Stream,
    density: f64,
    factor: f64,
}

fn fit<R: Number>(
    tensor: &Tensor<'_, R>,
    parameters: &Parameters,
    consensus: bool,
) -> Result<Fit<R>> {
    combine::check_weights(parameters)?;
    let combine = Combine::new(parameters, consensus);
    let densities = parameters.numbers("density");
    let mut thinned: Vec<Thinning> = tensor
        .streams
        .iter()
        .zip(densities)
        .map(|(&stream, density)| Thinning { stream, density, factor: 1.0 })
        .collect();
    if parameters.flag("rescale") {
        keep_norms(tensor, &mut thinned)?;
    } else if parameters.choice("rescale") == "density" {
        thinned
            .iter_mut()
            .filter(|one| one.density > 0.0)
            .for_each(|one| one.factor = 1.0 / one.density);
    }
    Ok(Fit::new(move |block, out| {
        let mut numbers = Vec::new();
        let deltas: Vec<Vec<R>> =
            thinned.iter().enumerate().map(|(i, one)| one.thin(block, i, &mut numbers)).collect();
        let deltas: Vec<&[R]> = deltas.iter().map(Vec::as_slice).collect();
        combine.apply(&deltas, out);
    }))
}

/// Finds the factors that leave each delta's L1 norm as it was.
fn keep_norms<R: Number>(tensor: &Tensor<'_, R>, thinned: &mut [Thinning]) -> Result<()> {
    let count = thinned.len();
    if thinned.iter().all(|one| one.density >= 1.0) {
        return Ok(());
    }
    let sums = statistics::sums(tensor, 2 * count, |sums, block| {
        let mut numbers = vec![0; block.length];
        let (whole, kept) = sums.split_at_mut(count);
        for (i, one) in thinned.iter().enumerate() {
            one.stream.uniform(block.start, &mut numbers);
            add_magnitudes(&mut whole[i], &mut kept[i], &numbers, one.below(), block.branch(i));
        }
    })?;
    for (i, one) in thinned.iter_mut().enumerate() {
        let (before, after) = (sums[i], sums[count + i]);
        if one.density < 1.0 && before >= NOTHING && after >= NOTHING {
            one.factor = before / after;
        }
    }
    Ok(())
}

impl Thinning {
    /// A branch's delta with what is dropped at zero, the rest times the factor.
    fn thin<R: Number>(&self, block: &Block<'_, R>, i: usize, numbers: &mut Vec<u32>) -> Vec<R> {
        let mut delta = block.branch(i).to_vec();
        if self.density < 1.0 {
            numbers.resize(delta.len(), 0);
            self.stream.uniform(block.start, numbers);
            thin(numbers, self.below(), R::from_f64(self.factor), &mut delta);
        }
        delta
    }

    /// An element is kept if its number is below this: with a probability of the density, to within 2⁻³².
    fn below(&self) -> u32 {
        (self.density * 2f64.powi(32)) as u32
    }
}

vectorised! {
    fn thin<R: Number>(numbers: &[u32], below: u32, factor: R, delta: &mut [R]) {
        for (value, &number) in delta.iter_mut().zip(numbers) {
            let grown = *value * factor;
            *value = if number < below { grown } else { R::ZERO };
        }
    }
}

vectorised! {
    /// Adds the magnitudes of a delta to `whole`, and those of what is kept to `kept`.
    fn add_magnitudes<R: Number>(
        whole: &mut statistics::Sum,
        kept: &mut statistics::Sum,
        numbers: &[u32],
        below: u32,
        delta: &[R],
    ) {
        let mut see = |lane: usize, number: u32, value: R| {
            let magnitude = value.abs().to_f64();
            whole[lane] += magnitude;
            kept[lane] += if number < below { magnitude } else { 0.0 };
        };
        let (numbers, values) = (numbers.as_chunks::<16>(), delta.as_chunks::<16>());
        for (numbers, values) in numbers.0.iter().zip(values.0) {
            for lane in 0..16 {
                see(lane, numbers[lane], values[lane]);
            }
        }
        for (lane, (&number, &value)) in numbers.1.iter().zip(values.1).enumerate() {
            see(lane, number, value);
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
            let factor = if case.parameters.choice("rescale") == "density" {
                if density > 0.0 { 1.0 / density } else { 1.0 }
            } else if case.parameters.flag("rescale")
                && sum(&delta) >= NOTHING
                && sum(&thin) >= NOTHING
            {
                sum(&delta) / sum(&thin)
            } else {
                1.0
            };
            thin.iter().map(|d| d * factor).collect()
        });
        let thinned: Vec<Vec<f64>> = thinned.collect();
        case.on_base(combine::naive(case.parameters, &thinned, consensus))
    }

    mod linear {
        use super::*;
        check!(DareLinear, |case| naive(case, false), "28ff8f36750c3854");
    }

    mod ties {
        use super::*;
        check!(DareTies, |case| naive(case, true), "94114e149d2ae459");
    }
}
