//! Elements that no file holds as they are: codes times scales, what an adapter adds to a weight, embeddings with their rows
//! in another order. They are made where they are read, block by block, and may be made of each other.

use std::ops::Range;
use std::sync::OnceLock;

use super::Leaf;
use crate::error::{Error, Kind, Result};
use crate::fit::number::Number;
use crate::read::dtype;

/// Elements that are multiplied together: their sums stay in registers.
const TILE: usize = 64;
/// Elements of a row that are read at once for its norm.
const PIECE: u64 = 4096;

/// Where elements come from.
pub enum View<'a, R> {
    /// As they are stored.
    Stored(Leaf<'a>),
    /// Codes times scales.
    Scaled(Scaled<'a, R>),
    /// What an adapter makes of others.
    Adapted(Box<Adapted<'a, R>>),
    /// Rows of several tensors, in another order.
    Rows(Rows<'a, R>),
}

/// Codes, one scale for each block of them.
pub struct Scaled<'a, R> {
    /// The codes.
    pub codes: Leaf<'a>,
    /// The scales, block after block, row after row.
    pub scales: Vec<R>,
    /// Rows and columns of a block.
    pub block: [u64; 2],
}

/// A matrix W with the product of two thin ones added, W + s·L·R; where it has magnitudes m, each row of that is given the
/// norm that they say (`DoRA`: Liu et al., arXiv 2402.09353, equation 5).
pub struct Adapted<'a, R> {
    /// W.
    pub of: View<'a, R>,
    /// L, row after row.
    pub left: Vec<R>,
    /// R, row after row.
    pub right: Vec<R>,
    /// How many columns L has and rows R has.
    pub rank: usize,
    /// How many columns R has.
    pub columns: u64,
    /// s.
    pub scale: f64,
    /// m: none, or one a row.
    pub magnitudes: Vec<R>,
    /// The norms of rows of W + s·L·R, as far as they were needed.
    pub norms: Vec<OnceLock<f64>>,
}

/// Rows of tensors of one width.
pub struct Rows<'a, R> {
    /// The tensors.
    pub of: Vec<View<'a, R>>,
    /// Where each row comes from.
    pub picks: &'a [Pick],
    /// How many elements a row has.
    pub columns: u64,
    /// The sum of the rows of which the mean is taken, where it was needed.
    pub sums: OnceLock<Vec<f64>>,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// A row of one of the tensors.
    Row([u32; 2]),
    /// The mean of such rows.
    Mean(Box<[[u32; 2]]>),
    /// The mean of the first rows of one of the tensors: which, and how many.
    MeanOfAll([u32; 2]),
    /// Zeros.
    Zero,
}

impl<R: Number> View<'_, R> {
    /// The label of the checkpoint that is behind it.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Stored(leaf) => leaf.label,
            Self::Scaled(scaled) => scaled.codes.label,
            Self::Adapted(adapted) => adapted.of.label(),
            Self::Rows(rows) => rows.of.first().map_or("", View::label),
        }
    }

    /// How many elements it has.
    pub(super) fn elements(&self) -> u64 {
        match self {
            Self::Stored(leaf) => leaf.stored.elements(),
            Self::Scaled(scaled) => scaled.codes.stored.elements(),
            Self::Adapted(adapted) => adapted.of.elements(),
            Self::Rows(rows) => rows.picks.len() as u64 * rows.columns,
        }
    }

    /// Fills `values` with the elements from `start` on.
    pub(super) fn read(&self, start: u64, values: &mut [R]) -> Result<()> {
        match self {
            Self::Stored(leaf) => read(leaf, start, values),
            Self::Scaled(scaled) => scaled.read(start, values),
            Self::Adapted(adapted) => adapted.read(start, values),
            Self::Rows(rows) => rows.read(start, values),
        }
    }
}

