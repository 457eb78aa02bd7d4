//! What a kernel needs of the numbers it computes in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use super::pattern::Wide;

/// `f32`, or `f64` where an input is stored as such.
///
/// Every function is inlined, so that it is compiled for the instruction set of the loop it stands in.
pub trait Real:
    Wide
    + Copy
    + Default
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + Debug
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Whether it is `f64`.
    const IS_F64: bool;
    /// The nearest number.
    fn from_f64(value: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// The same number.
    fn from_f32(value: f32) -> Self;
    /// The magnitude.
    #[must_use]
    fn abs(self) -> Self;
    /// The square root, correctly rounded.
    #[must_use]
    fn sqrt(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// The bits of the magnitude: greater for the greater magnitude, NaN above all.
    fn magnitude_key(self) -> u64;
}

macro_rules! real {
    ($float:ident, $is_f64:literal) => {
        #[allow(clippy::inline_always)]
        impl Real for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const IS_F64: bool = $is_f64;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $float
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                value as $float
            }

            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }

            #[inline(always)]
            fn magnitude_key(self) -> u64 {
                // The sign is the highest bit.
                let bits = self.to_bits();
                (bits << 1 >> 1) as u64
            }
        }
    };
}

real!(f32, false);
real!(f64, true);
