//! Sums whose bits depend on nothing but the tensor.

use crate::error::Result;
use crate::fit::number::Number;
use crate::fit::tensor::{Block, Tensor};

/// Accumulators of a sum: an element's position decides which one it goes to, so that block edges do not show.
pub type Sum = [f64; 16];

/// The sum of a chunk-wise fold of `N` quantities, joined in the order of the chunks.
pub fn sums<R: Number>(
    tensor: &Tensor<'_, R>,
    quantities: usize,
    step: impl Fn(&mut [Sum], &Block<'_, R>) + Sync,
) -> Result<Vec<f64>> {
    let whole = tensor.fold(
        || vec![[0.0; 16]; quantities],
        |part: &mut Vec<Sum>, block| step(part, block),
        |whole, part| {
            for (whole, part) in whole.iter_mut().zip(part) {
                whole.iter_mut().zip(part).for_each(|(whole, part)| *whole += part);
            }
        },
    )?;
    Ok(whole.iter().map(total).collect())
}

/// What a set of accumulators holds.
#[must_use]
pub fn total(sum: &Sum) -> f64 {
    sum.iter().sum()
}

vectorised! {
    /// Adds the products of the left operand with itself, of the right with itself, and of the two.
    pub fn add_products<R: Number>([squares, others, products]: [&mut Sum; 3], left: &[R], right: &[R]) {
        for (left, right) in left.chunks(16).zip(right.chunks(16)) {
            match (<&[R; 16]>::try_from(left), <&[R; 16]>::try_from(right)) {
                (Ok(left), Ok(right)) => {
                    for lane in 0..16 {
                        let (left, right) = (left[lane].to_f64(), right[lane].to_f64());
                        squares[lane] += left * left;
                        others[lane] += right * right;
                        products[lane] += left * right;
                    }
                }
                _ => {
                    for (lane, (left, right)) in left.iter().zip(right).enumerate() {
                        let (left, right) = (left.to_f64(), right.to_f64());
                        squares[lane] += left * left;
                        others[lane] += right * right;
                        products[lane] += left * right;
                    }
                }
            }
        }
    }
}