/// Stored elements from `start` on.
fn read<R: Number>(leaf: &Leaf<'_>, start: u64, values: &mut [R]) -> Result<()> {
    let mut buffer = Vec::new();
    let bytes = leaf.bytes(start..start + values.len() as u64, &mut buffer)?;
    dtype::decode(leaf.stored.dtype, bytes, values)?;
    leaf.source.intact().map_err(|error| error.branch(leaf.label))
}

/// All stored elements, as a matrix row after row; `turned` exchanges its rows and columns.
pub fn matrix<R: Number>(leaf: &Leaf<'_>, turned: bool) -> Result<Vec<R>> {
    let count = leaf.stored.elements() as usize;
    let bytes = count * size_of::<R>() * if turned { 2 } else { 1 };
    let empty = || {
        let mut values: Vec<R> = Vec::new();
        let room = values.try_reserve_exact(count);
        room.map_err(|_| Error::from(Kind::OutOfMemory { needed: bytes as u64 }))?;
        values.resize(count, R::ZERO);
        Ok::<_, Error>(values)
    };
    let mut values = empty()?;
    read(leaf, 0, &mut values)?;
    if !turned {
        return Ok(values);
    }
    let columns = leaf.stored.shape.last().copied().unwrap_or(1) as usize;
    let rows = count / columns.max(1);
    let mut other = empty()?;
    for (at, value) in values.into_iter().enumerate() {
        other[at % columns * rows + at / columns] = value;
    }
    Ok(other)
}

/// Cuts a range into its parts of rows of so many: the row, its columns, and where they begin in the range.
fn by_row(range: Range<u64>, columns: u64) -> impl Iterator<Item = (u64, Range<u64>, usize)> {
    let (start, end, columns) = (range.start, range.end, columns.max(1));
    let mut at = start;
    std::iter::from_fn(move || {
        let (row, first) = (at / columns, at % columns);
        let length = (columns - first).min(end - at);
        let part = (row, first..first + length, (at - start) as usize);
        at += length;
        (length > 0).then_some(part)
    })
}

impl<R: Number> Scaled<'_, R> {
    fn read(&self, start: u64, values: &mut [R]) -> Result<()> {
        read(&self.codes, start, values)?;
        let shape = &self.codes.stored.shape;
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let rows = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        let [down, across] = self.block;
        let (grid_rows, grid_columns) = (rows.div_ceil(down), columns.div_ceil(across));
        for (row, part, at) in by_row(start..start + values.len() as u64, columns) {
            // Experts that are stored together have a grid each.
            let (expert, row) = (row / rows, row % rows);
            let line = (expert * grid_rows + row / down) * grid_columns;
            let mut column = part.start;
            while column < part.end {
                let end = ((column / across + 1) * across).min(part.end);
                let scale = self.scales[(line + column / across) as usize];
                let place = |column: u64| at + (column - part.start) as usize;
                values[place(column)..place(end)]
                    .iter_mut()
                    .for_each(|value| *value = *value * scale);
                column = end;
            }
        }
        Ok(())
    }
}

impl<R: Number> Adapted<'_, R> {
    fn read(&self, start: u64, values: &mut [R]) -> Result<()> {
        self.sum(start, values)?;
        if self.magnitudes.is_empty() {
            return Ok(());
        }
        for (row, part, at) in by_row(start..start + values.len() as u64, self.columns) {
            let factor = self.magnitudes[row as usize].to_f64() / self.norm(row)?;
            let values = &mut values[at..at + (part.end - part.start) as usize];
            values.iter_mut().for_each(|value| *value = R::from_f64(value.to_f64() * factor));
        }
        Ok(())
    }

    /// W + s·L·R.
    fn sum(&self, start: u64, values: &mut [R]) -> Result<()> {
        self.of.read(start, values)?;
        let columns = self.columns as usize;
        for (row, part, at) in by_row(start..start + values.len() as u64, self.columns) {
            let left = &self.left[row as usize * self.rank..][..self.rank];
            let (first, length) = (part.start as usize, (part.end - part.start) as usize);
            let values = &mut values[at..at + length];
            add_product(values, left, &self.right[first..], columns, R::from_f64(self.scale));
        }
        Ok(())
    }

    /// The norm of a row of W + s·L·R.
    fn norm(&self, row: u64) -> Result<f64> {
        if let Some(&known) = self.norms[row as usize].get() {
            return Ok(known);
        }
        let (first, end) = (row * self.columns, (row + 1) * self.columns);
        let (mut lanes, mut values) = ([0.0; 8], vec![R::ZERO; PIECE.min(self.columns) as usize]);
        for start in (first..end).step_by(PIECE as usize) {
            let values = &mut values[..PIECE.min(end - start) as usize];
            self.sum(start, values)?;
            for group in values.chunks(8) {
                for (lane, value) in lanes.iter_mut().zip(group) {
                    *lane += value.to_f64() * value.to_f64();
                }
            }
        }
        let norm = lanes.iter().sum::<f64>().sqrt();
        Ok(*self.norms[row as usize].get_or_init(|| norm))
    }
}

