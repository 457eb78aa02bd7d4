//! Weighted sums of deltas, as the methods on task vectors make them: plain, or by majority sign.

use crate::error::{Error, Result};
use crate::fit::group::{LANES, group, put};
use crate::fit::method::Fit;
use crate::fit::number::Number;
use crate::fit::parameters::Parameters;
use crate::fit::tensor::Block;

/// Weights whose sum is below this share of their magnitudes sum to nothing.
const NOTHING: f64 = 1e-8;

/// Whose sign decides which deltas of an element count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    /// Nobody's: all count.
    None,
    /// That of Σ w·d, plus where it is 0.
    Weighted,
    /// That of Σ d, plus where it is 0.
    Plain,
}

/// How the deltas of a merge become one.
#[derive(Clone, Debug)]
pub struct Combine {
    /// One a branch.
    pub weights: Vec<f64>,
    /// What each branch's delta is multiplied with besides: no part of the sum of weights.
    pub growth: Vec<f64>,
    /// Only deltas of the majority's sign count.
    pub vote: Vote,
    /// The sum is divided by the weights that counted.
    pub normalize: bool,
    /// What the sum is multiplied with.
    pub scale: f64,
}

impl Combine {
    /// From the parameters that these methods share: `weight`, `normalize`, `lambda`.
    #[must_use]
    pub fn new(parameters: &Parameters, vote: Vote) -> Self {
        let weights = parameters.numbers("weight");
        Self {
            growth: vec![1.0; weights.len()],
            weights,
            vote,
            normalize: parameters.flag("normalize"),
            scale: parameters.number("lambda"),
        }
    }

    /// The fit that combines the branches as they are.
    #[must_use]
    pub fn fit<R: Number>(self) -> Fit<R> {
        Fit::new(move |block: &Block<'_, R>, out: &mut [R]| {
            let count = self.weights.len();
            let deltas: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
            self.apply(&deltas, out);
        })
    }

    /// λ · Σ w·d, divided by Σ w if asked, of equally long `deltas`, one a branch.
    pub fn apply<R: Number>(&self, deltas: &[&[R]], out: &mut [R]) {
        let factors: Vec<f64> = self.weights.iter().zip(&self.growth).map(|(w, g)| w * g).collect();
        let votes = match self.vote {
            Vote::None => {
                let sum: f64 = self.weights.iter().sum();
                let scale = if self.normalize { self.scale / sum } else { self.scale };
                return weighted_sum(&factors, deltas, scale, out);
            }
            Vote::Weighted => factors.clone(),
            Vote::Plain => vec![1.0; factors.len()],
        };
        let branches = votes.into_iter().zip(factors).zip(&self.weights);
        let branches: Vec<Voter> =
            branches.map(|((vote, factor), &share)| Voter { vote, factor, share }).collect();
        by_majority(&branches, deltas, self.scale, self.normalize, out);
    }
}

/// What a branch's delta counts for: in the vote, in the sum, and in what the sum is divided by.
#[derive(Clone, Copy)]
struct Voter {
    vote: f64,
    factor: f64,
    share: f64,
}

/// Refuses weights that sum to nothing where `normalize` would divide by them.
pub fn check_weights(parameters: &Parameters) -> Result<()> {
    check_sum(parameters, "normalize")
}

/// Refuses weights that sum to nothing where they are to be divided by, as the flag of that name says.
pub fn check_sum(parameters: &Parameters, flag: &str) -> Result<()> {
    let weights = parameters.numbers("weight");
    let sum: f64 = weights.iter().sum();
    let size: f64 = weights.iter().map(|weight| weight.abs()).sum();
    if !parameters.flag(flag) || sum.abs() > NOTHING * size {
        return Ok(());
    }
    let what = format!("the values of `weight` sum to {sum}, by which `{flag}` would divide");
    Err(Error::recipe_with_hint(what, format!("set `{flag}: false`, or other weights")))
}

vectorised! {
    /// scale · Σ w·x, summed in `f64`.
    pub fn weighted_sum<R: Number>(weights: &[f64], operands: &[&[R]], scale: f64, out: &mut [R]) {
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let mut sum = [0.0; LANES];
            for (&weight, operand) in weights.iter().zip(operands) {
                let operand = group(operand, number * LANES);
                for lane in 0..LANES {
                    sum[lane] += weight * operand[lane].to_f64();
                }
            }
            let mut scaled = [R::ZERO; LANES];
            for lane in 0..LANES {
                scaled[lane] = R::from_f64(sum[lane] * scale);
            }
            put(&scaled, out);
        }
    }
}

