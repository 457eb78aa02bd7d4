//! `karcher`: the Karcher mean of the models' directions on the sphere, as long as they are on the average.

use super::parameters::{SHARE, check_shares};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Karcher;

/// A direction this near to the opposite of the mean has no way to it: 1 + cos of their angle.
const OPPOSED: f64 = 1e-12;

static SPEC: Spec = Spec {
    name: "karcher",
    sentence: "the point on the sphere from which the ways to all models' directions cancel, at the models' mean length",
    paper: "Karcher, Riemannian center of mass, CPAM 1977; for merging arXiv 2603.04972",
    formula: "u = x/|x|, m = Σ w·u/|Σ w·u|, w normalised; T = Σ w·θ/sin θ·(u − cos θ·m), cos θ = ⟨u, m⟩; \
              m ← cos|T|·m + sin|T|·T/|T| until |T| < tol; y = Σ w·|x| · m",
    guide: Guide {
        detail: "It is the mean that slerp of two models extends to many.",
        when: "many models of different kinds, whose straight mean would be too short",
        avoid: "the models are siblings: it is then their mean, to many digits",
        example: "{}",
    },
    space: Space::Weights,
    grain: Grain::Tensor,
    base: Base::None,
    parameters: &[
        SHARE,
        Parameter {
            name: "max_iter",
            kind: Type::Whole { low: 0.0, high: 10_000.0 },
            default: Some(Value::Number(10.0)),
            per: Per::Global,
            help: "steps at most",
        },
        Parameter {
            name: "tol",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(1e-5)),
            per: Per::Global,
            help: "a step of no more than this many radians is not made",
        },
    ],
    differences: &[
        "the steps are made on the inner products of the models, so that the tensors are read twice however many steps there are",
        "norms and dot products are summed in f64; mergekit's dot products are in the inputs' dtype",
        "models may have weights",
        "only a model that is zero has no direction; mergekit leaves out any whose norm is below tol",
    ],
    check: check_shares,
    passes: |parameters, _| if parameters.branches.len() > 1 { 2 } else { 1 },
    ..USUAL
};

impl Method for Karcher {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        check_shares(parameters)?;
        let mut weights = parameters.numbers("weight");
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        if weights.len() == 1 {
            return Ok(Mixture::Tensor(vec![1.0]).fit());
        }
        let gram = gram::products(tensor)?;
        let steps = parameters.number("max_iter") as u64;
        let Some(mean) = Mean::start(&gram, &weights, parameters.number("tol")) else {
            // All models are zero.
            return Ok(Mixture::Tensor(weights).fit());
        };
        let (mean, taken) = mean.settle(steps);
        let mut fit = Mixture::Tensor(mean.of_models(&gram, &weights)).fit();
        fit.figures.numbers.push(("steps", taken as f64));
        Ok(fit)
    }
}

/// A point on the sphere, as a combination of the models' directions.
struct Mean {
    /// The cosines of the directions with one another; 0 for a model that has none.
    cosines: Gram,
    /// The weights of the models that have a direction, which sum to 1.
    weights: Vec<f64>,
    tolerance: f64,
    point: Vec<f64>,
}

impl Mean {
    /// The weighted mean of the directions, or the first of them where they cancel.
    fn start(gram: &Gram, weights: &[f64], tolerance: f64) -> Option<Self> {
        let count = weights.len();
        let directed: Vec<bool> = (0..count).map(|i| gram.norm(i) > 0.0).collect();
        let first = directed.iter().position(|&directed| directed)?;
        let pairs = (0..count).flat_map(|i| (i..count).map(move |j| (i, j)));
        let cosine = |(i, j)| if i == j { f64::from(directed[i]) } else { gram.cosine(i, j) };
        let cosines = Gram::new(count, &pairs.map(cosine).collect::<Vec<_>>());
        let kept = |(weight, &directed): (&f64, &bool)| if directed { *weight } else { 0.0 };
        let mut weights: Vec<f64> = weights.iter().zip(&directed).map(kept).collect();
        let sum: f64 = weights.iter().sum();
        if sum == 0.0 {
            return None;
        }
        weights.iter_mut().for_each(|weight| *weight /= sum);
        let mut mean = Self { cosines, point: weights.clone(), weights, tolerance };
        if mean.cosines.square(&mean.point).max(0.0).sqrt() < tolerance {
            mean.point = (0..count).map(|i| f64::from(i == first)).collect();
        }
        mean.normalise();
        Some(mean)
    }

