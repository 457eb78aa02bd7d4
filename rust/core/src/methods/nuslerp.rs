//! `nuslerp`: along the great circle from one model (or its delta) to another, for the tensor, each row or each column.

use super::parameters::WEIGHT;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct NuSlerp;

/// Below this sine the circle is taken for a line.
const PARALLEL: f64 = 1e-8;
/// Weights whose sum is below this share of their magnitudes count alike.
const NOTHING: f64 = 1e-6;

static SPEC: Spec = Spec {
    name: "nuslerp",
    sentence: "goes from one model to another along the great circle of their directions; with a base, of what they changed",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; the weights and the base are mergekit's",
    formula: "t = w₂/(w₁ + w₂), ½ where that is 0; θ the angle of d₁ and d₂, d = x − b or x; \
              y = b + (sin((1−t)θ)·d₁ + sin(tθ)·d₂)/sin θ, where sin θ < 1e-8 b + (1−t)·d₁ + t·d₂",
    guide: Guide {
        detail: "Two weights take the place of t, and rows or columns may have angles of their own.",
        when: "two branches changed a base in different directions, and the size of the change should be kept",
        avoid: "there are more than two models (`multislerp`, `karcher`)",
        example: "{\"weight\": [0.5, 0.5]}",
    },
    space: Space::Delta,
    grain: Grain::Row,
    base: Base::Optional,
    fewest: 2,
    most: Some(2),
    parameters: &[
        WEIGHT,
        Parameter {
            name: "angle",
            kind: Type::Choice(&["flags", "tensor", "row", "column"]),
            default: Some(Value::Choice("flags")),
            per: Per::Global,
            help: "what has an angle of its own: the tensor, each row (the last dimension), or each column (the first); flags: as mergekit's two flags say",
        },
        Parameter {
            name: "nuslerp_flatten",
            kind: Type::Flag,
            default: Some(Value::Flag(true)),
            per: Per::Global,
            help: "mergekit's word for angle: tensor",
        },
        Parameter {
            name: "nuslerp_row_wise",
            kind: Type::Flag,
            default: Some(Value::Flag(false)),
            per: Per::Global,
            help: "mergekit's word, without flatten, for angle: column; false means angle: row",
        },
    ],
    differences: &[
        "norms and dot products are summed in f64, and the result is rounded once",
        "an angle with a zero vector is taken for 0, so that it is a line; mergekit takes it for a right angle, and norms below 1e-7 for 1e-7",
        "`angle` says plainly what nuslerp_row_wise, which means columns, and nuslerp_flatten say",
    ],
    passes: |_, _| 2,
    memory: |parameters, extent| match angle(parameters) {
        "row" => gram::memory_by_row(extent, 2),
        "column" => gram::memory_by_column(extent, 2),
        _ => 0,
    },
    ..USUAL
};

/// What has an angle of its own.
fn angle(parameters: &Parameters) -> &'static str {
    match parameters.choice("angle") {
        "flags" if parameters.flag("nuslerp_flatten") => "tensor",
        "flags" if parameters.flag("nuslerp_row_wise") => "column",
        "flags" => "row",
        said => said,
    }
}

impl Method for NuSlerp {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let t = share(&parameters.numbers("weight"));
        let mixture = match angle(parameters) {
            "row" => {
                let weights = gram::by_row(tensor, |gram| weights(gram, t).to_vec())?;
                Mixture::Rows { length: tensor.row_length, weights }
            }
            "column" => {
                let weights = gram::by_column(tensor, |gram| weights(gram, t))?;
                Mixture::Columns([0, 1].map(|i| weights.iter().map(|of| of[i]).collect()).into())
            }
            _ => {
                let gram = gram::products(tensor)?;
                let mut fit = Mixture::Tensor(weights(&gram, t).to_vec()).fit();
                fit.figures.numbers.push(("cosine", gram.cosine(0, 1)));
                return Ok(fit);
            }
        };
        Ok(mixture.fit())
    }
}

/// How far from the first model to the second.
fn share(weights: &[f64]) -> f64 {
    let (sum, size) = (weights[0] + weights[1], weights[0].abs() + weights[1].abs());
    if sum.abs() > NOTHING * size { weights[1] / sum } else { 0.5 }
}

fn weights(gram: &Gram, t: f64) -> [f64; 2] {
    let zero = gram.norm(0) == 0.0 || gram.norm(1) == 0.0;
    let cosine = if zero { 1.0 } else { gram.cosine(0, 1) };
    let sine = ((1.0 - cosine) * (1.0 + cosine)).sqrt();
    if sine < PARALLEL {
        return [1.0 - t, t];
    }
    let angle = number::acos(cosine);
    [number::sin((1.0 - t) * angle) / sine, number::sin(t * angle) / sine]
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let w = case.parameters.numbers("weight");
        let t = if (w[0] + w[1]).abs() < 1e-6 { 0.5 } else { w[1] / (w[0] + w[1]) };
        let deltas = case.deltas();
        let count = deltas[0].len();
        // What shares an angle with an element.
        let class = |e: usize| match angle(case.parameters) {
            "row" => e / case.row,
            "column" => e % case.row,
            _ => 0,
        };
        let mut dots = vec![[0.0; 3]; count];
        for e in 0..count {
            let (one, two) = (deltas[0][e], deltas[1][e]);
            let terms = [one * one, one * two, two * two];
            dots[class(e)].iter_mut().zip(terms).for_each(|(dot, term)| *dot += term);
        }
        let element = |e: usize| {
            let [one, both, two] = dots[class(e)];
            let norms = one.sqrt() * two.sqrt();
            let cosine = if norms > 0.0 { (both / norms).clamp(-1.0, 1.0) } else { 1.0 };
            let (angle, d) = (cosine.acos(), [deltas[0][e], deltas[1][e]]);
            if angle.sin() < 1e-8 {
                return (1.0 - t) * d[0] + t * d[1];
            }
            (((1.0 - t) * angle).sin() * d[0] + (t * angle).sin() * d[1]) / angle.sin()
        };
        case.on_base(vec![(0..count).map(element).collect()])
    }

    check!(NuSlerp, naive, "c4e038e4158d5472");
}
