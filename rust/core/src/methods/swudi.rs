//! `swudi`: the delta that disturbs each branch's own directions least, in closed form.

use super::parameters::LAMBDA;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Swudi;

/// Eigenvalues below this share of the largest are taken for 0.
const LOST: f64 = 1e-12;

static SPEC: Spec = Spec {
    name: "swudi",
    sentence: "adds the delta that disturbs least what each branch does on the inputs that it was trained on, guessed from its delta",
    paper: "Cheng et al., Whoever started the interference should end it (WUDI), arXiv 2503.08099; closed form after arXiv 2606.07289",
    formula: "t = x − b; C = Σ tᵀt/|t|² = V·Λ·Vᵀ, D = Σ t·(tᵀt)/|t|²; φ = 1 − exp(−time·Λ) (1 where time is 0) on the ⌊keep·columns⌋ \
              largest Λ, else 0; T₀ = Σ t (mean: divided by n); y = b + λ·(T₀ + (D·V·Λ⁻¹ − T₀·V)·φ·Vᵀ); \
              y = b + λ·T₀ for what is no map (embeddings, heads, one or more than two dimensions)",
    guide: Guide {
        detail: "It is where gradient descent on Σ |(T − t)·tᵀ|²/|t|² from the sum of the deltas is after some time.",
        when: "several branches of one base with strong interference, and time and memory for eigenvectors of columns by columns",
        avoid: "memory is short: it needs several matrices of columns by columns, 13824 of them 1.5 GB each",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "time",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(300.0)),
            per: Per::Global,
            help: "how long the descent goes; 0: to its end",
        },
        Parameter {
            name: "keep",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(0.85)),
            per: Per::Global,
            help: "share of the columns' directions that it goes along, the largest",
        },
        Parameter {
            name: "start",
            kind: Type::Choice(&["sum", "mean"]),
            default: Some(Value::Choice("sum")),
            per: Per::Global,
            help: "where it starts: the sum of the deltas, or their mean",
        },
        LAMBDA,
    ],
    passes: |parameters, _| 2 * parameters.branches.len() as u64 + 1,
    // The start and the pull while the eigenvectors of the columns are found; then both along them.
    memory: |_, extent| linalg::memory(extent, extent.row, &[(2, linalg::EIGEN), (3, 2), (4, 1)]),
    bits: Bits::Machine,
    ..USUAL
};

impl Method for Swudi {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        let share = if parameters.choice("start") == "mean" { 1.0 / count as f64 } else { 1.0 };
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            return Ok(Mixture::Tensor(vec![scale * share; count]).fit());
        }
        let columns = tensor.row_length as usize;
        let mut start = linalg::empty(tensor)?;
        let mut pull = linalg::empty(tensor)?;
        let mut inputs = Matrix::zeros(columns, columns)?;
        for i in 0..count {
            let delta = linalg::branch(tensor, i)?;
            let square = delta.square();
            start
                .values
                .iter_mut()
                .zip(&delta.values)
                .for_each(|(sum, value)| *sum += share * value);
            if square > 0.0 {
                let own = linalg::product(Factor::Turned(&delta), Factor::Plain(&delta))?;
                linalg::add_product(
                    &mut pull,
                    Factor::Plain(&delta),
                    Factor::Plain(&own),
                    1.0 / square,
                );
                inputs
                    .values
                    .iter_mut()
                    .zip(own.values)
                    .for_each(|(sum, value)| *sum += value / square);
            }
        }
        let (values, vectors) = linalg::eigen(&inputs, tensor.name)?;
        drop(inputs);
        // In the directions of the eigenvectors, one a column.
        let mut along = linalg::product(Factor::Plain(&start), Factor::Turned(&vectors))?;
        let pulled = linalg::product(Factor::Plain(&pull), Factor::Turned(&vectors))?;
        drop(pull);
        let filter = filter(&values, parameters.number("time"), parameters.number("keep"));
        for (row, pulled) in along.values.chunks_mut(columns).zip(pulled.values.chunks(columns)) {
            for (e, (value, pulled)) in row.iter_mut().zip(pulled).enumerate() {
                *value =
                    if filter[e] > 0.0 { filter[e] * (pulled / values[e] - *value) } else { 0.0 };
            }
        }
        drop(pulled);
        linalg::add_product(&mut start, Factor::Plain(&along), Factor::Plain(&vectors), 1.0);
        start.values.iter_mut().for_each(|value| *value *= scale);
        Ok(linalg::whole(start))
    }
}

/// How far the descent has gone along each direction; 0 for those that it does not go along.
fn filter(values: &[f64], time: f64, keep: f64) -> Vec<f64> {
    let cut = values.first().map_or(0.0, |largest| largest * LOST);
    let kept = (keep * values.len() as f64) as usize;
    let gone = |(number, &value): (usize, &f64)| match value > cut && number < kept {
        false => 0.0,
        true if time == 0.0 => 1.0,
        true => 1.0 - Number::exp(-time * value),
    };
    values.iter().enumerate().map(gone).collect()
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::svd;
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let deltas = case.deltas();
        let (n, all, row) = (deltas.len(), deltas[0].len(), case.row);
        let share = if case.parameters.choice("start") == "mean" { 1.0 / n as f64 } else { 1.0 };
        let start: Vec<f64> =
            (0..all).map(|e| share * deltas.iter().map(|d| d[e]).sum::<f64>()).collect();
        // C is of the stacked rows over their norms: their right singular vectors are its eigenvectors.
        let norm = |d: &Vec<f64>| d.iter().map(|x| x * x).sum::<f64>().sqrt();
        let unit = |d: &Vec<f64>| -> Vec<Vec<f64>> {
            d.chunks(row).map(|r| r.iter().map(|x| x / norm(d)).collect()).collect()
        };
        let moved = deltas.iter().filter(|d| norm(d) > 0.0);
        let (_, s, v) = svd(&moved.clone().flat_map(unit).collect::<Vec<_>>());
        let kept = (case.parameters.number("keep") * row as f64) as usize;
        let time = case.parameters.number("time");
        let mut merged = start.clone();
        for (k, (s, v)) in s.iter().zip(&v).enumerate() {
            let value = s * s;
            if k >= kept || value <= 1e-12 * s.max(1e-300) * s {
                continue;
            }
            let gone = if time == 0.0 { 1.0 } else { 1.0 - (-time * value).exp() };
            let dot = |r: &[f64]| r.iter().zip(v).map(|(x, y)| x * y).sum::<f64>();
            for (r, first) in (0..all).step_by(row).enumerate() {
                let at = first..first + row;
                let pull: f64 = moved
                    .clone()
                    .map(|d| {
                        let along: Vec<f64> = d.chunks(row).map(dot).collect();
                        let own = |c: usize| {
                            d.chunks(row).zip(&along).map(|(x, a)| x[c] * a).sum::<f64>()
                        };
                        let _ = r;
                        (0..row).map(|c| d[first + c] * own(c)).sum::<f64>() / norm(d).powi(2)
                    })
                    .sum();
                let step = gone * (pull / value - dot(&start[at.clone()]));
                at.zip(v).for_each(|(e, y)| merged[e] += step * y);
            }
        }
        let scale = case.parameters.number("lambda");
        case.on_base(vec![merged.iter().map(|value| scale * value).collect()])
    }

    check_machine!(Swudi, naive);
}
