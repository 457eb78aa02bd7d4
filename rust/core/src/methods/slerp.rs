//! `slerp`: along the great circle from one model to another, a tensor at a time.

use super::parameters::ANY;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Slerp;

/// Norms up to this are taken for 1.
const NO_NORM: f64 = 1e-8;
/// Beyond this cosine the circle is taken for a line.
const PARALLEL: f64 = 0.9995;

static SPEC: Spec = Spec {
    name: "slerp",
    sentence: "goes from the base to the other model along the great circle of their directions",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985",
    formula: "c = ⟨b, x⟩/(|b|·|x|) over the tensor, θ = acos c; y = sin((1−t)θ)/sin θ·b + sin(tθ)/sin θ·x; \
              where |c| > 0.9995 it is b + t·(x − b)",
    guide: Guide {
        detail: "The result's length lies between the models' lengths, where a straight line would be shorter.",
        when: "two models point in clearly different directions",
        avoid: "the models are siblings: below an angle of about 2 degrees it is the line itself",
        example: "{\"t\": 0.5}",
    },
    space: Space::Weights,
    grain: Grain::Tensor,
    base: Base::First,
    most: Some(1),
    parameters: &[Parameter {
        name: "t",
        kind: ANY,
        default: None,
        per: Per::Global,
        help: "0 is the base, 1 the other model",
    }],
    differences: &["norms and dot product are summed in f64, and the result is rounded once"],
    passes: |_, _| 2,
    ..USUAL
};

impl Method for Slerp {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let t = parameters.number("t");
        let sums = statistics::sums(tensor, 3, |sums, block| {
            if let [base, other, both] = sums {
                statistics::add_products([base, other, both], block.base(), block.branch(0));
            }
        })?;
        let norm = |square: f64| if square.sqrt() > NO_NORM { square.sqrt() } else { 1.0 };
        let cosine = (sums[2] / (norm(sums[0]) * norm(sums[1]))).clamp(-1.0, 1.0);
        let mut fit = if cosine.abs() > PARALLEL {
            Fit::new(move |block, out| line(t, block.base(), block.branch(0), out))
        } else {
            let angle = number::acos(cosine);
            let sine = number::sin(angle);
            let weights = [number::sin((1.0 - t) * angle) / sine, number::sin(t * angle) / sine];
            Fit::new(move |block, out| {
                combine::weighted_sum(&weights, &[block.base(), block.branch(0)], 1.0, out);
            })
        };
        fit.figures.numbers.push(("cosine", cosine));
        Ok(fit)
    }
}

vectorised! {
    fn line<R: Number>(t: f64, base: &[R], other: &[R], out: &mut [R]) {
        for ((out, &base), &other) in out.iter_mut().zip(base).zip(other) {
            let step = t * (other.to_f64() - base.to_f64());
            let value = R::from_f64(base.to_f64() + step);
            // Adding +0 to −0 would lose the base's sign.
            *out = if step == 0.0 { base } else { value };
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let t = case.parameters.number("t");
        let (base, other) = (&case.operands[0], &case.operands[1]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norm = |x: &[f64]| if dot(x, x).sqrt() > NO_NORM { dot(x, x).sqrt() } else { 1.0 };
        let cosine = (dot(base, other) / (norm(base) * norm(other))).clamp(-1.0, 1.0);
        let angle = cosine.acos();
        let weights = if cosine.abs() > PARALLEL {
            [1.0 - t, t]
        } else {
            [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
        };
        let along = |(b, x): (&f64, &f64)| weights[0] * b + weights[1] * x;
        vec![base.iter().zip(other).map(along).collect()]
    }

    check!(Slerp, naive, "a6f793a221d7fa34");
}
