//! The two kinds of number a kernel computes in, with the functions that the standard library would take from the
//! platform: `exp`, `ln`, `sin`, `acos` are written out here in `+ - * / sqrt`, so that their bits are the same everywhere.

use crate::read::dtype::Real;

/// A key that orders numbers, as an unsigned integer.
pub trait Key: Copy + Ord + Send + Sync + Default + std::fmt::Debug + 'static {
    /// How many bits it has.
    const BITS: u32;
    /// The bits as the widest key.
    fn wide(self) -> u128;
    /// The key with these bits.
    fn from_wide(bits: u128) -> Self;
    /// The key, which counts something here, one higher where `more` says so.
    #[must_use]
    fn plus(self, more: bool) -> Self;
}

macro_rules! keys {
    ($($key:ident)*) => {
        $(impl Key for $key {
            const BITS: u32 = $key::BITS;
            #[inline(always)]
            fn wide(self) -> u128 {
                self as u128
            }
            #[inline(always)]
            fn from_wide(bits: u128) -> Self {
                bits as $key
            }
            #[inline(always)]
            fn plus(self, more: bool) -> Self {
                self + Self::from(more)
            }
        })*
    };
}

keys! { u32 u64 u128 }

/// A number that kernels compute in: `f32`, or `f64` where an input is stored as such.
pub trait Number: Real {
    /// The integer that orders such numbers.
    type Key: Key;
    /// The integer that orders magnitudes, and equal ones among themselves.
    type Ranked: Key;
    /// A key that grows with the number, over both signs.
    fn key(self) -> Self::Key;
    /// The number of a key.
    fn from_key(key: Self::Key) -> Self;
    /// A key that grows with the magnitude, and of equal ones with the smaller order.
    fn ranked(self, order: u32) -> Self::Ranked;
    /// The key of the magnitude, and the order.
    fn of_ranked(ranked: Self::Ranked) -> (Self::Key, u32);
    /// e to the power of the number, relative error below 4 roundings; arguments are clamped to the range of normal results.
    fn exp(self) -> Self;
    /// For a number of magnitude below 0.5: (e^d − 1, d·e^d − (e^d − 1)), both by series, relative error below 4 roundings.
    fn small_exp_terms(self) -> (Self, Self);
    /// The next larger such number.
    fn successor(self) -> Self;
    /// The smallest such number that is not below `value`.
    fn round_up(value: f64) -> Self;
    /// The largest such number that is not above `value`.
    fn round_down(value: f64) -> Self;
}

/// Horner's rule; coefficients from the highest power down.
macro_rules! horner {
    ($x:expr, $first:expr $(, $rest:expr)*) => {{
        let x = $x;
        let mut sum = $first;
        $( sum = sum * x + $rest; )*
        sum
    }};
}

macro_rules! number {
    ($float:ident, $key:ident, $ranked:ident, $sign:expr, mantissa: $mantissa:expr, bias: $bias:expr, clamp: ($low:expr, $high:expr),
     ln2: ($ln2_high:expr, $ln2_low:expr), exp: [$($exp:expr),*], minus_one: [$($minus:expr),*], phi: [$($phi:expr),*]) => {
        impl Number for $float {
            type Key = $key;
            type Ranked = $ranked;

            #[inline(always)]
            fn key(self) -> $key {
                let bits = self.to_bits();
                // All bits of a negative number are turned, of a positive one only the sign.
                let negative = 0 as $key;
                let turn = negative.wrapping_sub(bits >> ($key::BITS - 1)) | $sign;
                bits ^ turn
            }

            #[inline(always)]
            fn from_key(key: $key) -> Self {
                let positive = (key >> ($key::BITS - 1)).wrapping_sub(1);
                Self::from_bits(key ^ (positive | $sign))
            }

            #[inline(always)]
            fn ranked(self, order: u32) -> $ranked {
                (self.abs().key() as $ranked) << 32 | !order as $ranked
            }

            #[inline(always)]
            fn of_ranked(ranked: $ranked) -> ($key, u32) {
                ((ranked >> 32) as $key, !(ranked as u32))
            }

            #[inline(always)]
            fn exp(self) -> Self {
                // Adding 1.5 · 2^mantissa rounds to an integer and leaves it in the low bits.
                const MAGIC: $float = 1.5 * (1u64 << $mantissa) as $float;
                let x = if self < $low { $low } else { self };
                let x = if x > $high { $high } else { x };
                let shifted = x * std::$float::consts::LOG2_E + MAGIC;
                let n = shifted - MAGIC;
                let r = x - n * $ln2_high - n * $ln2_low;
                let power = $float::from_bits((shifted.to_bits() << $mantissa).wrapping_add($bias << $mantissa));
                horner!(r, $($exp),*) * power
            }

            #[inline(always)]
            fn small_exp_terms(self) -> (Self, Self) {
                (horner!(self, $($minus),*) * self, horner!(self, $($phi),*) * self * self)
            }

            fn successor(self) -> Self {
                self.next_up()
            }

            fn round_up(value: f64) -> Self {
                let near = value as $float;
                if (near as f64) < value { near.next_up() } else { near }
            }

            fn round_down(value: f64) -> Self {
                let near = value as $float;
                if (near as f64) > value { near.next_down() } else { near }
            }
        }
    };
}

