//! What a method may ask of one output tensor, and what it gives back.
//!
//! `method`: the spec and the trait · `parameters`: what a spec declares, and its values · `survey`: what is asked of the whole model · `tensor`: operands, blocks, folds · `node`: a fitted method, which may itself be an
//! operand · `select`: exact order statistics · `magnitude`: exact cuts by magnitude · `statistics`: sums · `combine`:
//! weighted sums of deltas · `gram`: inner products of the branches · `mixture`: linear combinations with weights found ·
//! `linalg`: singular directions · `inputs`: Gram matrices of what tensors are multiplied with · `sparsify`: sums of thinned deltas · `random`, `number`: the same bits everywhere.

pub mod combine;
pub mod gram;
pub mod group;
pub mod inputs;
pub mod linalg;
pub mod magnitude;
pub mod marks;
pub mod method;
pub mod mixture;
pub mod node;
pub mod number;
pub mod parameters;
#[cfg(test)]
pub(crate) mod properties;
pub mod random;
pub mod ranks;
pub mod select;
pub mod sparsify;
pub mod statistics;
pub mod survey;
pub mod tensor;

/// What a method file needs.
pub mod prelude {
    pub use crate::error::{Error, Result};
    pub use crate::fit::combine::{self, Combine, Vote};
    pub use crate::fit::gram::{self, Gram};
    pub use crate::fit::inputs;
    pub use crate::fit::linalg::{self, Factor, Matrix, Spectrum};
    pub use crate::fit::magnitude::{Quota, bands, bands_by_density};
    pub use crate::fit::marks::Marks;
    pub use crate::fit::method::{
        Base, Bits, Extent, Figures, Fit, Grain, Guide, Kernel, Method, Space, Spec, USUAL,
    };
    pub use crate::fit::mixture::Mixture;
    pub use crate::fit::number::{self, Key, Number};
    pub use crate::fit::parameters::{Parameter, Parameters, Per, Type, Value};
    pub use crate::fit::random::Stream;
    pub use crate::fit::ranks::{Odds, Ranks};
    pub use crate::fit::sparsify::{self, sparse};
    pub use crate::fit::tensor::{Block, Row, Tensor};
    pub use crate::fit::{select, statistics};
    pub use crate::read::dtype::Real;
}
