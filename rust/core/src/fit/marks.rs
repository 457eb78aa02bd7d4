//! One bit an element and branch, for choices that need a whole row to be made: found once, row by row, and looked up by the
//! kernel.

use crate::error::Result;
use crate::fit::group::{LANES, group, put};
use crate::fit::method::Extent;
use crate::fit::mixture::pieces;
use crate::fit::number::Number;
use crate::fit::sparsify::add_magnitudes;
use crate::fit::statistics;
use crate::fit::tensor::{Block, Row, Tensor};

/// The marks of all elements of all branches.
#[derive(Clone, Debug)]
pub struct Marks {
    row_length: u64,
    rows: Vec<Box<[u64]>>,
}

/// The marks of a row being made.
#[derive(Clone, Debug)]
pub struct RowMarks {
    words: Box<[u64]>,
    of_branch: usize,
}

impl RowMarks {
    /// None for so many branches of a row of so many elements.
    #[must_use]
    pub fn new(branches: usize, row_length: u64) -> Self {
        let of_branch = row_length.div_ceil(64) as usize;
        Self { words: vec![0; branches * of_branch].into(), of_branch }
    }

    /// Marks an element of the row for a branch.
    #[inline(always)]
    pub fn mark(&mut self, branch: usize, element: usize) {
        self.words[branch * self.of_branch + element / 64] |= 1 << (element % 64);
    }

    /// The words of a branch, 64 elements each, the first in the lowest bit.
    #[inline(always)]
    pub fn branch(&mut self, branch: usize) -> &mut [u64] {
        &mut self.words[branch * self.of_branch..(branch + 1) * self.of_branch]
    }
}

impl RowMarks {
    /// The L1 norm of a branch's row, and of what is marked of it.
    pub fn norms<R: Number>(&self, row: &mut Row<'_, '_, R>, branch: usize) -> Result<[f64; 2]> {
        let words = &self.words[branch * self.of_branch..(branch + 1) * self.of_branch];
        let (mut whole, mut kept, mut at, mut marked) = ([0.0; 16], [0.0; 16], 0, Vec::new());
        row.sweep(|block| {
            marked.resize(block.length, R::ZERO);
            keep(words, at, block.branch(branch), &mut marked);
            add_magnitudes(&mut whole, &mut kept, block.branch(branch), &marked);
            at += block.length;
        })?;
        Ok([statistics::total(&whole), statistics::total(&kept)])
    }
}

impl Marks {
    /// Makes the marks of every row, with room of each worker's own; returns besides what else the visits gave, in the
    /// order of the rows.
    pub fn find<R: Number, S, T: Send>(
        tensor: &Tensor<'_, R>,
        room: impl Fn() -> S + Sync,
        visit: impl Fn(&mut S, &mut Row<'_, '_, R>, &mut RowMarks) -> Result<T> + Sync,
    ) -> Result<(Self, Vec<T>)> {
        let (row_length, branches) = (tensor.row_length, tensor.branches());
        let found = tensor.each_row_with(room, |room, row| {
            let mut marks = RowMarks::new(branches, row_length);
            let besides = visit(room, row, &mut marks)?;
            Ok((marks.words, besides))
        })?;
        let (rows, besides) = found.into_iter().unzip();
        Ok((Self { row_length, rows }, besides))
    }

    /// What they take of memory, in bytes, with so many numbers a row besides.
    #[must_use]
    pub fn memory(extent: &Extent<'_>, numbers: u64) -> u64 {
        let words = extent.branches * extent.row.div_ceil(64);
        // The places of the rows stand twice while they are joined.
        extent.rows() * (8 * words + 2 * 16 + 3 * (24 + 8 * numbers))
    }

    /// The marked elements of a branch in a block, zeros for the others.
    pub fn keep<R: Number>(&self, branch: usize, block: &Block<'_, R>, kept: &mut [R]) {
        let of_branch = self.row_length.div_ceil(64) as usize;
        for (row, range) in pieces(block, self.row_length) {
            let words = &self.rows[row][branch * of_branch..(branch + 1) * of_branch];
            let first = block.start + range.start as u64 - row as u64 * self.row_length;
            let values = &block.branch(branch)[range.clone()];
            keep(words, first as usize, values, &mut kept[range]);
        }
    }
}

vectorised! {
    /// The values of a row whose bit is set, zeros for the others; the first value's bit has the number `first`.
    pub fn keep<R: Number>(words: &[u64], first: usize, values: &[R], kept: &mut [R]) {
        for (number, kept) in kept.chunks_mut(LANES).enumerate() {
            let at = first + number * LANES;
            let (word, bit) = (at / 64, at % 64);
            let next = words.get(word + 1).copied().unwrap_or(0);
            let bits = (words[word] >> bit | (next << 1) << (63 - bit)) as u32;
            let values = group(values, number * LANES);
            let mut chosen = [R::ZERO; LANES];
            for lane in 0..LANES {
                chosen[lane] = if bits >> lane & 1 == 1 { values[lane] } else { R::ZERO };
            }
            put(&chosen, kept);
        }
    }
}
