//! Results that are linear combinations of the operands: the weights of the branches for a tensor, or for each row or column.

use crate::fit::combine;
use crate::fit::group::{LANES, group, put};
use crate::fit::method::Fit;
use crate::fit::number::Number;
use crate::fit::tensor::Block;

/// The weights that a fit found.
#[derive(Clone, Debug)]
pub enum Mixture {
    /// One a branch.
    Tensor(Vec<f64>),
    /// One a branch for each row.
    Rows {
        /// Elements of a row.
        length: u64,
        /// The weights of each row.
        weights: Vec<Vec<f64>>,
    },
    /// One a branch for each column, all columns of a branch side by side.
    Columns(Vec<Vec<f64>>),
}

impl Mixture {
    /// The fit that mixes so.
    #[must_use]
    pub fn fit<R: Number>(self) -> Fit<R> {
        match self {
            Self::Tensor(weights) => Fit::new(move |block, out| {
                combine::mix(&weights, &operands(block, weights.len(), 0..block.length), out);
            }),
            Self::Rows { length, weights } => Fit::new(move |block, out| {
                for (row, range) in pieces(block, length) {
                    let weights = &weights[row];
                    let operands = operands(block, weights.len(), range.clone());
                    combine::mix(weights, &operands, &mut out[range]);
                }
            }),
            Self::Columns(weights) => {
                let columns = weights.first().map_or(0, Vec::len);
                let excess = |column: usize| combine::excess(weights.iter().map(|of| of[column]));
                let excess: Vec<f64> = (0..columns).map(excess).collect();
                Fit::new(move |block, out| {
                    for (row, range) in pieces(block, columns as u64) {
                        let first = (block.start + range.start as u64) as usize - row * columns;
                        let here = first..first + range.len();
                        let weights: Vec<&[f64]> =
                            weights.iter().map(|of| &of[here.clone()]).collect();
                        let operands = operands(block, weights.len(), range.clone());
                        mix_columns(&weights, &excess[here], &operands, &mut out[range]);
                    }
                })
            }
        }
    }
}

fn operands<'b, R>(
    block: &Block<'b, R>,
    count: usize,
    range: std::ops::Range<usize>,
) -> Vec<&'b [R]> {
    (0..count).map(|i| &block.branch(i)[range.clone()]).collect()
}

/// The parts of a block that lie in one row each, with the row's number.
pub fn pieces<R>(
    block: &Block<'_, R>,
    row_length: u64,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let (start, length) = (block.start, block.length);
    let mut at = 0;
    std::iter::from_fn(move || {
        let row = (start + at as u64) / row_length;
        let end = (((row + 1) * row_length - start) as usize).min(length);
        let piece = (row as usize, at..end);
        at = end;
        (!piece.1.is_empty()).then_some(piece)
    })
}

vectorised! {
    /// [`combine::mix`] with weights for each element.
    fn mix_columns<R: Number>(weights: &[&[f64]], excess: &[f64], operands: &[&[R]], out: &mut [R]) {
        let first = operands[0];
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let at = number * LANES;
            let (start, excess) = (group(first, at), group(excess, at));
            let mut sum = [0.0f64; LANES];
            for lane in 0..LANES {
                sum[lane] = excess[lane] * start[lane].to_f64();
            }
            for (weights, operand) in weights[1..].iter().zip(&operands[1..]) {
                let (weights, operand) = (group(weights, at), group(operand, at));
                for lane in 0..LANES {
                    sum[lane] += weights[lane] * (operand[lane].to_f64() - start[lane].to_f64());
                }
            }
            let mut mixed = [R::ZERO; LANES];
            for lane in 0..LANES {
                let value = R::from_f64(start[lane].to_f64() + sum[lane]);
                mixed[lane] = if sum[lane] == 0.0 { start[lane] } else { value };
            }
            put(&mixed, out);
        }
    }
}
