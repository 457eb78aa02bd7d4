//! What a method may ask of one output tensor, and what it gives back.
//!
//! `method`: the spec and the trait · `tensor`: operands, blocks, folds · `node`: a fitted method, which may itself be an
//! operand · `statistics`: exact order statistics · `random`, `number`: the same bits everywhere.

pub mod method;
pub mod node;
pub mod number;
pub mod random;
pub mod statistics;
pub mod tensor;

/// What the vector functions are compiled for, besides the baseline.
#[macro_export]
macro_rules! vectorised {
    ($($item:tt)*) => {
        #[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
        $($item)*
    };
}
