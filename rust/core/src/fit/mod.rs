//! What a method may ask of one output tensor, and what it gives back.
//!
//! `method`: the spec and the trait · `tensor`: operands, blocks, folds · `node`: a fitted method, which may itself be an
//! operand · `select`: exact order statistics · `largest`: exactly the k largest · `statistics`: sums · `combine`:
//! weighted sums of deltas · `random`, `number`: the same bits everywhere.

pub mod combine;
pub mod group;
pub mod largest;
pub mod method;
pub mod node;
pub mod number;
#[cfg(test)]
pub(crate) mod properties;
pub mod random;
pub mod select;
pub mod statistics;
pub mod tensor;

/// What a method file needs.
pub mod prelude {
    pub use crate::error::{Error, Result};
    pub use crate::fit::combine::{self, Combine};
    pub use crate::fit::method::{
        Base, Figures, Fit, Grain, Kernel, Method, Parameter, Parameters, Per, Space, Spec, Type,
        Value,
    };
    pub use crate::fit::number::{self, Key, Number};
    pub use crate::fit::random::Stream;
    pub use crate::fit::tensor::{Block, Row, Tensor};
    pub use crate::fit::{largest, select, statistics};
    pub use crate::read::dtype::Real;
}
