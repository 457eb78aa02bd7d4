//! Dense matrices in double precision, for methods that need singular directions: products and eigenvectors by faer, one
//! thread a matrix, so that the bits depend on the processor alone.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::error::{Error, Kind, Result};
use crate::fit::method::{Extent, Fit};
use crate::fit::mixture::Mixture;
use crate::fit::number::Number;
use crate::fit::tensor::{BLOCK, Reader, Tensor};

/// Singular values below this share of the largest are taken for 0: the squares of smaller ones are lost beside its square.
const CUT: f64 = 1e-6;
/// Parts of the names of embeddings and heads: a row a token, which no singular direction goes through.
const EMBEDDINGS: [&str; 6] =
    ["embed", "wte", "wpe", "lm_head", "word_embeddings", "output.weight"];

/// Whether a tensor is a matrix that maps activations: two dimensions, and no embedding or head.
#[must_use]
pub fn maps(name: &str, row: u64, columns: u64) -> bool {
    row == columns && row > 0 && !EMBEDDINGS.iter().any(|part| name.contains(part))
}

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// How many rows.
    pub rows: usize,
    /// How many columns.
    pub columns: usize,
    /// The elements.
    pub values: Vec<f64>,
}

impl Matrix {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory` where there is no room.
    pub fn zeros(rows: usize, columns: usize) -> Result<Self> {
        let mut values = Vec::new();
        let count = rows.saturating_mul(columns);
        values
            .try_reserve_exact(count)
            .map_err(|_| Error::from(Kind::OutOfMemory { needed: count as u64 * 8 }))?;
        values.resize(count, 0.0);
        Ok(Self { rows, columns, values })
    }

    pub(super) fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.values, self.rows, self.columns)
    }

    pub(super) fn view_mut(&mut self) -> MatMut<'_, f64> {
        MatMut::from_row_major_slice_mut(&mut self.values, self.rows, self.columns)
    }

    /// A row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// The sum of the squares of all elements.
    #[must_use]
    pub fn square(&self) -> f64 {
        self.values.iter().map(|value| value * value).sum()
    }

    /// Adds `factor` times a branch of a tensor (its delta, where the tensor works on deltas).
    pub fn add<R: Number>(
        &mut self,
        tensor: &Tensor<'_, R>,
        branch: usize,
        factor: f64,
    ) -> Result<()> {
        let mut reader = Reader::new(tensor, BLOCK);
        for chunk in 0..tensor.chunks() {
            reader.read(tensor.chunk(chunk), |raw, scratch| {
                tensor.blocks(raw, scratch, |block| {
                    let start = block.start as usize;
                    let here = &mut self.values[start..start + block.length];
                    let elements = here.iter_mut().zip(block.branch(branch));
                    elements.for_each(|(sum, value)| *sum += factor * value.to_f64());
                })
            })?;
        }
        Ok(())
    }

    /// The elements as numbers of a kernel.
    pub fn rounded<R: Number>(self) -> Vec<R> {
        self.values.into_iter().map(R::from_f64).collect()
    }
}

/// A branch of a tensor as a matrix.
pub fn branch<R: Number>(tensor: &Tensor<'_, R>, branch: usize) -> Result<Matrix> {
    let mut matrix = empty(tensor)?;
    matrix.add(tensor, branch, 1.0)?;
    Ok(matrix)
}

/// Zeros in the shape of a tensor of two dimensions.
pub fn empty<R: Number>(tensor: &Tensor<'_, R>) -> Result<Matrix> {
    let columns = tensor.row_length as usize;
    Matrix::zeros(tensor.elements as usize / columns.max(1), columns)
}

/// A factor of a product: a matrix, or its transpose.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'m> {
    /// As it is.
    Plain(&'m Matrix),
    /// Its rows and columns exchanged.
    Turned(&'m Matrix),
}

impl<'m> Factor<'m> {
    fn view(self) -> MatRef<'m, f64> {
        match self {
            Self::Plain(matrix) => matrix.view(),
            Self::Turned(matrix) => matrix.view().transpose(),
        }
    }
}

/// left · right.
pub fn product(left: Factor<'_>, right: Factor<'_>) -> Result<Matrix> {
    let mut result = Matrix::zeros(left.view().nrows(), right.view().ncols())?;
    add_product(&mut result, left, right, 1.0);
    Ok(result)
}

/// Adds factor · left · right.
pub fn add_product(result: &mut Matrix, left: Factor<'_>, right: Factor<'_>, factor: f64) {
    matmul(result.view_mut(), Accum::Add, left.view(), right.view(), factor, Par::Seq);
}

/// Makes X of X·S = `right`, in its place; S is symmetric and positive definite, and is used up.
pub fn solve(mut symmetric: Matrix, right: &mut Matrix, tensor: &str) -> Result<()> {
    let size = symmetric.rows;
    let scratch =
        llt::factor::cholesky_in_place_scratch::<f64>(size, Par::Seq, faer::Spec::default());
    let mut memory = MemBuffer::try_new(scratch)
        .map_err(|_| Error::from(Kind::OutOfMemory { needed: scratch.size_bytes() as u64 }))?;
    let stack = MemStack::new(&mut memory);
    let factored = llt::factor::cholesky_in_place(
        symmetric.view_mut(),
        llt::factor::LltRegularization::default(),
        Par::Seq,
        stack,
        faer::Spec::default(),
    );
    if factored.is_ok() {
        let turned = right.view_mut().transpose_mut();
        llt::solve::solve_in_place(symmetric.view(), turned, Par::Seq, stack);
    }
    if factored.is_err() || !right.values.iter().all(|value| value.is_finite()) {
        let what = "the matrix to divide by is singular";
        return Err(Error::malformed(what).tensor(tensor));
    }
    Ok(())
}

/// Eigenvalues in descending order, and the eigenvectors, one a row, of a symmetric matrix.
pub fn eigen(matrix: &Matrix, tensor: &str) -> Result<(Vec<f64>, Matrix)> {
    let size = matrix.rows;
    if size == 0 {
        return Ok((Vec::new(), Matrix::zeros(0, 0)?));
    }
    let mut vectors = Mat::<f64>::zeros(size, size);
    let mut values = faer::diag::Diag::<f64>::zeros(size);
    let scratch = self_adjoint_evd_scratch::<f64>(
        size,
        ComputeEigenvectors::Yes,
        Par::Seq,
        faer::Spec::default(),
    );
    let mut memory = MemBuffer::try_new(scratch)
        .map_err(|_| Error::from(Kind::OutOfMemory { needed: scratch.size_bytes() as u64 }))?;
    let found = self_adjoint_evd(
        matrix.view(),
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut memory),
        faer::Spec::default(),
    );
    if found.is_err() || !values.column_vector().iter().all(|value| value.is_finite()) {
        let what = "its singular directions were not found: another method may merge it";
        return Err(Error::malformed(what).tensor(tensor));
    }
    drop(memory);
    let mut turned = Matrix::zeros(size, size)?;
    let mut descending = Vec::with_capacity(size);
    for (row, column) in (0..size).rev().enumerate() {
        descending.push(values.column_vector()[column]);
        let vector = vectors.col(column);
        let out = &mut turned.values[row * size..(row + 1) * size];
        out.iter_mut().zip(vector.iter()).for_each(|(out, value)| *out = *value);
    }
    Ok((descending, turned))
}

/// The singular values of a matrix, and its singular vectors on the side where it is shorter.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// The singular values in descending order; those that are lost beside the largest are 0.
    pub values: Vec<f64>,
    /// The vectors, one a row.
    pub vectors: Matrix,
    /// Whether they are the left ones: there are no more rows than columns.
    pub left: bool,
}

impl Spectrum {
    /// By the eigenvectors of M·Mᵀ or Mᵀ·M, whichever is smaller.
    pub fn of(matrix: &Matrix, tensor: &str) -> Result<Self> {
        let left = matrix.rows <= matrix.columns;
        let (plain, turned) = (Factor::Plain(matrix), Factor::Turned(matrix));
        let gram = if left { product(plain, turned)? } else { product(turned, plain)? };
        let (squares, vectors) = eigen(&gram, tensor)?;
        let cut = squares.first().map_or(0.0, |largest| largest.max(0.0) * CUT * CUT);
        let values = squares.iter().map(|&square| if square > cut { square.sqrt() } else { 0.0 });
        Ok(Self { values: values.collect(), vectors, left })
    }

    /// The matrix with each singular value multiplied by a factor of its own.
    pub fn scaled(&self, matrix: &Matrix, factors: &[f64]) -> Result<Matrix> {
        let map = self.filter(factors)?;
        if self.left {
            product(Factor::Plain(&map), Factor::Plain(matrix))
        } else {
            product(Factor::Plain(matrix), Factor::Plain(&map))
        }
    }

    /// Σ f·v·vᵀ of the vectors.
    pub fn filter(&self, factors: &[f64]) -> Result<Matrix> {
        let mut scaled = self.vectors.clone();
        for (row, factor) in scaled.values.chunks_mut(scaled.columns.max(1)).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
        product(Factor::Turned(&self.vectors), Factor::Plain(&scaled))
    }
}

/// A matrix with all its singular values made `scale` times their mean; those that are lost stay so.
pub fn flat(matrix: &Matrix, scale: f64, tensor: &str) -> Result<Matrix> {
    let spectrum = Spectrum::of(matrix, tensor)?;
    let mean = spectrum.values.iter().sum::<f64>() / spectrum.values.len() as f64;
    let flat = |value: &f64| if *value > 0.0 { scale * mean / value } else { 0.0 };
    let factors: Vec<f64> = spectrum.values.iter().map(flat).collect();
    spectrum.scaled(matrix, &factors)
}

/// The directions in which any branch of a matrix goes, one a row, the largest first: of its columns where `left`, else of
/// its rows; at most so many.
pub fn directions<R: Number>(tensor: &Tensor<'_, R>, left: bool, most: usize) -> Result<Matrix> {
    let shape = empty(tensor)?;
    let side = if left { shape.rows } else { shape.columns };
    drop(shape);
    let mut gram = Matrix::zeros(side, side)?;
    for i in 0..tensor.branches() {
        let branch = branch(tensor, i)?;
        let (plain, turned) = (Factor::Plain(&branch), Factor::Turned(&branch));
        let (one, other) = if left { (plain, turned) } else { (turned, plain) };
        add_product(&mut gram, one, other, 1.0);
    }
    let (squares, vectors) = eigen(&gram, tensor.name)?;
    Ok(leading(&squares, vectors, most))
}

/// The vectors whose singular values are not lost beside the largest, at most so many.
#[must_use]
pub fn leading(squares: &[f64], mut vectors: Matrix, most: usize) -> Matrix {
    let cut = squares.first().map_or(0.0, |largest| largest.max(0.0) * CUT * CUT);
    let there = squares.iter().take(most).filter(|&&square| square > cut).count();
    vectors.values.truncate(there * vectors.columns);
    vectors.rows = there;
    vectors
}

/// What a matrix that was made whole gives to each block.
#[must_use]
pub fn whole<R: Number>(merged: Matrix) -> Fit<R> {
    let merged: Vec<R> = merged.rounded();
    Fit::new(move |block, out| {
        let start = block.start as usize;
        out.copy_from_slice(&merged[start..start + block.length]);
    })
}

/// `scale` times the mean of the branches: what tensors get that are no maps.
#[must_use]
pub fn mean<R: Number>(branches: usize, scale: f64) -> Fit<R> {
    Mixture::Tensor(vec![scale / branches as f64; branches]).fit()
}

/// What the matrices of a fit take at most, in bytes: each stage says how many of the tensor's own shape it holds at once, and
/// how many with `side` rows and columns. Nothing for tensors that are no maps.
#[must_use]
pub fn memory(extent: &Extent<'_>, side: u64, stages: &[(u64, u64)]) -> u64 {
    if !maps(extent.name, extent.row, extent.columns) {
        return 0;
    }
    // What finds eigenvectors takes a twentieth of a square besides.
    let stage = |&(shaped, square): &(u64, u64)| {
        8 * (shaped * extent.elements + square * side * side) + side * side / 2
    };
    let widest = stages.iter().map(stage).max().unwrap_or(0);
    // At the end a result is rounded beside what it was made of.
    with_leftovers(widest.max((2 * 8 + extent.number) * extent.elements))
}

/// So many bytes of matrices, and what the allocator keeps of those that were there before: it gives back large pieces alone.
#[must_use]
pub fn with_leftovers(bytes: u64) -> u64 {
    bytes + (bytes / 3).min(96 << 20)
}

/// The shorter side of a matrix.
#[must_use]
pub fn short_side(extent: &Extent<'_>) -> u64 {
    extent.row.min(extent.rows())
}

/// Squares that finding eigenvectors takes: the matrix, the vectors twice, and the library's own.
pub const EIGEN: u64 = 5;

#[cfg(test)]
pub(crate) mod naive {
    /// Columns for rows.
    pub(crate) fn turned(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let length = rows.first().map_or(0, Vec::len);
        (0..length).map(|c| rows.iter().map(|row| row[c]).collect()).collect()
    }

    /// X of X·S = `right`, for one row, by elimination.
    pub(crate) fn solve(symmetric: &[Vec<f64>], right: Vec<f64>) -> Vec<f64> {
        let (mut rows, mut right) = (symmetric.to_vec(), right);
        for pivot in 0..rows.len() {
            for below in pivot + 1..rows.len() {
                let factor = rows[below][pivot] / rows[pivot][pivot];
                for column in pivot..rows.len() {
                    rows[below][column] -= factor * rows[pivot][column];
                }
                right[below] -= factor * right[pivot];
            }
        }
        for row in (0..rows.len()).rev() {
            let known: f64 = (row + 1..rows.len()).map(|c| rows[row][c] * right[c]).sum();
            right[row] = (right[row] - known) / rows[row][row];
        }
        right
    }

    /// U, σ and Vᵀ of the rows of a matrix, by rotations that make its rows orthogonal (one-sided Jacobi).
    pub(crate) fn svd(rows: &[Vec<f64>]) -> (Vec<Vec<f64>>, Vec<f64>, Vec<Vec<f64>>) {
        let count = rows.len();
        let mut turned = rows.to_vec();
        let mut left: Vec<Vec<f64>> =
            (0..count).map(|i| (0..count).map(|j| f64::from(i == j)).collect()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..100 {
            let mut turns = false;
            for i in 0..count {
                for j in i + 1..count {
                    let both = dot(&turned[i], &turned[j]);
                    let (one, other) = (dot(&turned[i], &turned[i]), dot(&turned[j], &turned[j]));
                    if both * both <= 1e-33 * one * other {
                        continue;
                    }
                    turns = true;
                    let difference = other - one;
                    let slope = difference / (2.0 * both);
                    let sign = if slope < 0.0 { -1.0 } else { 1.0 };
                    let tangent = sign / (slope.abs() + (1.0 + slope * slope).sqrt());
                    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                    for matrix in [&mut turned, &mut left] {
                        for e in 0..matrix[i].len() {
                            let (one, two) = (matrix[i][e], matrix[j][e]);
                            matrix[i][e] = cosine * (one - tangent * two);
                            matrix[j][e] = cosine * (two + tangent * one);
                        }
                    }
                }
            }
            if !turns {
                break;
            }
        }
        let mut order: Vec<usize> = (0..count).collect();
        let size = |i: usize| dot(&turned[i], &turned[i]).sqrt();
        order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        let values: Vec<f64> = order.iter().map(|&i| size(i)).collect();
        let largest = values.first().copied().unwrap_or(0.0);
        let unit = |&i: &usize| -> Vec<f64> {
            let lost = size(i) <= 1e-6 * largest;
            turned[i].iter().map(|x| if lost { 0.0 } else { x / size(i) }).collect()
        };
        let right = order.iter().map(unit).collect();
        (order.iter().map(|&i| left[i].clone()).collect(), values, right)
    }

    #[test]
    fn it_is_a_singular_value_decomposition() {
        let rows = vec![vec![3.0, 1.0, 0.5], vec![-1.0, 2.0, 4.0]];
        let (u, s, v) = svd(&rows);
        for (i, row) in rows.iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                let sum: f64 = (0..2).map(|k| u[k][i] * s[k] * v[k][j]).sum();
                assert!((sum - x).abs() < 1e-12);
            }
        }
        assert!(s[0] > s[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spectrum_puts_its_matrix_together_again() {
        for (rows, columns) in [(5, 9), (9, 5), (1, 7), (7, 1)] {
            let values = (0..rows * columns).map(|e| ((e * 37) % 11) as f64 - 5.0).collect();
            let matrix = Matrix { rows, columns, values };
            let spectrum = Spectrum::of(&matrix, "x").expect("a spectrum");
            let ones = vec![1.0; spectrum.values.len()];
            let again = spectrum.scaled(&matrix, &ones).expect("a matrix");
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-10;
            assert!(again.values.iter().zip(&matrix.values).all(near));
            let squares: f64 = spectrum.values.iter().map(|value| value * value).sum();
            assert!((squares - matrix.square()).abs() < 1e-9);
            assert!(spectrum.values.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }

    #[test]
    fn names_tell_embeddings_from_maps() {
        assert!(maps("model.layers.0.mlp.up_proj.weight", 8, 8));
        assert!(!maps("model.embed_tokens.weight", 8, 8));
        assert!(!maps("lm_head.weight", 8, 8));
        assert!(!maps("model.norm.weight", 8, 1));
    }
}
