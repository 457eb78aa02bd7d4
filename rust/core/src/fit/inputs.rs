//! What is known of the inputs that a tensor is multiplied with: Gram matrices `XᵀX`, stored beside the branches.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};

use crate::error::{Error, Result};
use crate::fit::linalg::{self, Matrix};
use crate::fit::method::Extent;
use crate::fit::number::Number;
use crate::fit::tensor::{Leaf, Tensor};
use crate::read::dtype::decode;

/// Rows of a Gram matrix that are read at once.
const BAND: usize = 128;

/// Whether a tensor is a matrix whose branches have Gram matrices.
#[must_use]
pub fn known<R: Number>(tensor: &Tensor<'_, R>) -> bool {
    !tensor.grams.is_empty() && linalg::maps(tensor.name, tensor.row_length, tensor.columns)
}

/// Σ G and Σ x·G over the branches x of a matrix, less the first one where they have no base; all of each G but its
/// diagonal is first multiplied with `off_diagonal`.
pub fn weighed<R: Number>(tensor: &Tensor<'_, R>, off_diagonal: f64) -> Result<(Matrix, Matrix)> {
    let size = tensor.row_length as usize;
    let mut sum = Matrix::zeros(size, size)?;
    let mut weighed = linalg::empty(tensor)?;
    for (i, gram) in tensor.grams.iter().enumerate() {
        let mut branch = linalg::branch(tensor, i)?;
        if !tensor.has_base {
            branch.add(tensor, 0, -1.0)?;
        }
        add(&mut sum, &mut weighed, &branch, gram, off_diagonal)
            .map_err(|error| error.tensor(tensor.name))?;
    }
    Ok((sum, weighed))
}

fn add(
    sum: &mut Matrix,
    weighed: &mut Matrix,
    branch: &Matrix,
    gram: &Leaf<'_>,
    off_diagonal: f64,
) -> Result<()> {
    let size = sum.columns;
    let mut band = Matrix::zeros(BAND.min(size), size)?;
    let mut buffer = Vec::new();
    for first in (0..size).step_by(BAND) {
        let rows = BAND.min(size - first);
        let here = &mut band.values[..rows * size];
        let range = (first * size) as u64..((first + rows) * size) as u64;
        let finite = decode(gram.stored.dtype, gram.bytes(range, &mut buffer)?, here)?;
        gram.source.intact()?;
        if !finite {
            let what = format!("its Gram matrix is not finite in rows {first} to {}", first + rows);
            return Err(wrong(gram, what));
        }
        for (row, values) in here.chunks_mut(size).enumerate() {
            let row = first + row;
            let diagonal = values[row];
            values.iter_mut().for_each(|value| *value *= off_diagonal);
            values[row] = diagonal;
            let sums = &mut sum.values[row * size..(row + 1) * size];
            sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
        }
        let of_band = branch.view().subcols(first, rows);
        let band = MatRef::from_row_major_slice(here, rows, size);
        matmul(weighed.view_mut(), Accum::Add, of_band, band, 1.0, Par::Seq);
    }
    Ok(())
}

/// The squares of what each branch of a vector is multiplied with, where they are known.
pub fn squares<R: Number>(tensor: &Tensor<'_, R>) -> Result<Vec<Vec<f64>>> {
    let vectors = tensor.grams.iter().filter(|gram| gram.stored.shape.len() == 1);
    vectors
        .map(|gram| {
            let mut values = vec![0.0f64; gram.stored.elements() as usize];
            let mut buffer = Vec::new();
            let bytes = gram.bytes(0..gram.stored.elements(), &mut buffer)?;
            decode(gram.stored.dtype, bytes, &mut values)?;
            gram.source.intact()?;
            if values.iter().all(|value| value.is_finite() && *value >= 0.0) {
                return Ok(values);
            }
            let what = "its squares are not all finite numbers of 0 and more".into();
            Err(wrong(gram, what).tensor(tensor.name))
        })
        .collect()
}

fn wrong(gram: &Leaf<'_>, what: String) -> Error {
    Error::malformed(what).branch(gram.label).path(gram.source.path())
}

/// What reading takes of memory, in bytes: a band as numbers, and as it is stored.
#[must_use]
pub fn memory(extent: &Extent<'_>) -> u64 {
    2 * 8 * (BAND as u64).min(extent.row) * extent.row
}
