//! `core_space`: TIES on the small matrices that are left of low-rank deltas in the directions that they share.

use super::parameters::{DENSITY, EVEN_WEIGHT, LAMBDA, normalize};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct CoreSpace;

static SPEC: Spec = Spec {
    name: "core_space",
    sentence: "turns the deltas into the small matrices that they are between directions that they share, and merges these as `ties` does",
    paper: "Panariello et al., Accurate and efficient low-rank model merging in core space, arXiv 2509.17786; the directions of the deltas \
            themselves, which do not depend on how an adapter splits its product",
    formula: "t = x − b; U the left singular vectors of [t₁ … tₙ], V the right ones of the Uᵀ·t below one another, at most n·rank of each (all \
              where rank is 0), the sides exchanged where rows outnumber columns; M = TIES(Uᵀ·t₁·V, …), with its density, weight and \
              normalize, all its singular values their mean where isotropic; y = b + λ·U·M·Vᵀ; directions below 1e-6 of the largest \
              are left out; y = b + λ·Σ w·t (divided by Σ w under normalize) for what is no map (embeddings, heads, one or more than two \
              dimensions)",
    guide: Guide {
        detail: "Nothing is lost where the deltas have the rank that is given; what there is beyond it is taken for noise.",
        when: "branches that were trained as LoRA adapters: `rank` is theirs",
        avoid: "branches that were trained whole: their core is as large as they are",
        example: "{\"density\": 0.5, \"rank\": 1}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        EVEN_WEIGHT,
        DENSITY,
        Parameter {
            name: "rank",
            kind: Type::Whole { low: 0.0, high: 65_536.0 },
            default: Some(Value::Number(0.0)),
            per: Per::Global,
            help: "directions that a branch brings, at most; 0: all that it has",
        },
        Parameter {
            name: "isotropic",
            kind: Type::Flag,
            default: Some(Value::Flag(false)),
            per: Per::Global,
            help: "make all singular values of the merged core their mean",
        },
        normalize(true),
        LAMBDA,
    ],
    check: combine::check_weights,
    passes: |parameters, _| 2 * parameters.branches.len() as u64 + 1,
    memory: |parameters, extent| {
        let (short, long) = (linalg::short_side(extent), extent.row.max(extent.rows()));
        let one = most(parameters.number("rank"), extent.branches).min(short);
        let all = extent.branches * one;
        let other = all.min(long);
        if !linalg::maps(extent.name, extent.row, extent.columns) {
            return 0;
        }
        // The deltas along the first directions, twice while those of the other side are found.
        let stage = 8 * (2 * all * long + linalg::EIGEN * other * other + one * short);
        linalg::with_leftovers(stage).max(linalg::memory(extent, short, &[(1, linalg::EIGEN)]))
    },
    bits: Bits::Machine,
    ..USUAL
};

/// How many directions all branches may bring.
fn most(rank: f64, branches: u64) -> u64 {
    if rank > 0.0 { (rank.ceil() as u64).saturating_mul(branches) } else { u64::MAX }
}

impl Method for CoreSpace {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        combine::check_weights(parameters)?;
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            return Ok(Combine::new(parameters, Vote::None).fit());
        }
        let most = most(parameters.number("rank"), tensor.branches() as u64) as usize;
        let left = tensor.elements / tensor.row_length <= tensor.row_length;
        let near = linalg::directions(tensor, left, most)?;
        let mut along = Vec::new();
        for i in 0..tensor.branches() {
            let delta = linalg::branch(tensor, i)?;
            let delta = if left { Factor::Plain(&delta) } else { Factor::Turned(&delta) };
            along.push(linalg::product(Factor::Plain(&near), delta)?);
        }
        let far = others(&along, most, tensor.name)?;
        let core = |part: &Matrix| linalg::product(Factor::Plain(part), Factor::Turned(&far));
        let cores = along.iter().map(core).collect::<Result<Vec<_>>>()?;
        drop(along);
        let mut merged = sparsify::ties(cores, parameters, &tensor.streams)?;
        if parameters.flag("isotropic") && !merged.values.is_empty() {
            merged = linalg::flat(&merged, 1.0, tensor.name)?;
        }
        let whole = if left {
            let half = linalg::product(Factor::Turned(&near), Factor::Plain(&merged))?;
            linalg::product(Factor::Plain(&half), Factor::Plain(&far))?
        } else {
            let half = linalg::product(Factor::Turned(&far), Factor::Turned(&merged))?;
            linalg::product(Factor::Plain(&half), Factor::Plain(&near))?
        };
        Ok(linalg::whole(whole))
    }
}