// exp: 1/k!. minus_one: 1/k! from k = 1. phi: (k − 1)/k! from k = 2. Cut where the next term is below a rounding:
// |r| ≤ ln2/2 for exp, |d| < 0.5 for the series.
number!(f32, u32, u64, 0x8000_0000, mantissa: 23, bias: 127, clamp: (-87.0, 88.0),
    ln2: (0.693_359_4, -2.121_944_4e-4),
    exp: [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0],
    minus_one: [1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0],
    phi: [8.0 / 362_880.0, 7.0 / 40320.0, 6.0 / 5040.0, 5.0 / 720.0, 4.0 / 120.0, 3.0 / 24.0, 2.0 / 6.0, 0.5]);

number!(f64, u64, u128, 0x8000_0000_0000_0000, mantissa: 52, bias: 1023, clamp: (-708.0, 709.0),
    ln2: (0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10),
    exp: [1.0 / 6_227_020_800.0, 1.0 / 479_001_600.0, 1.0 / 39_916_800.0, 1.0 / 3_628_800.0, 1.0 / 362_880.0,
        1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0],
    minus_one: [1.0 / 1_307_674_368_000.0, 1.0 / 87_178_291_200.0, 1.0 / 6_227_020_800.0, 1.0 / 479_001_600.0,
        1.0 / 39_916_800.0, 1.0 / 3_628_800.0, 1.0 / 362_880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
        1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0],
    phi: [14.0 / 1_307_674_368_000.0, 13.0 / 87_178_291_200.0, 12.0 / 6_227_020_800.0, 11.0 / 479_001_600.0,
        10.0 / 39_916_800.0, 9.0 / 3_628_800.0, 8.0 / 362_880.0, 7.0 / 40320.0, 6.0 / 5040.0, 5.0 / 720.0, 4.0 / 120.0,
        3.0 / 24.0, 2.0 / 6.0, 0.5]);

/// u + ln(1 − u), for u < 1: −(u²/2 + u³/3 + …) where u is small, so that nothing near-equal is subtracted.
///
/// Relative error below 1e-14 for |u| ≤ 0.25.
#[must_use]
pub fn u_plus_ln_one_minus(u: f64) -> f64 {
    if u.abs() > 0.25 {
        return u + ln(1.0 - u);
    }
    let mut sum = 0.0;
    for k in (2..=28).rev() {
        sum = sum * u + 1.0 / f64::from(k);
    }
    -sum * u * u
}

/// The natural logarithm of a positive normal number; absolute error below 1e-15 · max(1, |result|).
#[must_use]
pub fn ln(x: f64) -> f64 {
    // x = m · 2^e with m in [√½, √2); ln m = 2·artanh((m − 1)/(m + 1)).
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..=12).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// The angle whose cosine is `c`, for |c| < 1; relative error below 1e-13 for |c| ≤ 0.9999.
#[must_use]
pub fn acos(c: f64) -> f64 {
    2.0 * arctan((1.0 - c).sqrt() / (1.0 + c).sqrt())
}

/// The arc tangent of a non-negative number: three halvings of the angle, then the series.
fn arctan(x: f64) -> f64 {
    let mut x = x;
    for _ in 0..3 {
        x /= 1.0 + (1.0 + x * x).sqrt();
    }
    let square = x * x;
    let mut sum = 0.0;
    for k in (0..=12).rev() {
        let term = 1.0 / f64::from(2 * k + 1);
        sum = term - sum * square;
    }
    8.0 * x * sum
}

/// The cosine, as exact as [`sin`].
#[must_use]
pub fn cos(x: f64) -> f64 {
    // 1 − 2·sin²(x/2): no difference of near-equal numbers but where the cosine itself is near 0.
    let half = sin(0.5 * x);
    1.0 - 2.0 * half * half
}

