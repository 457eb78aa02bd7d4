//! As many as asked for, the largest, from everywhere.

use super::*;
use crate::fit::method::Space;
use crate::fit::properties::Room;
use crate::fit::tensor::CHUNK;
use crate::read::dtype::Dtype;

/// Exactly as many are kept as asked for, none smaller than one that is not, and they lie everywhere.
#[track_caller]
fn keeps_exactly<R: Number>(dtype: Dtype, values: &[f64], share: f64) {
    let base = vec![0.0; values.len()];
    let room = Room::new(dtype, &[base, values.to_vec()], values.len());
    let tensor = room.tensor::<R>(Space::Delta, true, 2);
    let quota = Quota::largest(share, values.len() as u64);
    let cut = bands(&tensor, &[quota]).expect("a cut")[0];
    let values: Vec<R> = values.iter().map(|&value| R::from_f64(value)).collect();
    let mut kept = vec![R::ZERO; values.len()];
    cut.keep(tensor.streams[0], 0, &values, &mut kept);
    let count = |kept: &[R]| kept.iter().filter(|value| **value != R::ZERO).count();
    let chosen = count(&kept);
    assert_eq!(chosen, ((share * values.len() as f64).floor() as usize).max(1));
    let sizes = kept.iter().filter(|value| **value != R::ZERO).map(|value| value.abs().to_f64());
    let least = sizes.fold(f64::MAX, f64::min);
    let both = || values.iter().zip(&kept);
    assert!(both().all(|(value, kept)| kept == value || value.abs().to_f64() <= least));
    let early = count(&kept[..kept.len() / 2]) as f64 / chosen as f64;
    assert!((early - 0.5).abs() < 3.0 / (chosen as f64).sqrt());
}

#[test]
fn equal_magnitudes_are_kept_as_many_as_asked_for() {
    let steps = |elements: usize, levels: u32| {
        let value = |element: usize| {
            let mixed = (element as u32).wrapping_mul(0x9e37_79b1) >> 16;
            (1 + mixed % levels) as f64 * if mixed & 1 == 0 { 0.5 } else { -0.5 }
        };
        (0..elements).map(value).collect::<Vec<f64>>()
    };
    for elements in [1, 1000, 2 * CHUNK as usize + 77] {
        for (levels, share) in [(1, 0.5), (1, 0.001), (3, 0.4), (1000, 0.2), (60_000, 0.9)] {
            let values = steps(elements, levels);
            keeps_exactly::<f32>(Dtype::F32, &values, share);
            keeps_exactly::<f64>(Dtype::F64, &values, share);
        }
    }
}

#[test]
fn what_a_sample_does_not_see_is_found() {
    // All at one place in the tensor: most samples see few of them.
    let elements = 2 * CHUNK as usize;
    let late = |e: usize| if e % CHUNK as usize > CHUNK as usize - 40 { 2.0 } else { 1.0 };
    let values: Vec<f64> = (0..elements).map(late).collect();
    keeps_exactly::<f32>(Dtype::F32, &values, 60.0 / elements as f64);
    keeps_exactly::<f64>(Dtype::F64, &values, 60.0 / elements as f64);
}

#[test]
fn a_band_leaves_out_the_larger_ones() {
    for elements in [7, 1000, 2 * CHUNK as usize + 77] {
        let values: Vec<f64> = (0..elements).map(|e| ((e * 7919) % elements + 1) as f64).collect();
        let room = Room::new(Dtype::F64, &[vec![0.0; elements], values.clone()], elements);
        let tensor = room.tensor::<f64>(Space::Delta, true, 2);
        for (kept, above) in [(1, 0), (elements / 3, 1), (elements / 2, elements / 10)] {
            let quota = Quota { kept: kept as u64, above: above as u64 };
            let band = bands(&tensor, &[quota]).expect("a band")[0];
            let mut left = vec![0.0; elements];
            band.keep(tensor.streams[0], 0, &values, &mut left);
            // The numbers are 1 to the count of elements, each once.
            let last = elements - above;
            let expected = |value: f64| value > (last - kept) as f64 && value <= last as f64;
            assert!(
                values.iter().zip(&left).all(|(&value, &left)| (left != 0.0) == expected(value))
            );
        }
    }
}
