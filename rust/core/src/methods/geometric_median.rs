//! `geometric_median`: the point whose distances to all models have the smallest sum.

use super::parameters::{SHARE, check_shares};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct GeometricMedian;

static SPEC: Spec = Spec {
    name: "geometric_median",
    sentence: "the point whose distances to all models have the smallest sum: one that is far off pulls no harder than the others",
    paper: "Weiszfeld, Sur le point pour lequel la somme des distances de n points donnés est minimum, 1937",
    formula: "y = Σ c·x with c = (w/|x − y|)/Σ (w/|x − y|), repeated from the mean until no c changes by more than tol",
    guide: Guide {
        detail: "The steps are made on the distances between the models, so that tensors are read twice however many steps there are.",
        when: "one of several models may be bad, and it is not known which",
        avoid: "there are two models: every point between them is as good, and it is their mean",
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
            default: Some(Value::Number(100.0)),
            per: Per::Global,
            help: "steps at most",
        },
        Parameter {
            name: "tol",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(1e-9)),
            per: Per::Global,
            help: "the change of a share that is no longer one",
        },
    ],
    check: check_shares,
    passes: |parameters, _| if parameters.branches.len() > 1 { 2 } else { 1 },
    ..USUAL
};

impl Method for GeometricMedian {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        check_shares(parameters)?;
        let weights = parameters.numbers("weight");
        if weights.len() == 1 {
            return Ok(Mixture::Tensor(vec![1.0]).fit());
        }
        let squares = gram::distances(tensor)?;
        let steps = parameters.number("max_iter") as u64;
        let (shares, taken) = settle(&squares, &weights, steps, parameters.number("tol"));
        let mut fit = Mixture::Tensor(shares).fit();
        fit.figures.numbers.push(("steps", taken as f64));
        Ok(fit)
    }
}

fn normalised(mut shares: Vec<f64>) -> Vec<f64> {
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

/// The shares of the models after at most so many steps, and how many were made. `squares` are of their distances.
fn settle(squares: &Gram, weights: &[f64], steps: u64, tolerance: f64) -> (Vec<f64>, u64) {
    let mut shares = normalised(weights.to_vec());
    for step in 0..steps {
        // |x_i − y|² = Σ c_j·D_ij − ½·Σ c_j·c_k·D_jk for y = Σ c·x with shares that sum to 1.
        let spread = 0.5 * squares.square(&shares);
        let distances: Vec<f64> =
            squares.times(&shares).iter().map(|to| (to - spread).max(0.0).sqrt()).collect();
        // A model at the point itself: the step would divide by 0, and the point is as good as it gets by such steps.
        if distances.iter().zip(weights).any(|(distance, weight)| *distance == 0.0 && *weight > 0.0)
        {
            return (shares, step);
        }
        let pull =
            |(weight, distance): (&f64, &f64)| if *weight > 0.0 { weight / distance } else { 0.0 };
        let next = normalised(weights.iter().zip(&distances).map(pull).collect());
        let change = shares.iter().zip(&next).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        shares = next;
        if change <= tolerance {
            return (shares, step + 1);
        }
    }
    (shares, steps)
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (models, weights) = (&case.operands, case.parameters.numbers("weight"));
        let mix = |shares: &[f64]| -> Vec<f64> {
            let sum: f64 = shares.iter().sum();
            let at = |e: usize| models.iter().zip(shares).map(|(x, c)| c * x[e]).sum::<f64>() / sum;
            (0..models[0].len()).map(at).collect()
        };
        let (mut shares, mut point) = (weights.clone(), mix(&weights));
        for _ in 0..case.parameters.number("max_iter") as u64 {
            let distance = |x: &Vec<f64>| -> f64 {
                x.iter().zip(&point).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
            };
            let distances: Vec<f64> = models.iter().map(distance).collect();
            if distances.iter().any(|distance| *distance < 1e-12) {
                break;
            }
            let next: Vec<f64> = weights.iter().zip(&distances).map(|(w, d)| w / d).collect();
            let (old, new): (f64, f64) = (shares.iter().sum(), next.iter().sum());
            let change = |(a, b): (&f64, &f64)| (a / old - b / new).abs();
            let change = shares.iter().zip(&next).map(change).fold(0.0, f64::max);
            point = mix(&next);
            shares = next;
            if change <= case.parameters.number("tol") {
                break;
            }
        }
        vec![point]
    }

    check!(GeometricMedian, naive, "9f46d151520f7e6f");

    #[test]
    fn one_far_off_pulls_no_harder() {
        // Three points at 0, 1 and 100 on a line: the median is 1.
        let points = [0.0, 1.0, 100.0f64];
        let pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)];
        let upper = pairs.map(|(i, j): (usize, usize)| (points[i] - points[j]).powi(2));
        let (shares, _) = settle(&Gram::new(3, &upper), &[1.0; 3], 10_000, 0.0);
        let point: f64 = shares.iter().zip(points).map(|(share, x)| share * x).sum();
        assert!((point - 1.0).abs() < 1e-3, "{point}");
    }
}