/// What the weights sum to, less 1; 0 where that is lost in rounding.
#[must_use]
pub fn excess(weights: impl IntoIterator<Item = f64>) -> f64 {
    let excess = weights.into_iter().sum::<f64>() - 1.0;
    if excess.abs() > 64.0 * f64::EPSILON { excess } else { 0.0 }
}

vectorised! {
    /// Σ w·x, as x₀ + excess·x₀ + Σ w·(x − x₀): with weights that sum to 1, operands that agree give exactly what they
    /// agree on.
    pub fn mix<R: Number>(weights: &[f64], operands: &[&[R]], out: &mut [R]) {
        let excess = excess(weights.iter().copied());
        let (weights, first, others) = (&weights[1..], operands[0], &operands[1..]);
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let start = group(first, number * LANES);
            let mut sum = [0.0f64; LANES];
            for lane in 0..LANES {
                sum[lane] = excess * start[lane].to_f64();
            }
            for (&weight, operand) in weights.iter().zip(others) {
                let operand = group(operand, number * LANES);
                for lane in 0..LANES {
                    sum[lane] += weight * (operand[lane].to_f64() - start[lane].to_f64());
                }
            }
            let mut mixed = [R::ZERO; LANES];
            for lane in 0..LANES {
                let value = R::from_f64(start[lane].to_f64() + sum[lane]);
                // Adding +0 to −0 would lose its sign.
                mixed[lane] = if sum[lane] == 0.0 { start[lane] } else { value };
            }
            put(&mixed, out);
        }
    }
}

vectorised! {
    /// The sum of those terms whose sign is that of the vote (plus where it is 0), divided by their shares if asked.
    fn by_majority<R: Number>(branches: &[Voter], deltas: &[&[R]], scale: f64, normalize: bool, out: &mut [R]) {
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let mut total = [0.0f64; LANES];
            for (branch, delta) in branches.iter().zip(deltas) {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    total[lane] += branch.vote * delta[lane].to_f64();
                }
            }
            // Turned by the sign of the total, what counts is positive.
            let mut sign = [0.0f64; LANES];
            for lane in 0..LANES {
                sign[lane] = if total[lane] >= 0.0 { 1.0 } else { -1.0 };
            }
            let (mut sum, mut share) = ([0.0f64; LANES], [0.0f64; LANES]);
            for (branch, delta) in branches.iter().zip(deltas) {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    let term = branch.factor * delta[lane].to_f64() * sign[lane];
                    sum[lane] += if term > 0.0 { term } else { 0.0 };
                    share[lane] += if term > 0.0 { branch.share } else { 0.0 };
                }
            }
            for lane in 0..LANES {
                sum[lane] *= sign[lane];
            }
            if normalize {
                for lane in 0..LANES {
                    sum[lane] /= if share[lane] == 0.0 { 1.0 } else { share[lane] };
                }
            }
            let mut scaled = [R::ZERO; LANES];
            for lane in 0..LANES {
                scaled[lane] = R::from_f64(sum[lane] * scale);
            }
            put(&scaled, out);
        }
    }
}

/// λ · Σ w·d over those that count, divided by their Σ w if asked: the definition, for the oracles of the methods. Twice,
/// because a majority that is lost in rounding may have either sign.
#[cfg(test)]
#[must_use]
pub fn naive(parameters: &Parameters, deltas: &[Vec<f64>], consensus: bool) -> Vec<Vec<f64>> {
    let weights = parameters.numbers("weight");
    let sum = |e: usize, lost: f64| {
        let term = |(weight, delta): (&f64, &Vec<f64>)| (*weight, weight * delta[e]);
        let terms: Vec<(f64, f64)> = weights.iter().zip(deltas).map(term).collect();
        let total: f64 = terms.iter().map(|(_, term)| term).sum();
        let size: f64 = terms.iter().map(|(_, term)| term.abs()).sum();
        let sign = if total.abs() <= 1e-6 * size { lost } else { total };
        let agrees = |(_, term): &&(f64, f64)| !consensus || term * sign > 0.0;
        let add =
            |(share, sum): (f64, f64), (weight, term): &(f64, f64)| (share + weight, sum + term);
        let (share, sum) = terms.iter().filter(agrees).fold((0.0, 0.0), add);
        let divides = parameters.flag("normalize") && share != 0.0;
        parameters.number("lambda") * if divides { sum / share } else { sum }
    };
    let elements = 0..deltas[0].len();
    [1.0, -1.0].map(|lost| elements.clone().map(|e| sum(e, lost)).collect()).into()
}
