//! Every pattern of the narrow formats, and rounding against a slow oracle: a search among all numbers of a format.

#![allow(clippy::float_cmp, reason = "exact is what is tested")]

use proptest::prelude::*;

use super::*;

/// The narrow formats, by the words of their papers.
const NARROW: [(Dtype, u32, i32); 4] =
    [(Dtype::F8E4M3, 4, 3), (Dtype::F8E5M2, 5, 2), (Dtype::F16, 5, 10), (Dtype::BF16, 8, 7)];

/// The number of a pattern by its definition, sign · 2^exponent · mantissa.
fn number(dtype: Dtype, pattern: u32) -> f64 {
    let (_, exponent_bits, mantissa_bits) = NARROW.into_iter().find(|row| row.0 == dtype).unwrap();
    let mantissa = f64::from(pattern & ((1 << mantissa_bits) - 1)) / two_to(mantissa_bits);
    let exponent = (pattern >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let all_ones = exponent == (1 << exponent_bits) - 1;
    let magnitude = match dtype {
        Dtype::F8E4M3 if pattern & 0x7f == 0x7f => f64::NAN,
        Dtype::F8E4M3 => finite(exponent, mantissa, bias),
        _ if all_ones && mantissa == 0.0 => f64::INFINITY,
        _ if all_ones => f64::NAN,
        _ => finite(exponent, mantissa, bias),
    };
    if pattern >> (dtype.bits() - 1) & 1 == 1 { -magnitude } else { magnitude }
}

fn two_to(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

fn finite(exponent: i32, mantissa: f64, bias: i32) -> f64 {
    if exponent == 0 {
        mantissa * two_to(1 - bias)
    } else {
        (1.0 + mantissa) * two_to(exponent - bias)
    }
}

/// All finite magnitudes in order, then the one that would follow.
fn magnitudes(dtype: Dtype) -> Vec<f64> {
    let mut all: Vec<f64> = (0..1 << (dtype.bits() - 1))
        .map(|pattern| number(dtype, pattern))
        .filter(|number| number.is_finite())
        .collect();
    let (last, before) = (all[all.len() - 1], all[all.len() - 2]);
    all.push(last + (last - before));
    all
}

/// The pattern nearest to a number that is no NaN, the even one of two.
fn nearest(dtype: Dtype, magnitudes: &[f64], value: f64) -> u32 {
    let sign = u32::from(value.is_sign_negative()) << (dtype.bits() - 1);
    let above = magnitudes.partition_point(|&known| known <= value.abs());
    if above == magnitudes.len() {
        return sign | (above - 1) as u32;
    }
    let middle = f64::midpoint(magnitudes[above - 1], magnitudes[above]);
    let up = value.abs() > middle || value.abs() == middle && above % 2 == 0;
    sign | if up { above } else { above - 1 } as u32
}

fn encoded<R: Real>(dtype: Dtype, value: R) -> u64 {
    let mut bytes = vec![0; (dtype.bits() / 8) as usize];
    encode(dtype, &[value], &mut bytes).unwrap();
    bytes.resize(8, 0);
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn decoded<R: Real>(dtype: Dtype, pattern: u64) -> R {
    let mut value = [R::ZERO];
    let bytes = pattern.to_le_bytes();
    let finite = decode(dtype, &bytes[..(dtype.bits() / 8) as usize], &mut value).unwrap();
    assert_eq!(finite, value[0].is_finite(), "{dtype:?} {pattern:#x}");
    value[0]
}

/// All patterns at once, so that the vector code runs too.
fn all_patterns_come_back<R: Real>(dtype: Dtype) {
    let count = 1usize << dtype.bits();
    let size = (dtype.bits() / 8) as usize;
    let bytes: Vec<u8> = (0..count as u32)
        .flat_map(|pattern| pattern.to_le_bytes().into_iter().take(size))
        .collect();
    let mut values = vec![R::ONE; count];
    decode(dtype, &bytes, &mut values).unwrap();
    for (pattern, value) in values.iter().enumerate() {
        let expected = number(dtype, pattern as u32);
        let same = value.to_f64() == expected || value.to_f64().is_nan() && expected.is_nan();
        assert!(same, "{dtype:?} {pattern:#x}: {value:?} against {expected}");
        let sign = value.to_f64().is_sign_negative();
        assert!(expected.is_nan() || sign == expected.is_sign_negative());
    }
    let mut back = vec![0; bytes.len()];
    encode(dtype, &values, &mut back).unwrap();
    assert!(back == bytes, "{dtype:?}");
    for (i, value) in values.iter().enumerate() {
        assert_eq!(encoded(dtype, *value), i as u64, "{dtype:?}, one by one");
        assert_eq!(decoded::<R>(dtype, i as u64).is_finite(), value.is_finite());
    }
}

#[test]
fn every_pattern_comes_back_through_both() {
    for (dtype, ..) in NARROW {
        if cfg!(miri) && dtype.bits() > 8 {
            continue;
        }
        all_patterns_come_back::<f32>(dtype);
        all_patterns_come_back::<f64>(dtype);
    }
}

#[test]
#[cfg_attr(miri, ignore = "slow")]
fn halves_agree_with_another_implementation() {
    for pattern in 0..=u16::MAX {
        let (half, brain) = (half::f16::from_bits(pattern), half::bf16::from_bits(pattern));
        for (dtype, expected) in [(Dtype::F16, half.to_f32()), (Dtype::BF16, brain.to_f32())] {
            let found: f32 = decoded(dtype, u64::from(pattern));
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{dtype:?}");
        }
    }
    for bits in (0..=u32::MAX).step_by(4099) {
        let value = f32::from_bits(bits);
        if !value.is_nan() {
            let half = u64::from(half::f16::from_f32(value).to_bits());
            let brain = u64::from(half::bf16::from_f32(value).to_bits());
            assert_eq!(encoded(Dtype::F16, value), half, "{value:e}");
            assert_eq!(encoded(Dtype::BF16, value), brain, "{value:e}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "slow")]
fn rounding_is_to_nearest_even_once() {
    for (dtype, ..) in NARROW {
        let magnitudes = magnitudes(dtype);
        // Numbers, halves between, and the neighbours of both: ties, subnormals and the border of overflow among them.
        for pair in magnitudes.windows(2) {
            let middle = f64::midpoint(pair[0], pair[1]);
            for value in [pair[0], middle, pair[1]] {
                for value in [value.next_down(), value, value.next_up()] {
                    check_rounding(dtype, &magnitudes, value);
                    check_rounding(dtype, &magnitudes, -value);
                }
                let single = value as f32;
                for single in [single.next_down(), single, single.next_up()] {
                    let expected = nearest(dtype, &magnitudes, f64::from(single));
                    assert_eq!(encoded(dtype, single), u64::from(expected), "{dtype:?} {single:e}");
                }
            }
        }
        for value in [f64::MAX, f64::INFINITY, f64::MIN_POSITIVE, f64::from_bits(1), 0.0] {
            check_rounding(dtype, &magnitudes, value);
            check_rounding(dtype, &magnitudes, -value);
        }
    }
}

fn check_rounding(dtype: Dtype, magnitudes: &[f64], value: f64) {
    let expected = u64::from(nearest(dtype, magnitudes, value));
    assert_eq!(encoded(dtype, value), expected, "{dtype:?} {value:e}");
}

#[test]
fn a_nan_stays_a_nan() {
    for payload in
        (0..52).map(|bit| 1u64 << bit).chain([0x000f_ffff_ffff_ffff, 0x0008_0000_0000_0001])
    {
        for sign in [0, 1 << 63] {
            let value = f64::from_bits(sign | 0x7ff0_0000_0000_0000 | payload);
            for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F16, Dtype::BF16, Dtype::F32] {
                let pattern = encoded(dtype, value);
                assert!(decoded::<f64>(dtype, pattern).is_nan(), "{dtype:?} {payload:#x}");
                assert_eq!(pattern >> (dtype.bits() - 1), sign >> 63);
                let single = f32::from_bits(
                    (sign >> 32) as u32 | 0x7f80_0000 | (payload >> 29).max(1) as u32,
                );
                assert!(decoded::<f32>(dtype, encoded(dtype, single)).is_nan(), "{dtype:?}");
            }
            assert_eq!(encoded(Dtype::F64, value), value.to_bits());
        }
    }
    // The top of a payload is kept.
    assert_eq!(encoded(Dtype::BF16, f32::from_bits(0xffa5_1234)), 0xffa5);
    assert_eq!(encoded(Dtype::F16, f64::from_bits(0x7ff5_5400_0000_0001)), 0x7d55);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: if cfg!(miri) { 4 } else { 2048 }, ..ProptestConfig::default() })]

    #[test]
    fn singles_and_doubles_go_both_ways(bits: u64) {
        let (single, double) = (f32::from_bits(bits as u32), f64::from_bits(bits));
        prop_assert_eq!(encoded(Dtype::F32, single), bits & 0xffff_ffff);
        prop_assert_eq!(encoded(Dtype::F64, double), bits);
        prop_assert_eq!(decoded::<f64>(Dtype::F64, bits).to_bits(), bits);
        let wide: f64 = decoded(Dtype::F32, bits & 0xffff_ffff);
        prop_assert!(wide == f64::from(single) || wide.is_nan() && single.is_nan());
        prop_assert_eq!(encoded(Dtype::F32, wide), bits & 0xffff_ffff);
        let wide = encoded(Dtype::F64, single);
        prop_assert_eq!(decoded::<f32>(Dtype::F64, wide).to_bits(), bits as u32);
        let narrow = encoded(Dtype::F32, double);
        if !double.is_nan() {
            prop_assert_eq!(narrow, u64::from((double as f32).to_bits()));
            prop_assert_eq!(decoded::<f32>(Dtype::F64, bits).to_bits(), (double as f32).to_bits());
        }
    }

    #[test]
    fn singles_of_every_size_round_to_doubles_and_back(exponent in 0u64..700, mantissa: u64, signs: bool) {
        // Around the range of a single, where random bits seldom fall.
        let bits = (exponent + 700) << 52 | mantissa >> 12 | u64::from(signs) << 63;
        let double = f64::from_bits(bits);
        prop_assert_eq!(encoded(Dtype::F32, double), u64::from((double as f32).to_bits()));
    }

    #[test]
    fn slices_of_any_length_and_place_agree_with_single_numbers(
        dtype in proptest::sample::select(floats()), bytes in proptest::collection::vec(any::<u8>(), 0..700), from in 0usize..8,
    ) {
        let size = (dtype.bits() / 8) as usize;
        let bytes = bytes.get(from..).unwrap_or(&[]);
        let bytes = &bytes[..bytes.len() / size * size];
        let mut values = vec![0f32; bytes.len() / size];
        let finite = decode(dtype, bytes, &mut values).unwrap();
        prop_assert_eq!(finite, values.iter().all(|value| value.is_finite()));
        for (stored, value) in bytes.chunks(size).zip(&values) {
            let mut word = [0; 8];
            word[..size].copy_from_slice(stored);
            let one: f32 = decoded(dtype, u64::from_le_bytes(word));
            prop_assert_eq!(one.to_bits(), value.to_bits());
        }
        let mut back = vec![0; bytes.len() + from];
        encode(dtype, &values, &mut back[from..]).unwrap();
        for (stored, value) in back[from..].chunks(size).zip(&values) {
            prop_assert_eq!(stored, &encoded(dtype, *value).to_le_bytes()[..size]);
        }
    }
}

fn floats() -> Vec<Dtype> {
    Dtype::ALL.iter().copied().filter(|dtype| dtype.is_float()).collect()
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut values = [0f32; 2];
    for dtype in Dtype::ALL.iter().copied().filter(|dtype| !dtype.is_float()) {
        let size = dtype.bytes_for(2).unwrap_or(2) as usize;
        assert!(decode(dtype, &vec![0; size], &mut values).is_err(), "{dtype:?}");
        assert!(encode(dtype, &values, &mut vec![0; size]).is_err(), "{dtype:?}");
    }
    assert!(decode(Dtype::BF16, &[0; 3], &mut values).is_err());
    assert!(decode(Dtype::BF16, &[0; 5], &mut values).is_err());
    assert!(encode(Dtype::F64, &values, &mut [0; 8]).is_err());
    assert!(decode::<f32>(Dtype::F16, &[], &mut []).is_ok());
}

#[test]
fn names_lead_to_their_dtype_and_back() {
    for &dtype in Dtype::ALL {
        assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        if let Some(name) = dtype.config_name() {
            assert_eq!(Dtype::from_config(name), Some(dtype));
            assert_eq!(Dtype::from_config(&format!("torch.{name}")), Some(dtype));
        }
    }
    assert_eq!(Dtype::from_name("bf16"), None);
    assert_eq!(Dtype::from_config("torch.torch.float32"), None);
    assert_eq!(Dtype::from_config("bf16"), Some(Dtype::BF16));
    assert_eq!(Dtype::from_config("fp16"), Some(Dtype::F16));
    assert_eq!(Dtype::from_config("BF16"), None);
    let words: Vec<&str> =
        Dtype::ALL.iter().flat_map(|dtype| dtype.config_names()).copied().collect();
    assert!((0..words.len()).all(|i| !words[..i].contains(&words[i])), "a name leads to two");
}

#[test]
fn bytes_are_whole_or_nothing() {
    assert_eq!(Dtype::F4.bytes_for(3), None);
    assert_eq!(Dtype::F4.bytes_for(4), Some(2));
    assert_eq!(Dtype::F6E2M3.bytes_for(4), Some(3));
    assert_eq!(Dtype::F64.bytes_for(u64::MAX / 8), Some(u64::MAX / 8 * 8));
    assert_eq!(Dtype::F64.bytes_for(u64::MAX / 8 + 1), None);
    assert_eq!(Dtype::F4.bytes_for(u64::MAX - 1), Some(u64::MAX / 2));
    assert_eq!(Dtype::BOOL.bytes_for(0), Some(0));
}
