//! Inner products of the operands, of which whole families of methods need no more: their results are linear combinations
//! of the operands, with weights that follow from angles, norms and distances.

use crate::error::{Error, Result};
use crate::fit::group::{LANES, group};
use crate::fit::method::Extent;
use crate::fit::mixture::pieces;
use crate::fit::number::Number;
use crate::fit::statistics::{self, Sum, add_products};
use crate::fit::tensor::{BANDS, Block, Tensor};

/// A symmetric matrix with a row and a column for each branch.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    size: usize,
    entries: Vec<f64>,
}

/// How many entries such a matrix of so many branches has on and above its diagonal.
#[must_use]
pub fn pairs(branches: usize) -> usize {
    branches * (branches + 1) / 2
}

impl Gram {
    /// From the entries on and above the diagonal, row by row.
    #[must_use]
    pub fn new(size: usize, upper: &[f64]) -> Self {
        let mut entries = vec![0.0; size * size];
        let mut upper = upper.iter();
        for i in 0..size {
            for j in i..size {
                let entry = upper.next().copied().unwrap_or_default();
                entries[i * size + j] = entry;
                entries[j * size + i] = entry;
            }
        }
        Self { size, entries }
    }

    /// The entry of two branches.
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.entries[i * self.size + j]
    }

    /// Of inner products: the norm of a branch.
    #[must_use]
    pub fn norm(&self, i: usize) -> f64 {
        self.at(i, i).max(0.0).sqrt()
    }

    /// Of inner products: the cosine of the angle between two branches; 0 where one of them is zero.
    #[must_use]
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms > 0.0 { (self.at(i, j) / norms).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// The matrix times a vector.
    #[must_use]
    pub fn times(&self, vector: &[f64]) -> Vec<f64> {
        let row = |i: usize| vector.iter().enumerate().map(|(j, v)| self.at(i, j) * v).sum();
        (0..self.size).map(row).collect()
    }

    /// vᵀ·M·v: of inner products, the square of the norm of the branches' combination with these weights.
    #[must_use]
    pub fn square(&self, vector: &[f64]) -> f64 {
        vector.iter().zip(self.times(vector)).map(|(v, product)| v * product).sum()
    }
}

/// The inner products of the branches, over the tensor.
pub fn products<R: Number>(tensor: &Tensor<'_, R>) -> Result<Gram> {
    let size = tensor.branches();
    let upper = statistics::sums(tensor, pairs(size), |sums, block| add(sums, block, size))?;
    finite(Gram::new(size, &upper), tensor.name)
}

/// The squares of the distances between the branches, over the tensor.
pub fn distances<R: Number>(tensor: &Tensor<'_, R>) -> Result<Gram> {
    let size = tensor.branches();
    let upper = statistics::sums(tensor, pairs(size), |sums, block| {
        let mut sums = sums.iter_mut();
        for i in 0..size {
            for j in i..size {
                if let Some(sum) = sums.next().filter(|_| i != j) {
                    add_distance(sum, block.branch(i), block.branch(j));
                }
            }
        }
    })?;
    finite(Gram::new(size, &upper), tensor.name)
}

/// The inner products of the branches in each row, as `visit` sees them.
pub fn by_row<R: Number, T: Send>(
    tensor: &Tensor<'_, R>,
    visit: impl Fn(&Gram) -> T + Sync,
) -> Result<Vec<T>> {
    let size = tensor.branches();
    tensor.each_row(|row| {
        let mut sums = vec![[0.0; 16]; pairs(size)];
        row.sweep(|block| add(&mut sums, block, size))?;
        let upper: Vec<f64> = sums.iter().map(statistics::total).collect();
        Ok(visit(&finite(Gram::new(size, &upper), tensor.name)?))
    })
}

