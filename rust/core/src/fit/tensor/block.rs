//! What a kernel sees at once, made from stored bytes: decoded, searched for NaN and infinity, the base taken away.

use std::ops::Range;

use super::{Operand, Tensor};
use crate::error::{Error, Kind, Result};
use crate::fit::method::Space;
use crate::fit::number::Number;
use crate::read::dtype;

/// The stored bytes of a range of elements, one slice a leaf.
pub struct Raw<'s> {
    /// The first element's number.
    pub start: u64,
    /// How many elements.
    pub length: usize,
    /// Each leaf's bytes, in the order of [`Tensor::leaves`].
    pub leaves: Vec<&'s [u8]>,
}

/// The operands of some neighbouring elements.
#[derive(Debug, Clone, Copy)]
pub struct Block<'b, R> {
    /// The first element's number in its tensor.
    pub start: u64,
    /// How many elements there are.
    pub length: usize,
    values: &'b [R],
    stride: usize,
    has_base: bool,
}

impl<'b, R> Block<'b, R> {
    /// The base's elements; of a merge without a base, those of the first branch.
    #[must_use]
    pub fn base(&self) -> &'b [R] {
        &self.values[..self.length]
    }

    /// A branch's elements, less the base's where the method works on deltas.
    #[must_use]
    pub fn branch(&self, i: usize) -> &'b [R] {
        let at = (i + usize::from(self.has_base)) * self.stride;
        &self.values[at..at + self.length]
    }
}

/// A worker's room for one tensor: operands as numbers, for it and for the merges inside it.
pub struct Scratch<R> {
    pub(super) values: Vec<R>,
    pub(super) stride: usize,
    /// Non-finite elements of the block at hand (all operands count as zero there), and what the output gets.
    carried: Vec<(usize, R)>,
    inner: Vec<Scratch<R>>,
    bytes: Vec<u8>,
    /// The importances of the branches' elements, and their means.
    pub(super) importances: Vec<R>,
    pub(super) means: Vec<f64>,
}

impl<R: Number> Scratch<R> {
    pub(super) fn new(tensor: &Tensor<'_, R>, block: usize) -> Self {
        let inner = tensor.operands.iter().filter_map(|operand| match operand {
            Operand::Leaf(_) | Operand::View(_) => None,
            Operand::Node(node) => Some(Self::new(&node.tensor, block)),
        });
        Self {
            values: vec![R::ZERO; tensor.operands.len() * block],
            stride: block,
            carried: Vec::new(),
            inner: inner.collect(),
            bytes: Vec::new(),
            importances: Vec::new(),
            means: Vec::new(),
        }
    }
}

