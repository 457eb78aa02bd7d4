//! Weighted sums of deltas, as the methods on task vectors make them: plain, or by majority sign.

use crate::error::{Error, Result};
use crate::fit::group::{LANES, group, put};
use crate::fit::method::Parameters;
use crate::fit::number::Number;

/// Weights whose sum is below this share of their magnitudes sum to nothing.
const NOTHING: f64 = 1e-8;

/// How the deltas of a merge become one.
#[derive(Clone, Debug)]
pub struct Combine {
    /// One a branch.
    pub weights: Vec<f64>,
    /// Only deltas of the majority's sign count.
    pub consensus: bool,
    /// The sum is divided by the weights that counted.
    pub normalize: bool,
    /// What the sum is multiplied with.
    pub scale: f64,
}

impl Combine {
    /// From the parameters that these methods share: `weight`, `normalize`, `lambda`.
    #[must_use]
    pub fn new(parameters: &Parameters, consensus: bool) -> Self {
        Self {
            weights: parameters.numbers("weight"),
            consensus,
            normalize: parameters.flag("normalize"),
            scale: parameters.number("lambda"),
        }
    }

    /// λ · Σ w·d, divided by Σ w if asked, of equally long `deltas`, one a branch.
    pub fn apply<R: Number>(&self, deltas: &[&[R]], out: &mut [R]) {
        if self.consensus {
            let scale = self.scale;
            by_majority(&self.weights, deltas, scale, self.normalize, out);
        } else {
            let sum: f64 = self.weights.iter().sum();
            let scale = if self.normalize { self.scale / sum } else { self.scale };
            weighted_sum(&self.weights, deltas, scale, out);
        }
    }
}

/// Refuses weights that sum to nothing where they are to be divided by.
pub fn check_weights(parameters: &Parameters) -> Result<()> {
    let weights = parameters.numbers("weight");
    let sum: f64 = weights.iter().sum();
    let size: f64 = weights.iter().map(|weight| weight.abs()).sum();
    if !parameters.flag("normalize") || sum.abs() > NOTHING * size {
        return Ok(());
    }
    let what = format!("the values of `weight` sum to {sum}, by which `normalize` would divide");
    Err(Error::recipe_with_hint(what, "set `normalize: false`, or other weights"))
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

vectorised! {
    /// The weighted sum of those w·d whose sign is that of Σ w·d (plus where that is 0), divided by their weights if asked.
    fn by_majority<R: Number>(weights: &[f64], deltas: &[&[R]], scale: f64, normalize: bool, out: &mut [R]) {
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let mut total = [0.0f64; LANES];
            for (&weight, delta) in weights.iter().zip(deltas) {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    total[lane] += weight * delta[lane].to_f64();
                }
            }
            // Turned by the sign of the total, what counts is positive.
            let mut sign = [0.0f64; LANES];
            for lane in 0..LANES {
                sign[lane] = if total[lane] >= 0.0 { 1.0 } else { -1.0 };
            }
            let (mut sum, mut share) = ([0.0f64; LANES], [0.0f64; LANES]);
            for (&weight, delta) in weights.iter().zip(deltas) {
                let delta = group(delta, number * LANES);
                for lane in 0..LANES {
                    let term = weight * delta[lane].to_f64() * sign[lane];
                    sum[lane] += if term > 0.0 { term } else { 0.0 };
                    share[lane] += if term > 0.0 { weight } else { 0.0 };
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
