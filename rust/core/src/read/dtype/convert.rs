//! Whole slices between stored bytes and numbers.

use super::pattern::{Brain, E4m3, E5m2, Format, Half, Single};
use super::{Dtype, Real};
use crate::error::{Error, Kind, Result};

/// The numbers of stored bytes, little-endian, exactly; only `F64` into `f32` rounds, to nearest even. Returns whether all
/// are finite.
///
/// # Errors
/// `Internal` where the lengths do not agree or the dtype does not merge: the plan has made sure of both.
pub fn decode<R: Real>(dtype: Dtype, bytes: &[u8], out: &mut [R]) -> Result<bool> {
    check(dtype, out.len(), bytes.len())?;
    Ok(match dtype {
        Dtype::F8E4M3 => widen::<R, E4m3, 1>(bytes, out),
        Dtype::F8E5M2 => widen::<R, E5m2, 1>(bytes, out),
        Dtype::F16 => widen::<R, Half, 2>(bytes, out),
        Dtype::BF16 => widen::<R, Brain, 2>(bytes, out),
        Dtype::F32 => widen::<R, Single, 4>(bytes, out),
        _ => from_doubles(bytes, out),
    })
}

/// The bytes, little-endian, of numbers rounded once to the nearest of `dtype`, the even one of two.
///
/// Overflow becomes infinity (NaN in `F8_E4M3`, which has none). A NaN stays one, with what fits of its payload.
///
/// # Errors
/// `Internal` where the lengths do not agree or the dtype does not merge: the plan has made sure of both.
pub fn encode<R: Real>(dtype: Dtype, values: &[R], out: &mut [u8]) -> Result<()> {
    check(dtype, values.len(), out.len())?;
    match dtype {
        Dtype::F8E4M3 => narrow::<R, E4m3, 1>(values, out),
        Dtype::F8E5M2 => narrow::<R, E5m2, 1>(values, out),
        Dtype::F16 => narrow::<R, Half, 2>(values, out),
        Dtype::BF16 => narrow::<R, Brain, 2>(values, out),
        Dtype::F32 => narrow::<R, Single, 4>(values, out),
        _ => into_doubles(values, out),
    }
    Ok(())
}

/// A zero that the compiler does not know.
///
/// It keeps the loops that only copy from becoming calls of `memcpy`: on some processors that runs at 2 GB/s for
/// blocks of this size, against 40 for the loop.
fn unseen_zero() -> u32 {
    std::hint::black_box(0)
}

fn check(dtype: Dtype, elements: usize, bytes: usize) -> Result<()> {
    let name = dtype.name();
    let what = if !dtype.is_float() {
        format!("{name} is no dtype to compute with")
    } else if dtype.bytes_for(elements as u64) != Some(bytes as u64) {
        format!("{elements} elements of {name} in {bytes} bytes")
    } else {
        return Ok(());
    };
    Err(Error::from(Kind::Internal { what }))
}

vectorised! {
    fn widen<R: Real, F: Format, const BYTES: usize>(bytes: &[u8], out: &mut [R]) -> bool {
        let none = unseen_zero();
        let mut largest = 0;
        for (value, stored) in out.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
            let mut pattern = [0; 4];
            pattern[..BYTES].copy_from_slice(stored);
            let pattern = u32::from_le_bytes(pattern) ^ none;
            *value = R::widen::<F>(pattern);
            largest = largest.max(pattern & ((1 << F::SIGN) - 1));
        }
        largest < F::SPECIAL
    }
}

vectorised! {
    fn narrow<R: Real, F: Format, const BYTES: usize>(values: &[R], out: &mut [u8]) {
        let none = unseen_zero();
        for (stored, value) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(values) {
            let pattern = (value.narrow::<F>() ^ none).to_le_bytes();
            stored.copy_from_slice(&pattern[..BYTES]);
        }
    }
}

vectorised! {
    fn from_doubles<R: Real>(bytes: &[u8], out: &mut [R]) -> bool {
        let none = u64::from(unseen_zero());
        let mut finite = true;
        for (value, stored) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *value = R::from_double(f64::from_bits(u64::from_le_bytes(*stored) ^ none));
            finite &= value.is_finite();
        }
        finite
    }
}

vectorised! {
    fn into_doubles<R: Real>(values: &[R], out: &mut [u8]) {
        let none = u64::from(unseen_zero());
        for (stored, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
            *stored = (value.into_double().to_bits() ^ none).to_le_bytes();
        }
    }
}