/// The hyperbolic tangent; relative error below 1e-14.
#[inline(always)]
#[must_use]
pub fn tanh(x: f64) -> f64 {
    let size = x.abs();
    // Both ways for every number, so that loops over them vectorise; the series only sees small ones.
    let small = if size < 0.2 { size } else { 0.2 };
    let (minus_one, _) = (2.0 * small).small_exp_terms();
    let near = minus_one / (minus_one + 2.0);
    let far = 1.0 - 2.0 / (Number::exp(2.0 * size) + 1.0);
    let tanh = if size < 0.2 { near } else { far };
    if x < 0.0 { -tanh } else { tanh }
}

/// The sine; absolute error below 1e-15 for |x| up to a few turns, growing with the number of turns.
#[must_use]
pub fn sin(x: f64) -> f64 {
    // Two parts of π, so that taking whole half turns away keeps the small rest exact enough.
    const PI_HIGH: f64 = 3.141_592_653_589_793;
    const PI_LOW: f64 = 1.224_646_799_147_353_2e-16;
    let half_turns = (x / PI_HIGH).round();
    let r = x - half_turns * PI_HIGH - half_turns * PI_LOW;
    let square = r * r;
    let mut sum = 0.0;
    for k in (1..=11).rev() {
        let k = f64::from(k);
        sum = 1.0 - square / ((2.0 * k) * (2.0 * k + 1.0)) * if sum == 0.0 { 1.0 } else { sum };
    }
    let odd = half_turns / 2.0 != (half_turns / 2.0).floor();
    if odd { -r * sum } else { r * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, tolerance: f64, at: f64) {
        let error = (found - expected).abs() / expected.abs().max(1e-300);
        assert!(error <= tolerance, "at {at}: {found} against {expected}, error {error:e}");
    }

    #[test]
    fn exp_agrees_with_the_platform() {
        for i in -8600..8700 {
            let x = f64::from(i) * 0.01 + 0.000_37;
            close(Number::exp(x), x.exp(), 1e-15, x);
            close(f64::from(Number::exp(x as f32)), f64::from(x as f32).exp(), 2.5e-7, x);
        }
        assert!(Number::exp(-1e30f32) > 0.0 && Number::exp(1e30f32).is_finite());
    }

    #[test]
    fn series_agree_with_the_closed_form() {
        for i in 1..5000 {
            for sign in [1.0, -1.0] {
                let d = sign * f64::from(i) * 1e-4;
                let (minus_one, phi) = d.small_exp_terms();
                close(minus_one, d.exp_m1(), 1e-14, d);
                // φ by a series of its own: the closed form cancels.
                let expected: f64 = (2..30)
                    .map(|k| (1..=k).fold(f64::from(k - 1), |term, j| term * d / f64::from(j)))
                    .sum();
                close(phi, expected, 1e-14, d);
                let (minus_one, phi32) = (d as f32).small_exp_terms();
                close(f64::from(minus_one), d.exp_m1(), 4e-7, d);
                close(f64::from(phi32), expected, 4e-7, d);
            }
        }
    }

    #[test]
    fn logarithm_and_angles_agree_with_the_platform() {
        for i in 1..4000 {
            let x = f64::from(i) * 0.01;
            assert!((ln(x) - x.ln()).abs() < 2e-15 * x.ln().abs().max(1.0), "ln {x}");
            close(tanh(x / 20.0), (x / 20.0).tanh(), 1e-14, x);
            assert!((cos(x) - x.cos()).abs() < 4e-15, "cos {x}");
            assert!((sin(x) - x.sin()).abs() < 4e-15, "sin {x}: {} {}", sin(x), x.sin());
            let c = f64::from(i) / 2000.1 - 1.0;
            close(acos(c), c.acos(), 1e-13, c);
            let u = f64::from(i) / 4001.0;
            if u > 0.01 {
                close(u_plus_ln_one_minus(u), u + (-u).ln_1p(), 1e-11, u);
            }
        }
    }

    #[test]
    fn keys_order_numbers_of_both_signs() {
        let numbers = [f32::NEG_INFINITY, -2.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, f32::INFINITY];
        for pair in numbers.windows(2) {
            assert!(pair[0].key() < pair[1].key());
            assert_eq!(f32::from_key(pair[0].key()).to_bits(), pair[0].to_bits());
        }
    }
}