impl<R: Number> Tensor<'_, R> {
    /// Cuts what was read into blocks.
    pub fn blocks(
        &self,
        raw: &Raw<'_>,
        scratch: &mut Scratch<R>,
        mut each: impl FnMut(&Block<'_, R>),
    ) -> Result<()> {
        self.blocks_carrying(raw, scratch, |block, _| {
            each(block);
            Ok(())
        })
    }

    /// Cuts what was read into blocks, each with the elements that were set aside in it.
    pub fn blocks_carrying(
        &self,
        raw: &Raw<'_>,
        scratch: &mut Scratch<R>,
        mut each: impl FnMut(&Block<'_, R>, &[(usize, R)]) -> Result<()>,
    ) -> Result<()> {
        for start in (0..raw.length).step_by(scratch.stride.max(1)) {
            let end = raw.length.min(start + scratch.stride);
            self.load(raw, &mut 0, start..end, scratch)?;
            each(&self.block(raw, start..end, scratch), &scratch.carried)?;
        }
        Ok(())
    }

    pub(super) fn block<'b>(
        &self,
        raw: &Raw<'_>,
        within: Range<usize>,
        scratch: &'b Scratch<R>,
    ) -> Block<'b, R> {
        Block {
            start: raw.start + within.start as u64,
            length: within.len(),
            values: &scratch.values,
            stride: scratch.stride,
            has_base: self.has_base,
        }
    }

    /// Fills `scratch` with the operands of the elements `within` what was read. `leaf` counts the leaves passed.
    pub(super) fn load(
        &self,
        raw: &Raw<'_>,
        leaf: &mut usize,
        within: Range<usize>,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let length = within.len();
        let mut inner = scratch.inner.iter_mut();
        let mut finite = true;
        for (i, operand) in self.operands.iter().enumerate() {
            let (before, here) = scratch.values.split_at_mut(i * scratch.stride);
            let values = &mut here[..length];
            let all_finite = match operand {
                Operand::Leaf(stored) => {
                    let bytes = raw.leaves[*leaf];
                    *leaf += 1;
                    let size = (stored.stored.dtype.bits() / 8) as usize;
                    let held = (bytes.len() / size).clamp(within.start, within.end) - within.start;
                    let from = (within.start * size).min(bytes.len());
                    let finite = dtype::decode(
                        stored.stored.dtype,
                        &bytes[from..from + held * size],
                        &mut values[..held],
                    )?;
                    if held < length {
                        values[held..].copy_from_slice(&before[held..length]);
                    }
                    finite
                }
                Operand::View(view) => {
                    let start = raw.start + within.start as u64;
                    let held = view.elements().saturating_sub(start).min(length as u64) as usize;
                    let read = view.read(start, &mut values[..held]);
                    read.map_err(|error| error.tensor(self.name))?;
                    if held < length {
                        values[held..].copy_from_slice(&before[held..length]);
                    }
                    all_finite(values)
                }
                Operand::Node(node) => {
                    if let Some(inner) = inner.next() {
                        node.tensor.load(raw, leaf, within.clone(), inner)?;
                        let block = node.tensor.block(raw, within.clone(), inner);
                        node.evaluate(&block, values);
                        for &(e, value) in &inner.carried {
                            values[e] = value;
                        }
                        node.round(values, &mut inner.bytes)?;
                    }
                    all_finite(values)
                }
            };
            if !all_finite {
                finite = false;
                if !self.context.carry {
                    return Err(self.not_finite(operand, raw.start + within.start as u64, values));
                }
            }
        }
        scratch.carried.clear();
        if !finite {
            scratch.set_aside(length);
        }
        if self.space == Space::Delta {
            let (base, branches) = scratch.values.split_at_mut(scratch.stride);
            for branch in branches.chunks_mut(scratch.stride) {
                subtract(&mut branch[..length], &base[..length]);
            }
        }
        match &self.importance {
            Some(importance) => self.weigh(importance, raw, leaf, within, scratch),
            None => Ok(()),
        }
    }

    fn not_finite(&self, operand: &Operand<'_, R>, start: u64, values: &[R]) -> Error {
        let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let what = if values[at].to_f64().is_nan() { "NaN" } else { "infinity" };
        let kind = Kind::NotFinite { what: what.into(), element: start + at as u64 };
        let error = Error::from(kind).tensor(self.name).branch(operand.label());
        match operand {
            Operand::Leaf(leaf) => error.path(leaf.source.path()),
            Operand::View(_) | Operand::Node(_) => error,
        }
    }
}

impl<R: Number> Scratch<R> {
    /// Where an operand is not finite, the first such value becomes the output, and no statistic or kernel sees it.
    fn set_aside(&mut self, length: usize) {
        for e in 0..length {
            let mut operands = self.values[e..].iter().step_by(self.stride);
            if let Some(&value) = operands.find(|value| !value.is_finite()) {
                self.carried.push((e, value));
                self.values[e..].iter_mut().step_by(self.stride).for_each(|value| *value = R::ZERO);
            }
        }
    }

    /// The elements set aside in the block at hand.
    #[must_use]
    pub fn carried(&self) -> &[(usize, R)] {
        &self.carried
    }
}

vectorised! {
    fn all_finite<R: Number>(values: &[R]) -> bool {
        // A finite number less itself is zero; the sum of anything else is NaN.
        let mut lanes = [R::ZERO; 16];
        let groups = values.chunks_exact(16);
        let rest = groups.remainder();
        for group in groups {
            for lane in 0..16 {
                lanes[lane] += group[lane] - group[lane];
            }
        }
        lanes.iter().all(|lane| lane.is_finite()) && rest.iter().all(|value| value.is_finite())
    }
}

vectorised! {
    fn subtract<R: Number>(values: &mut [R], base: &[R]) {
        for (value, base) in values.iter_mut().zip(base) {
            *value = *value - *base;
        }
    }
}
