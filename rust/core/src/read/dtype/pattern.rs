//! One number between a stored pattern of bits and `f32` or `f64`, without a branch, so that loops of it vectorise.
//!
//! Nearly all is integer arithmetic, NaN too: the processor's own conversions make signalling NaNs quiet, and in a mode
//! that flushes subnormals they lose those. The one addition and the one multiplication below touch no subnormal.

/// A binary floating-point format of at most 32 bits: a sign, exponent bits, mantissa bits.
pub(super) trait Format {
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// Bits of the mantissa.
    const MANTISSA: u32;
    /// Whether there are infinities. If not, the one pattern of all ones is NaN, and the rest are numbers.
    const INFINITE: bool = true;

    /// The place of the sign, so the count of the other bits.
    const SIGN: u32 = Self::EXPONENT + Self::MANTISSA;
    /// The exponent of 1.
    const BIAS: u32 = (1 << (Self::EXPONENT - 1)) - 1;
    /// What overflow becomes: infinity, or NaN where there is none.
    const OVERFLOW: u32 = if Self::INFINITE {
        ((1 << Self::EXPONENT) - 1) << Self::MANTISSA
    } else {
        (1 << Self::SIGN) - 1
    };
    /// The first magnitude that is no finite number.
    const SPECIAL: u32 = Self::OVERFLOW;
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: $exponent:literal, $mantissa:literal, $infinite:literal;)*) => {
        $($(#[$doc])*
        pub(super) struct $name;
        impl Format for $name {
            const EXPONENT: u32 = $exponent;
            const MANTISSA: u32 = $mantissa;
            const INFINITE: bool = $infinite;
        })*
    };
}

formats! {
    /// `F8_E4M3`, of Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
    E4m3: 4, 3, false;
    /// `F8_E5M2`, of the same.
    E5m2: 5, 2, true;
    /// `F16`.
    Half: 5, 10, true;
    /// `BF16`.
    Brain: 8, 7, true;
    /// `F32`.
    Single: 8, 23, true;
}

/// `f32` and `f64`: what narrower formats are read into and rounded from.
#[allow(private_bounds, reason = "sealed: only the two implement it")]
pub trait Wide: Sized {
    /// The number of a pattern, exactly.
    fn widen<F: Format>(pattern: u32) -> Self;
    /// The pattern of the nearest number, the even one of two.
    fn narrow<F: Format>(self) -> u32;
    /// The number of an `f64`; the nearest where it is narrower.
    fn from_double(value: f64) -> Self;
    /// The same number; a NaN as it is.
    fn into_double(self) -> f64;
}

macro_rules! wide {
    ($float:ident, $bits:ident, $signed:ident, exponent: $exponent:literal, mantissa: $mantissa:literal,
     from: |$value:ident| $from_double:expr, into: |$self:ident| $into_double:expr) => {
        #[allow(private_bounds, clippy::inline_always)]
        impl Wide for $float {
            #[inline(always)]
            fn widen<F: Format>(pattern: u32) -> Self {
                if F::EXPONENT == $exponent {
                    let shift = $mantissa - F::MANTISSA;
                    return $float::from_bits((pattern as $bits) << shift);
                }
                let rebias = ((1 << ($exponent - 1)) - 1 - F::BIAS) as $bits;
                let magnitude = (pattern & ((1 << F::SIGN) - 1)) as $bits;
                let sign = (pattern >> F::SIGN) as $bits;
                let normal = (magnitude << ($mantissa - F::MANTISSA)) + (rebias << $mantissa);
                // A subnormal is a whole number of steps.
                let step = $float::from_bits((rebias + 1 - F::MANTISSA as $bits) << $mantissa);
                let subnormal = (magnitude as $signed as $float * step).to_bits();
                let all_ones = ((1 << $exponent) - 1) << $mantissa;
                let special = if magnitude >= F::SPECIAL as $bits { all_ones } else { 0 };
                let number = if magnitude < 1 << F::MANTISSA { subnormal } else { normal };
                $float::from_bits(number | special | sign << ($exponent + $mantissa))
            }

            #[inline(always)]
            fn narrow<F: Format>(self) -> u32 {
                let bits = self.to_bits();
                let shift = $mantissa - F::MANTISSA;
                if shift == 0 {
                    return bits as u32;
                }
                let sign = (bits >> ($exponent + $mantissa)) << F::SIGN;
                let magnitude = bits << 1 >> 1;
                let rebias = ((1 << ($exponent - 1)) - 1 - F::BIAS) as $bits;

                // Half a step less the last bit that stays: exactly halves go up only to the even one.
                let moved = magnitude.wrapping_sub(rebias << $mantissa);
                let odd = moved >> shift & 1;
                let rounded = moved.wrapping_add((1 << (shift - 1)) - 1 + odd) >> shift;
                let normal = rounded.min(F::OVERFLOW as $bits);

                // Below the normal numbers the processor rounds: beside this number its last bit is one step.
                let number = if F::EXPONENT == $exponent {
                    normal
                } else {
                    let least = (rebias + 1) << $mantissa;
                    let beside = (rebias + 1 + shift as $bits) << $mantissa;
                    let sum = $float::from_bits(magnitude) + $float::from_bits(beside);
                    let subnormal = sum.to_bits().wrapping_sub(beside);
                    if magnitude < least { subnormal } else { normal }
                };

                // What of a NaN's payload fits; where that is nothing, the quiet bit keeps it a NaN.
                let payload = magnitude >> shift & ((1 << F::MANTISSA) - 1);
                let quiet = 1 << (F::MANTISSA - 1);
                let nan = F::OVERFLOW as $bits | if payload == 0 { quiet } else { payload };
                let infinity = ((1 << $exponent) - 1) << $mantissa;
                let pattern = if magnitude > infinity { nan } else { number };
                (pattern | sign) as u32
            }

            #[inline(always)]
            fn from_double($value: f64) -> Self {
                $from_double
            }

            #[inline(always)]
            fn into_double($self) -> f64 {
                $into_double
            }
        }
    };
}

wide!(f32, u32, i32, exponent: 8, mantissa: 23,
    from: |value| f32::from_bits(value.narrow::<Single>()), into: |self| f64::widen::<Single>(self.to_bits()));
wide!(f64, u64, i64, exponent: 11, mantissa: 52, from: |value| value, into: |self| self);
