//! What is kept is what counting every rank would keep, whatever the row looks like.

use super::*;
use crate::fit::marks::Marks;
use crate::fit::method::Space;
use crate::fit::properties::Room;
use crate::fit::tensor::Tensor;
use crate::read::dtype::Dtype;

const ODDS: Odds = Odds { least: 0.3, most: 0.8 };

fn marked<R: Number>(dtype: Dtype, values: &[f64], row: usize) -> Vec<bool> {
    let base = vec![0.0; values.len()];
    let room = Room::new(dtype, &[base, values.to_vec()], row);
    let tensor: Tensor<'_, R> = room.tensor(Space::Delta, true, 2);
    let (marks, _) = Marks::find(&tensor, Ranks::default, |ranks, row, marks| {
        ranks.choose(row, 0, tensor.streams[0], ODDS, marks.branch(0))
    })
    .expect("marks");
    let kept = tensor
        .fold(
            || vec![false; values.len()],
            |found, block| {
                let mut kept = vec![R::ZERO; block.length];
                marks.keep(0, block, &mut kept);
                for (e, value) in kept.iter().enumerate() {
                    found[block.start as usize + e] = *value != R::ZERO;
                }
            },
            |all, some| all.iter_mut().zip(some).for_each(|(all, some)| *all |= some),
        )
        .expect("a fold");
    let mut numbers = vec![0; values.len()];
    tensor.streams[0].uniform(0, &mut numbers);
    let expected = |e: usize| {
        let own = &values[e / row * row..][..row];
        let smaller = own.iter().filter(|value| value.abs() < values[e].abs()).count() as f64;
        let equal = own.iter().filter(|value| value.abs() == values[e].abs()).count() as f64;
        let place = (smaller + 0.5 * (equal - 1.0)) / (row - 1) as f64;
        let odds = ODDS.least + (ODDS.most - ODDS.least) * place;
        f64::from(numbers[e]) < odds * 2f64.powi(32) && values[e] != 0.0
    };
    let wrong = (0..values.len()).filter(|&e| kept[e] != expected(e)).count();
    assert_eq!(wrong, 0, "of {} elements in rows of {row}", values.len());
    kept
}

fn mixed(e: usize) -> f64 {
    let x = (e as u32).wrapping_mul(0x9e37_79b1);
    f64::from((x ^ x >> 15).wrapping_mul(0x85eb_ca6b) >> 8) / f64::from(1 << 24)
}

#[test]
fn rows_of_every_length() {
    for row in [2, 17, 256, 257, 1000, 5000] {
        let values: Vec<f64> = (0..2 * row).map(|e| (mixed(e) as f32 - 0.5).into()).collect();
        marked::<f32>(Dtype::F32, &values, row);
        marked::<f64>(Dtype::F64, &values, row);
    }
}

#[test]
fn a_row_wider_than_a_block() {
    let row = 20_000;
    let values: Vec<f64> = (0..row).map(|e| (mixed(e) as f32 - 0.5).into()).collect();
    let kept = marked::<f32>(Dtype::F32, &values, row);
    let share = kept.iter().filter(|kept| **kept).count() as f64 / row as f64;
    assert!((share - 0.55).abs() < 0.02, "{share}");
}

#[test]
fn equal_magnitudes_and_zeros() {
    for levels in [1, 2, 7, 100] {
        let level = |e: usize| (mixed(e) * f64::from(levels)).floor() / 8.0;
        let values: Vec<f64> = (0..3000).map(level).collect();
        marked::<f32>(Dtype::BF16, &values, 1500);
    }
}

#[test]
fn magnitudes_that_share_a_bucket() {
    // All within a thousandth of one another, and some far below the others.
    let near: Vec<f64> = (0..2000).map(|e| f64::from(1.0 + mixed(e) as f32 / 1000.0)).collect();
    marked::<f32>(Dtype::F32, &near, 1000);
    let far = |e: usize| f64::from(mixed(e) as f32 * if e.is_multiple_of(3) { 1e-12 } else { 1.0 });
    marked::<f32>(Dtype::F32, &(0..2000).map(far).collect::<Vec<_>>(), 1000);
}
