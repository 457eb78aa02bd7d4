//! `tsv_m`: the leading singular directions of each delta, made orthogonal to those of the others, and added.

use super::parameters::{LAMBDA, WEIGHT};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct TsvM;

/// Directions of the stacked vectors below this share of the largest are left out, squared.
const LOST: f64 = 1e-12;

static SPEC: Spec = Spec {
    name: "tsv_m",
    sentence: "keeps the leading singular directions of each delta, turns them out of each other's way, and adds them",
    paper: "Gargiulo et al., Task singular vectors (TSV-Merge), arXiv 2412.00081, and its released code",
    formula: "x − b ≈ U_i·S_i·V_iᵀ, the ⌊min(rows, columns)/n⌋ largest singular values of each of n branches; U = [U_1 … U_n], V alike, S the \
              w_i·S_i; y = b + λ·U(UᵀU)^−½·S·(VᵀV)^−½Vᵀ; y = b + λ·Σ w·(x − b)/n for what is no map (embeddings, heads, one or \
              more than two dimensions)",
    guide: Guide {
        detail: "Two branches that use one direction for different things would spoil each other there.",
        when: "several branches of one base whose changes lie in few directions",
        avoid: "changes are spread over all directions, as after long full fine-tuning: most of them are cut off",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            default: Some(Value::Number(1.0)),
            help: "factor of the branch's singular values",
            ..WEIGHT
        },
        LAMBDA,
    ],
    passes: |parameters, _| parameters.branches.len() as u64 + 1,
    // A delta while its eigenvectors are found, and the stacked vectors, of which one side is square.
    memory: |_, extent| {
        linalg::memory(extent, linalg::short_side(extent), &[(2, linalg::EIGEN + 1)])
    },
    bits: Bits::Machine,
    ..USUAL
};

impl Method for TsvM {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        let weights = parameters.numbers("weight");
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            let weight = |weight: &f64| scale * weight / count as f64;
            return Ok(Mixture::Tensor(weights.iter().map(weight).collect()).fit());
        }
        let columns = tensor.row_length as usize;
        let rows = tensor.elements as usize / columns;
        let kept = rows.min(columns) / count;
        let mut left = Matrix::zeros(count * kept, rows)?;
        let mut right = Matrix::zeros(count * kept, columns)?;
        let mut values = Vec::with_capacity(count * kept);
        for i in 0..count {
            let delta = linalg::branch(tensor, i)?;
            let spectrum = Spectrum::of(&delta, tensor.name)?;
            let place = i * kept;
            stack(&delta, &spectrum, kept, place, &mut left, &mut right)?;
            values.extend(spectrum.values[..kept].iter().map(|value| scale * weights[i] * value));
        }
        // Vectors are rows here: (UᵀU)^−½ is of the products of rows.
        let middle = {
            let (before, after) =
                (inverse_root(&left, tensor.name)?, inverse_root(&right, tensor.name)?);
            let mut scaled = after;
            for (row, value) in scaled.values.chunks_mut(scaled.columns.max(1)).zip(&values) {
                row.iter_mut().for_each(|element| *element *= value);
            }
            linalg::product(Factor::Plain(&before), Factor::Plain(&scaled))?
        };
        let half = linalg::product(Factor::Plain(&middle), Factor::Plain(&right))?;
        drop(right);
        Ok(linalg::whole(linalg::product(Factor::Turned(&left), Factor::Plain(&half))?))
    }
}

/// Puts the leading left and right singular vectors of a delta, one a row, at a place.
fn stack(
    delta: &Matrix,
    spectrum: &Spectrum,
    kept: usize,
    place: usize,
    left: &mut Matrix,
    right: &mut Matrix,
) -> Result<()> {
    let side = spectrum.vectors.columns;
    let values = spectrum.vectors.values[..kept * side].to_vec();
    let near = Matrix { rows: kept, columns: side, values };
    let mut far = if spectrum.left {
        linalg::product(Factor::Plain(&near), Factor::Plain(delta))?
    } else {
        linalg::product(Factor::Plain(&near), Factor::Turned(delta))?
    };
    for (row, value) in far.values.chunks_mut(far.columns.max(1)).zip(&spectrum.values) {
        let factor = if *value > 0.0 { 1.0 / value } else { 0.0 };
        row.iter_mut().for_each(|element| *element *= factor);
    }
    let (ours, theirs) = if spectrum.left { (near, far) } else { (far, near) };
    left.values[place * left.columns..][..ours.values.len()].copy_from_slice(&ours.values);
    right.values[place * right.columns..][..theirs.values.len()].copy_from_slice(&theirs.values);
    Ok(())
}

/// (M·Mᵀ)^−½ on the directions that M has.
fn inverse_root(matrix: &Matrix, tensor: &str) -> Result<Matrix> {
    let gram = linalg::product(Factor::Plain(matrix), Factor::Turned(matrix))?;
    let (values, vectors) = linalg::eigen(&gram, tensor)?;
    drop(gram);
    let cut = values.first().map_or(0.0, |largest| largest * LOST);
    let root = |&value: &f64| if value > cut { 1.0 / value.sqrt() } else { 0.0 };
    let factors: Vec<f64> = values.iter().map(root).collect();
    Spectrum { values, vectors, left: true }.filter(&factors)
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::svd;
    use crate::fit::properties::{Case, check_machine};

    /// The rows of the orthogonal factor of a matrix given by rows.
    fn polar(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (u, s, v) = svd(rows);
        let length = rows.first().map_or(0, Vec::len);
        let row = |r: usize| {
            let at = |c: usize| (0..s.len()).map(|k| u[k][r] * v[k][c]).sum();
            (0..length).map(at).collect()
        };
        (0..rows.len()).map(row).collect()
    }

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, weights) = (case.deltas(), case.parameters.numbers("weight"));
        let rows = deltas[0].len() / case.row;
        let kept = rows.min(case.row) / deltas.len();
        let (mut left, mut right, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (delta, weight) in deltas.iter().zip(&weights) {
            let (u, s, v) = svd(&delta.chunks(case.row).map(<[f64]>::to_vec).collect::<Vec<_>>());
            left.extend(u.into_iter().take(kept));
            right.extend(v.into_iter().take(kept));
            values.extend(s.iter().take(kept).map(|s| s * weight));
        }
        let (left, right) = (polar(&left), polar(&right));
        let element = |e: usize| {
            let (row, column) = (e / case.row, e % case.row);
            let terms = (0..values.len()).map(|k| left[k][row] * values[k] * right[k][column]);
            case.parameters.number("lambda") * terms.sum::<f64>()
        };
        case.on_base(vec![(0..deltas[0].len()).map(element).collect()])
    }

    check_machine!(TsvM, naive);
}