    fn normalise(&mut self) {
        let norm = self.cosines.square(&self.point).max(0.0).sqrt();
        self.point.iter_mut().for_each(|part| *part /= norm);
    }

    /// At most so many steps; tells how many were taken.
    fn settle(mut self, steps: u64) -> (Self, u64) {
        for step in 0..steps {
            let cosines = self.cosines.times(&self.point);
            let factors: Vec<f64> = self
                .weights
                .iter()
                .zip(&cosines)
                .map(|(w, &c)| w * spread(c.clamp(-1.0, 1.0)))
                .collect();
            let along: f64 = factors.iter().zip(&cosines).map(|(f, c)| f * c).sum();
            let parts = factors.iter().zip(&self.point);
            let tangent: Vec<f64> = parts.map(|(factor, part)| factor - along * part).collect();
            let length = self.cosines.square(&tangent).max(0.0).sqrt();
            if length <= self.tolerance {
                return (self, step);
            }
            let (sine, cosine) = (number::sin(length), number::cos(length));
            for (part, turn) in self.point.iter_mut().zip(&tangent) {
                *part = cosine * *part + sine / length * turn;
            }
            self.normalise();
        }
        (self, steps)
    }

    /// The weights of the models themselves, at their mean length.
    fn of_models(&self, gram: &Gram, weights: &[f64]) -> Vec<f64> {
        let length: f64 = weights.iter().enumerate().map(|(i, w)| w * gram.norm(i)).sum();
        let of = |(i, part): (usize, &f64)| {
            if *part == 0.0 { 0.0 } else { part * length / gram.norm(i) }
        };
        self.point.iter().enumerate().map(of).collect()
    }
}

/// θ/sin θ of the angle with this cosine; 0 where it is a half turn.
fn spread(cosine: f64) -> f64 {
    if 1.0 + cosine < OPPOSED {
        return 0.0;
    }
    // 1 − cos θ = θ²/2 − θ⁴/24 + …; near 0 the quotient is 1 + (1 − cos θ)/3 + 2(1 − cos θ)²/15.
    let small = 1.0 - cosine;
    if small < 1e-5 {
        return 1.0 + small / 3.0 + 2.0 * small * small / 15.0;
    }
    number::acos(cosine) / ((1.0 - cosine) * (1.0 + cosine)).sqrt()
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let models = &case.operands;
        let weights = case.parameters.numbers("weight");
        let sum: f64 = weights.iter().sum();
        if models.len() == 1 {
            return models.clone();
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scaled = |x: &[f64], by: f64| x.iter().map(|x| x * by).collect::<Vec<f64>>();
        let unit = |x: &[f64]| scaled(x, 1.0 / dot(x, x).sqrt());
        let add = |x: &mut Vec<f64>, y: &[f64], by: f64| {
            x.iter_mut().zip(y).for_each(|(x, y)| *x += by * y);
        };
        let units: Vec<Vec<f64>> = models.iter().map(|x| unit(x)).collect();
        let tolerance = case.parameters.number("tol");
        let mut mean = vec![0.0; models[0].len()];
        units.iter().zip(&weights).for_each(|(u, w)| add(&mut mean, u, w / sum));
        mean = if dot(&mean, &mean).sqrt() < tolerance { units[0].clone() } else { unit(&mean) };
        for _ in 0..case.parameters.number("max_iter") as u64 {
            let mut tangent = vec![0.0; mean.len()];
            for (u, w) in units.iter().zip(&weights) {
                let cosine = dot(u, &mean).clamp(-1.0, 1.0);
                let angle = cosine.acos();
                let spread = if angle.sin() < 1e-9 { 1.0 } else { angle / angle.sin() };
                add(&mut tangent, u, w / sum * spread);
                add(&mut tangent, &mean, -w / sum * spread * cosine);
            }
            let length = dot(&tangent, &tangent).sqrt();
            if length <= tolerance {
                break;
            }
            let mut next = scaled(&mean, length.cos());
            add(&mut next, &tangent, length.sin() / length);
            mean = unit(&next);
        }
        let lengths = models.iter().zip(&weights).map(|(x, w)| w / sum * dot(x, x).sqrt());
        vec![scaled(&mean, lengths.sum())]
    }

    check!(Karcher, naive, "f3b4b40637d0121f");

    #[test]
    fn the_series_meets_the_closed_form() {
        for small in [1e-3, 1.1e-5, 0.9e-5, 1e-7] {
            let angle = f64::acos(1.0 - small);
            assert!((spread(1.0 - small) - angle / angle.sin()).abs() < 1e-9, "{small}");
        }
    }
}