/// The directions of the rows of some matrices, one a row: by whichever products of theirs are smaller.
fn others(parts: &[Matrix], most: usize, tensor: &str) -> Result<Matrix> {
    let (rows, columns) = (parts[0].rows, parts[0].columns);
    let all = parts.len() * rows;
    if all > columns {
        let mut gram = Matrix::zeros(columns, columns)?;
        for part in parts {
            linalg::add_product(&mut gram, Factor::Turned(part), Factor::Plain(part), 1.0);
        }
        let (squares, vectors) = linalg::eigen(&gram, tensor)?;
        return Ok(linalg::leading(&squares, vectors, most));
    }
    let mut stack = Matrix::zeros(all, columns)?;
    for (rows, part) in stack.values.chunks_mut(rows.max(1) * columns).zip(parts) {
        rows.copy_from_slice(&part.values);
    }
    let gram = linalg::product(Factor::Plain(&stack), Factor::Turned(&stack))?;
    let (squares, vectors) = linalg::eigen(&gram, tensor)?;
    let vectors = linalg::leading(&squares, vectors, most);
    let mut far = linalg::product(Factor::Plain(&vectors), Factor::Plain(&stack))?;
    for (row, square) in far.values.chunks_mut(columns).zip(&squares) {
        row.iter_mut().for_each(|value| *value /= square.sqrt());
    }
    Ok(far)
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::{svd, turned};
    use crate::fit::properties::{Case, check_machine};

    type Rows = Vec<Vec<f64>>;

    fn times(left: &Rows, right: &Rows) -> Rows {
        let right = turned(right);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        left.iter().map(|row| right.iter().map(|column| dot(row, column)).collect()).collect()
    }

    /// The right singular vectors that are there, at most so many.
    fn directions(rows: &Rows, most: usize) -> Rows {
        let many = rows.first().is_some_and(|row| rows.len() > row.len());
        let (u, s, v) = if many { svd(&turned(rows)) } else { svd(rows) };
        let there = s.iter().take(most).filter(|value| **value > 1e-6 * s[0]).count();
        if many { u[..there].to_vec() } else { v[..there].to_vec() }
    }

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let rows = |delta: &Vec<f64>| delta.chunks(case.row).map(<[f64]>::to_vec).collect::<Rows>();
        let deltas: Vec<Rows> = case.deltas().iter().map(rows).collect();
        let rank = case.parameters.number("rank").ceil() as usize;
        let most = if rank == 0 { usize::MAX } else { rank * deltas.len() };
        // The shorter side first.
        let tall = deltas[0].len() > case.row;
        let deltas: Vec<Rows> =
            if tall { deltas.iter().map(|delta| turned(delta)).collect() } else { deltas };
        let left = directions(&deltas.iter().flat_map(|delta| turned(delta)).collect(), most);
        let along: Vec<Rows> = deltas.iter().map(|delta| times(&left, delta)).collect();
        let right = directions(&along.concat(), most);
        let core = |delta: &Rows| times(&times(&left, delta), &turned(&right)).concat();
        let parts: Vec<Vec<f64>> = deltas.iter().map(core).collect();
        let whole = |merged: Vec<f64>| {
            if merged.is_empty() {
                return vec![0.0; case.operands[0].len()];
            }
            let mut merged: Rows = merged.chunks(right.len()).map(<[f64]>::to_vec).collect();
            if case.parameters.flag("isotropic") {
                let (u, s, v) = svd(&merged);
                let mean = s.iter().sum::<f64>() / left.len().min(right.len()) as f64;
                let there = s.iter().filter(|value| **value > 1e-6 * s[0]).count();
                merged = times(&turned(&u[..there]), &v[..there].to_vec());
                merged.iter_mut().flatten().for_each(|value| *value *= mean);
            }
            let whole = times(&times(&turned(&left), &merged), &right);
            if tall { turned(&whole).concat() } else { whole.concat() }
        };
        let found = sparsify::naive_ties(case.parameters, &parts).into_iter().map(whole);
        case.on_base(found.collect())
    }

    check_machine!(CoreSpace, naive);
}
