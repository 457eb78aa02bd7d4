//! Both ways to search against sorting, on tensors that a sample shows or misleads about.

use super::*;
use crate::fit::method::Space;
use crate::fit::properties::Room;
use crate::read::dtype::Dtype;

const ELEMENTS: usize = 3 * CHUNK as usize + 1000;
const RANKS: [u64; 6] =
    [0, 1000, ELEMENTS as u64 / 4, ELEMENTS as u64 / 2, ELEMENTS as u64 - 1, u64::MAX];

fn noise(element: usize) -> f64 {
    (element as u32).wrapping_mul(0x9e37_79b1) as f64 / 2f64.powi(32) - 0.5
}

/// The elements that a sample draws of a tensor of this size.
fn drawn() -> Vec<bool> {
    let room = Room::new(Dtype::F32, &[vec![0.0; ELEMENTS]], ELEMENTS);
    let tensor = room.tensor::<f32>(Space::Weights, false, 1);
    let step = |places: &mut Vec<_>, block: &Block<'_, f32>| {
        places.push(block.start as usize..block.start as usize + block.length);
    };
    let mut drawn = vec![false; ELEMENTS];
    for places in tensor.sample(Vec::new, step).expect("a sample") {
        places.into_iter().for_each(|place| drawn[place].fill(true));
    }
    drawn
}

/// Both ways to search give what sorting gives.
#[track_caller]
fn agrees_with_sorting(values: &[f64]) {
    let room = Room::new(Dtype::F32, &[values.to_vec()], values.len());
    let mut keys: Vec<u32> = values.iter().map(|&value| (value as f32).key()).collect();
    keys.sort_unstable();
    let expected = RANKS.map(|rank| {
        let key = keys[(rank as usize).min(keys.len() - 1)];
        let below = keys.partition_point(|&other| other < key) as u64;
        Cut { key, below, equal: keys.partition_point(|&other| other <= key) as u64 - below }
    });
    let push = |block: &Block<'_, f32>, _: usize, keys: &mut Vec<u32>| {
        keys.extend(block.branch(0).iter().map(|value| value.key()));
    };
    for threads in [1, 3] {
        let tensor = room.tensor::<f32>(Space::Weights, false, threads);
        let found = select(&tensor, 1, push, |_, _| RANKS.to_vec()).expect("cuts");
        assert_eq!(found, [expected]);
        let found = by_digits(&tensor, 1, push, |_, _| RANKS.to_vec()).expect("cuts");
        assert_eq!(found, [expected]);
    }
}

#[test]
fn noise_is_cut() {
    agrees_with_sorting(&(0..ELEMENTS).map(noise).collect::<Vec<_>>());
    agrees_with_sorting(&(0..1000).map(noise).collect::<Vec<_>>());
}

#[test]
fn equal_keys_are_counted() {
    agrees_with_sorting(&vec![-0.25; ELEMENTS]);
    let few = |element| (noise(element) * 4.0).round();
    agrees_with_sorting(&(0..ELEMENTS).map(few).collect::<Vec<_>>());
}

#[test]
fn order_in_the_tensor_does_not_mislead() {
    agrees_with_sorting(&(0..ELEMENTS).map(|element| element as f64).collect::<Vec<_>>());
    let late = |element| if element > ELEMENTS / 2 { noise(element) } else { 0.0 };
    agrees_with_sorting(&(0..ELEMENTS).map(late).collect::<Vec<_>>());
}

#[test]
fn what_the_sample_does_not_see_is_found() {
    let drawn = drawn();
    let hidden = |element: usize| if drawn[element] { 5.0 } else { noise(element) };
    agrees_with_sorting(&(0..ELEMENTS).map(hidden).collect::<Vec<_>>());
    // More lies between what was drawn than may be kept.
    let crowded = |element: usize| {
        if drawn[element] { (element % 2) as f64 * 4.0 - 2.0 } else { noise(element) }
    };
    agrees_with_sorting(&(0..ELEMENTS).map(crowded).collect::<Vec<_>>());
}

#[test]
fn lanes_are_apart_and_may_be_empty() {
    let room = Room::new(Dtype::F32, &[(0..ELEMENTS).map(noise).collect()], ELEMENTS);
    let tensor = room.tensor::<f32>(Space::Weights, false, 2);
    let push = |block: &Block<'_, f32>, lane: usize, keys: &mut Vec<u32>| {
        let wanted = |value: &&f32| lane == 0 && **value > 0.0;
        keys.extend(block.branch(0).iter().filter(wanted).map(|value| value.key()));
    };
    let middle = |_, all: u64| vec![all / 2];
    let found = select(&tensor, 2, push, middle).expect("cuts");
    assert_eq!(found, by_digits(&tensor, 2, push, middle).expect("cuts"));
    assert!(found[0][0].below.abs_diff(ELEMENTS as u64 / 4) < 5 && found[1].is_empty());
}
