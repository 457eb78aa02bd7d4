//! A method fitted to a tensor: from here on it is a function of blocks, and may stand wherever a stored tensor may.

use crate::error::{Error, Kind, Result};
use crate::fit::method::{Figures, Kernel, Space};
use crate::fit::number::Number;
use crate::fit::tensor::{Block, Raw, Scratch, Tensor};
use crate::read::dtype::{self, Dtype};

/// A fitted method and what it works on.
pub struct Node<'a, R> {
    /// Its operands.
    pub tensor: Tensor<'a, R>,
    /// What it does to a block.
    pub kernel: Kernel<R>,
    /// What its change of the base is multiplied with.
    pub factor: f64,
    /// What writing this result to disk and reading it again would make of it.
    pub rounding: Option<Dtype>,
    /// What the fit found, for the result.
    pub figures: Figures,
}

/// What was counted while a chunk was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Elements taken from a branch, where the method takes elements.
    pub taken: u64,
    /// Elements whose value is not the base's.
    pub changed: u64,
    /// Non-finite elements carried through.
    pub carried: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.taken += other.taken;
        self.changed += other.changed;
        self.carried += other.carried;
    }
}

impl<R: Number> Node<'_, R> {
    /// The merged elements of a block; returns how many were taken.
    pub fn evaluate(&self, block: &Block<'_, R>, out: &mut [R]) -> u64 {
        let taken = (self.kernel)(block, out);
        if self.tensor.space == Space::Delta {
            if self.factor != 1.0 {
                scale(out, self.factor);
            }
            add_base(out, block.base());
        } else if self.factor != 1.0 {
            scale_change(out, block.base(), self.factor);
        }
        taken
    }

    /// Rounds as an intermediate on disk would have been.
    pub fn round(&self, values: &mut [R], bytes: &mut Vec<u8>) -> Result<()> {
        if let Some(dtype) = self.rounding {
            bytes.resize(values.len() * (dtype.bits() / 8) as usize, 0);
            dtype::encode(dtype, values, bytes)?;
            dtype::decode(dtype, bytes, values)?;
        }
        Ok(())
    }

    /// Makes a chunk of the output from what was read: its bytes as `dtype` into `out`.
    pub fn apply(
        &self,
        raw: &Raw<'_>,
        scratch: &mut Scratch<R>,
        dtype: Dtype,
        merged: &mut Vec<R>,
        out: &mut [u8],
    ) -> Result<Tally> {
        let size = (dtype.bits() / 8) as usize;
        let limit = overflow_limit::<R>(dtype);
        let mut tally = Tally::default();
        let mut at = 0;
        self.tensor.blocks_carrying(raw, scratch, |block, carried| {
            merged.resize(block.length, R::ZERO);
            tally.taken += self.evaluate(block, merged);
            if !all_below(merged, limit) {
                tally.carried += self.overflows(dtype, block.start, merged, limit)?;
            }
            if self.tensor.has_base {
                tally.changed += count_different(merged, block.base());
            }
            for &(e, value) in carried {
                merged[e] = value;
            }
            tally.carried += carried.len() as u64;
            let bytes = &mut out[at * size..(at + block.length) * size];
            at += block.length;
            dtype::encode(dtype, merged, bytes)
        })?;
        Ok(tally)
    }

    /// How many results do not fit the output's dtype; an error unless such values may go through.
    fn overflows(&self, dtype: Dtype, start: u64, merged: &[R], limit: R) -> Result<u64> {
        let beyond = |value: &R| !(value.abs() < limit);
        let Some(at) = merged.iter().position(beyond).filter(|_| !self.tensor.context.carry) else {
            return Ok(merged.iter().filter(|value| beyond(value)).count() as u64);
        };
        let what = format!("the result {:e} does not fit {}", merged[at].to_f64(), dtype.name());
        Err(Error::from(Kind::NotFinite { what, element: start + at as u64 })
            .tensor(self.tensor.name))
    }
}

/// The smallest magnitude that becomes infinite (or NaN) as `dtype`.
fn overflow_limit<R: Number>(dtype: Dtype) -> R {
    // The largest finite number and half a step; at the tie the even neighbour wins, which is beyond, but for E4M3.
    let two = |exponent: i32| 2f64.powi(exponent);
    match dtype {
        Dtype::F16 => R::from_f64(65_520.0),
        Dtype::BF16 => R::from_f64(two(128) - two(119)),
        Dtype::F8E4M3 => R::from_f64(464.0).successor(),
        Dtype::F8E5M2 => R::from_f64(61_440.0),
        Dtype::F32 if R::IS_F64 => R::from_f64(two(128) - two(103)),
        _ => R::from_f64(f64::INFINITY),
    }
}

vectorised! {
    fn all_below<R: Number>(values: &[R], limit: R) -> bool {
        // Written so that NaN is not below.
        let mut below = true;
        for value in values {
            below &= value.abs() < limit;
        }
        below
    }
}

vectorised! {
    fn count_different<R: Number>(values: &[R], base: &[R]) -> u64 {
        let mut count = 0u32;
        for (value, base) in values.iter().zip(base) {
            count += u32::from(value != base);
        }
        u64::from(count)
    }
}

vectorised! {
    fn scale<R: Number>(delta: &mut [R], factor: f64) {
        for delta in delta {
            *delta = R::from_f64(delta.to_f64() * factor);
        }
    }
}

vectorised! {
    /// b + factor·(y − b).
    fn scale_change<R: Number>(merged: &mut [R], base: &[R], factor: f64) {
        for (merged, &base) in merged.iter_mut().zip(base) {
            let change = merged.to_f64() - base.to_f64();
            let scaled = R::from_f64(base.to_f64() + factor * change);
            *merged = if change == 0.0 { base } else { scaled };
        }
    }
}

vectorised! {
    fn add_base<R: Number>(delta: &mut [R], base: &[R]) {
        // Adding +0 to −0 would lose the base's sign.
        for (delta, &base) in delta.iter_mut().zip(base) {
            let sum = base + *delta;
            *delta = if *delta == R::ZERO { base } else { sum };
        }
    }
}