vectorised! {
    /// Adds s·l·R to a part of a row: `right` begins at its first column. What nothing is added to keeps its bits.
    fn add_product<R: Number>(values: &mut [R], left: &[R], right: &[R], columns: usize, scale: R) {
        for (tile, values) in values.chunks_mut(TILE).enumerate() {
            let mut sums = [R::ZERO; TILE];
            for (k, &factor) in left.iter().enumerate() {
                let right = &right[k * columns + tile * TILE..][..values.len()];
                if let Ok(right) = <&[R; TILE]>::try_from(right) {
                    for lane in 0..TILE {
                        sums[lane] += factor * right[lane];
                    }
                } else {
                    for (sum, &right) in sums.iter_mut().zip(right) {
                        *sum += factor * right;
                    }
                }
            }
            for (value, sum) in values.iter_mut().zip(sums) {
                let added = *value + scale * sum;
                *value = if sum == R::ZERO { *value } else { added };
            }
        }
    }
}

impl<R: Number> Rows<'_, R> {
    fn read(&self, start: u64, values: &mut [R]) -> Result<()> {
        for (row, part, at) in by_row(start..start + values.len() as u64, self.columns) {
            let length = (part.end - part.start) as usize;
            let values = &mut values[at..at + length];
            let from = |[of, row]: [u32; 2]| (&self.of[of as usize], u64::from(row));
            match &self.picks[row as usize] {
                Pick::Row(place) => {
                    let (view, row) = from(*place);
                    view.read(row * self.columns + part.start, values)?;
                }
                Pick::Mean(places) => {
                    let mut sums = vec![0.0; length];
                    for (view, row) in places.iter().map(|place| from(*place)) {
                        view.read(row * self.columns + part.start, values)?;
                        add(&mut sums, values);
                    }
                    divide(&sums, places.len(), values);
                }
                Pick::MeanOfAll([of, rows]) => {
                    let sums = self.sums(*of, *rows)?;
                    divide(&sums[part.start as usize..part.end as usize], *rows as usize, values);
                }
                Pick::Zero => values.fill(R::ZERO),
            }
        }
        Ok(())
    }

    /// The sum of the first rows of a tensor.
    fn sums(&self, of: u32, rows: u32) -> Result<&[f64]> {
        if let Some(known) = self.sums.get() {
            return Ok(known);
        }
        let mut sums = vec![0.0; self.columns as usize];
        let mut row = vec![R::ZERO; self.columns as usize];
        for at in 0..u64::from(rows) {
            self.of[of as usize].read(at * self.columns, &mut row)?;
            add(&mut sums, &row);
        }
        Ok(self.sums.get_or_init(|| sums))
    }
}

fn add<R: Number>(sums: &mut [f64], values: &[R]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value.to_f64());
}

fn divide<R: Number>(sums: &[f64], count: usize, values: &mut [R]) {
    let mean = |sum: &f64| R::from_f64(sum / count as f64);
    values.iter_mut().zip(sums).for_each(|(value, sum)| *value = mean(sum));
}