/// The inner products of the branches in each column, what shares its place in all dimensions but the first.
pub fn by_column<R: Number, T>(
    tensor: &Tensor<'_, R>,
    visit: impl Fn(&Gram) -> T,
) -> Result<Vec<T>> {
    let (size, columns) = (tensor.branches(), tensor.columns as usize);
    let whole = tensor.fold_bands(
        || vec![vec![0.0; columns]; pairs(size)],
        |sums, block| {
            for (row, range) in pieces(block, tensor.columns) {
                let first = (block.start + range.start as u64) as usize - row * columns;
                let mut sums = sums.iter_mut();
                for i in 0..size {
                    for j in i..size {
                        if let Some(sum) = sums.next() {
                            let (left, right) = (block.branch(i), block.branch(j));
                            let sum = &mut sum[first..first + range.len()];
                            add_each(sum, &left[range.clone()], &right[range.clone()]);
                        }
                    }
                }
            }
        },
        |whole, part| {
            for (whole, part) in whole.iter_mut().zip(part) {
                whole.iter_mut().zip(part).for_each(|(whole, part)| *whole += part);
            }
        },
    )?;
    let column = |column: usize| {
        let upper: Vec<f64> = whole.iter().map(|sums| sums[column]).collect();
        Ok(visit(&finite(Gram::new(size, &upper), tensor.name)?))
    };
    (0..columns).map(column).collect()
}

/// What [`by_row`] takes of memory, in bytes, with so many numbers a row as its visits give.
#[must_use]
pub fn memory_by_row(extent: &Extent<'_>, numbers: u64) -> u64 {
    // The visits' results, and once more while they are joined.
    2 * extent.rows() * (8 * numbers + 24)
}

/// What [`by_column`] takes of memory, in bytes, with so many numbers a column as its visits give.
#[must_use]
pub fn memory_by_column(extent: &Extent<'_>, numbers: u64) -> u64 {
    let sums = (BANDS + 1) * pairs(extent.branches as usize) as u64 * 8;
    extent.columns * (sums + 3 * (8 * numbers + 24))
}

fn finite(gram: Gram, tensor: &str) -> Result<Gram> {
    if gram.entries.iter().all(|entry| entry.is_finite()) {
        return Ok(gram);
    }
    Err(Error::malformed("its elements are too large to be squared").tensor(tensor))
}

fn add<R: Number>(sums: &mut [Sum], block: &Block<'_, R>, size: usize) {
    if let [square, product, other] = sums {
        return add_products([square, other, product], block.branch(0), block.branch(1));
    }
    let mut sums = sums.iter_mut();
    for i in 0..size {
        for j in i..size {
            if let Some(sum) = sums.next() {
                add_product(sum, block.branch(i), block.branch(j));
            }
        }
    }
}

vectorised! {
    fn add_product<R: Number>(sum: &mut Sum, left: &[R], right: &[R]) {
        for at in (0..left.len()).step_by(LANES) {
            let (left, right) = (group(left, at), group(right, at));
            for lane in 0..LANES {
                sum[lane] += left[lane].to_f64() * right[lane].to_f64();
            }
        }
    }
}

vectorised! {
    /// Adds each element's product to a sum of its own.
    fn add_each<R: Number>(sums: &mut [f64], left: &[R], right: &[R]) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left.to_f64() * right.to_f64();
        }
    }
}

vectorised! {
    fn add_distance<R: Number>(sum: &mut Sum, left: &[R], right: &[R]) {
        for at in (0..left.len()).step_by(LANES) {
            let (left, right) = (group(left, at), group(right, at));
            for lane in 0..LANES {
                let difference = left[lane].to_f64() - right[lane].to_f64();
                sum[lane] += difference * difference;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::method::Space;
    use crate::fit::properties::Room;
    use crate::read::dtype::Dtype;

    #[test]
    fn products_distances_rows_and_columns() {
        let operands = [vec![1.0, 2.0, 3.0, 4.0], vec![0.5, -1.0, 2.0, 0.0]];
        let room = Room::new(Dtype::F32, &operands, 2);
        let tensor = room.tensor::<f32>(Space::Weights, false, 2);
        let whole = products(&tensor).expect("products");
        assert_eq!([whole.at(0, 0), whole.at(0, 1), whole.at(1, 1)], [30.0, 4.5, 5.25]);
        assert_eq!(distances(&tensor).expect("distances").at(0, 1), 0.25 + 9.0 + 1.0 + 16.0);
        let both = |gram: &Gram| gram.at(0, 1);
        assert_eq!(by_row(&tensor, both).expect("rows"), [-1.5, 6.0]);
        assert_eq!(by_column(&tensor, both).expect("columns"), [6.5, -2.0]);
    }

    #[test]
    fn squares_that_overflow_are_an_error() {
        let room = Room::new(Dtype::F64, &[vec![1e200; 3], vec![1.0; 3]], 3);
        let tensor = room.tensor::<f64>(Space::Weights, false, 1);
        let said = products(&tensor).expect_err("too large").to_string();
        assert!(said.contains("too large to be squared"), "{said}");
    }
}
