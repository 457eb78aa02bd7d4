//! One output tensor's sources, seen a block at a time.
//!
//! A block is what a kernel sees at once: a few thousand elements of every operand, as numbers, the base taken away
//! where the method works on deltas. Blocks are cut from chunks, the unit of reading, of work and of partial sums. A
//! chunk is the same number of elements on every machine, so that sums join in the same order.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};
use crate::fit::method::Space;
use crate::fit::node::Node;
use crate::fit::number::Number;
use crate::fit::random::Stream;
use crate::parallel::{Progress, Team};
use crate::read::dtype;
use crate::read::header::Stored;
use crate::read::source::Source;

/// Elements in a chunk: at every dtype's size a power of two of bytes, so that a chunk is a subtree of the hash.
pub const CHUNK: u64 = 1 << 18;
/// Elements in a block of an element-wise kernel: a handful of operands stays in the first cache.
pub const BLOCK: usize = 1024;
/// Elements in a block where whole rows are swept several times: most rows fit.
pub const ROW_BLOCK: usize = 16384;

/// Neighbouring elements that a sample draws together: half a cache line of most checkpoints.
pub const RUN: usize = 16;
/// One element in so many is drawn; fewer of tensors from which that would be more than [`SAMPLE`].
const THIN: u64 = 64;
/// Elements in the largest sample.
const SAMPLE: u64 = 1 << 21;

/// How many elements are drawn of so many, at most.
#[must_use]
pub fn sampled(elements: u64) -> u64 {
    (elements / THIN).min(SAMPLE).max(RUN as u64)
}

/// A stored tensor of one checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a> {
    /// The file.
    pub source: &'a Source,
    /// Where in it, and as what.
    pub stored: &'a Stored,
    /// The checkpoint's label, for errors.
    pub label: &'a str,
    /// The checkpoint's number.
    pub input: usize,
}

impl Leaf<'_> {
    /// The bytes of elements `range`, as far as the leaf has them.
    pub fn bytes<'s>(&'s self, range: Range<u64>, buffer: &'s mut Vec<u8>) -> Result<&'s [u8]> {
        let size = self.stored.dtype.bits() / 8;
        let elements = self.stored.elements();
        let start = self.stored.range.start + range.start.min(elements) * size;
        let end = self.stored.range.start + range.end.min(elements) * size;
        self.source.bytes(start..end, buffer)
    }
}

/// Where the elements of one operand come from.
pub enum Operand<'a, R> {
    /// A stored tensor. One with fewer elements than the output equals the first operand in what it lacks.
    Leaf(Leaf<'a>),
    /// Another merge, evaluated where it is needed.
    Node(Box<Node<'a, R>>),
}

impl<R> Operand<'_, R> {
    fn label(&self) -> &str {
        match self {
            Self::Leaf(leaf) => leaf.label,
            Self::Node(_) => "(inner merge)",
        }
    }
}

/// What a run gives to all its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where the run is told to stop.
    pub progress: &'a Progress,
    /// NaN and infinity go through instead of ending the run.
    pub carry: bool,
}

/// One output tensor as a method sees it: operands of the same shape, the base first where there is one.
pub struct Tensor<'a, R> {
    /// Its name.
    pub name: &'a str,
    /// How many elements it has.
    pub elements: u64,
    /// How many elements a row (the last dimension) has; a vector is one row.
    pub row_length: u64,
    /// Whether branches arrive less the base.
    pub space: Space,
    /// Whether the first operand is a base.
    pub has_base: bool,
    /// The random numbers of each branch.
    pub streams: Vec<Stream>,
    /// Who works on it.
    pub team: Team,
    /// What the run gives.
    pub context: Context<'a>,
    /// The operands.
    pub operands: Vec<Operand<'a, R>>,
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
    values: Vec<R>,
    stride: usize,
    /// Non-finite elements of the block at hand (all operands count as zero there), and what the output gets.
    carried: Vec<(usize, R)>,
    inner: Vec<Scratch<R>>,
    bytes: Vec<u8>,
}

impl<R: Number> Scratch<R> {
    fn new(tensor: &Tensor<'_, R>, block: usize) -> Self {
        let inner = tensor.operands.iter().filter_map(|operand| match operand {
            Operand::Leaf(_) => None,
            Operand::Node(node) => Some(Self::new(&node.tensor, block)),
        });
        Self {
            values: vec![R::ZERO; tensor.operands.len() * block],
            stride: block,
            carried: Vec::new(),
            inner: inner.collect(),
            bytes: Vec::new(),
        }
    }
}

/// The stored bytes of a range of elements, one slice a leaf.
pub struct Raw<'s> {
    /// The first element's number.
    pub start: u64,
    /// How many elements.
    pub length: usize,
    /// Each leaf's bytes, in the order of [`Tensor::leaves`].
    pub leaves: Vec<&'s [u8]>,
}

/// A worker's way through a tensor.
pub struct Reader<'t, 'a, R> {
    tensor: &'t Tensor<'a, R>,
    leaves: Vec<&'t Leaf<'a>>,
    buffers: Vec<Vec<u8>>,
    scratch: Scratch<R>,
}

impl<'t, 'a, R: Number> Reader<'t, 'a, R> {
    /// A reader whose blocks have at most `block` elements.
    #[must_use]
    pub fn new(tensor: &'t Tensor<'a, R>, block: usize) -> Self {
        let leaves = tensor.leaves();
        let block = block.min(tensor.elements.next_multiple_of(16) as usize);
        let buffers = leaves.iter().map(|_| Vec::new()).collect();
        Self { tensor, leaves, buffers, scratch: Scratch::new(tensor, block) }
    }

    /// Reads the elements of `range` and lets `work` see them; then makes sure that no page was lost meanwhile.
    pub fn read<T>(
        &mut self,
        range: Range<u64>,
        work: impl FnOnce(&Raw<'_>, &mut Scratch<R>) -> Result<T>,
    ) -> Result<T> {
        self.tensor.context.progress.check()?;
        let mut leaves = Vec::with_capacity(self.leaves.len());
        for (leaf, buffer) in self.leaves.iter().zip(&mut self.buffers) {
            leaves.push(
                leaf.bytes(range.clone(), buffer)
                    .map_err(|error| error.tensor(self.tensor.name).branch(leaf.label))?,
            );
        }
        let raw = Raw { start: range.start, length: (range.end - range.start) as usize, leaves };
        let result = work(&raw, &mut self.scratch);
        for leaf in &self.leaves {
            leaf.source
                .intact()
                .map_err(|error| error.tensor(self.tensor.name).branch(leaf.label))?;
        }
        result
    }
}

impl<'a, R: Number> Tensor<'a, R> {
    /// How many branches there are.
    #[must_use]
    pub fn branches(&self) -> usize {
        self.operands.len() - usize::from(self.has_base)
    }

    /// The stored tensors below it, in a fixed order.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Leaf<'a>> {
        let mut leaves = Vec::new();
        for operand in &self.operands {
            match operand {
                Operand::Leaf(leaf) => leaves.push(leaf),
                Operand::Node(node) => leaves.extend(node.tensor.leaves()),
            }
        }
        leaves
    }

    /// The elements of a chunk.
    #[must_use]
    pub fn chunk(&self, index: u64) -> Range<u64> {
        index * CHUNK..((index + 1) * CHUNK).min(self.elements)
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.elements.div_ceil(CHUNK)
    }

    /// Folds every chunk by itself and joins the results in the order of the chunks: for sums of floating-point numbers.
    pub fn fold<A: Send>(
        &self,
        start: impl Fn() -> A + Sync,
        step: impl Fn(&mut A, &Block<'_, R>) + Sync,
        mut join: impl FnMut(&mut A, A),
    ) -> Result<A> {
        let workers = self.team.threads() as u64;
        let mut whole = start();
        // Some chunks a worker at a time: neither a thread a chunk, nor a result for each chunk of a giant tensor.
        let stretch = workers * 256;
        for first in (0..self.chunks()).step_by(stretch as usize) {
            let chunks: Vec<u64> = (first..self.chunks().min(first + stretch)).collect();
            let share = chunks.len().div_ceil(self.team.threads() * 32).max(1);
            let shares: Vec<&[u64]> = chunks.chunks(share).collect();
            let parts = self.team.run(shares.len(), |index| {
                let mut reader = Reader::new(self, BLOCK);
                let fold = |&chunk: &u64| {
                    let mut part = start();
                    reader.read(self.chunk(chunk), |raw, scratch| {
                        self.blocks(raw, scratch, |block| step(&mut part, block))
                    })?;
                    Ok(part)
                };
                shares[index].iter().map(fold).collect::<Result<Vec<A>>>()
            })?;
            parts.into_iter().flatten().for_each(|part| join(&mut whole, part));
        }
        Ok(whole)
    }

    /// Folds every worker's blocks into one result a worker: only for what does not depend on order, such as counts.
    pub fn gather<A: Send>(
        &self,
        start: impl Fn() -> A + Sync,
        step: impl Fn(&mut A, &Block<'_, R>) + Sync,
    ) -> Result<Vec<A>> {
        self.each_chunk(BLOCK, start, |mine, raw, scratch| {
            self.blocks(raw, scratch, |block| step(mine, block))
        })
    }

    /// [`Tensor::gather`] for a few elements drawn from everywhere: short blocks, evenly spread, each at a place of its own.
    pub fn sample<A: Send>(
        &self,
        start: impl Fn() -> A + Sync,
        step: impl Fn(&mut A, &Block<'_, R>) + Sync,
    ) -> Result<Vec<A>> {
        let stride = self.elements.div_ceil(sampled(self.elements)) as usize * RUN;
        self.each_chunk(RUN, start, |mine, raw, scratch| {
            for from in (0..raw.length).step_by(stride) {
                // A fixed place in every stride would draw the same columns of all rows.
                let mixed = (raw.start + from as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                let begin = from + mixed as usize % (stride / RUN) * RUN;
                if begin < raw.length {
                    let within = begin..raw.length.min(begin + RUN);
                    self.load(raw, &mut 0, within.clone(), scratch)?;
                    step(mine, &self.block(raw, within, scratch));
                }
            }
            Ok(())
        })
    }

    /// Gives every worker chunks as it asks for them, read with room for blocks of so many elements.
    fn each_chunk<A: Send>(
        &self,
        block: usize,
        start: impl Fn() -> A + Sync,
        visit: impl Fn(&mut A, &Raw<'_>, &mut Scratch<R>) -> Result<()> + Sync,
    ) -> Result<Vec<A>> {
        let next = AtomicU64::new(0);
        let workers = self.team.threads().min(self.chunks().max(1) as usize);
        self.team.run(workers, |_| {
            let mut reader = Reader::new(self, block);
            let mut mine = start();
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= self.chunks() {
                    return Ok(mine);
                }
                reader.read(self.chunk(chunk), |raw, scratch| visit(&mut mine, raw, scratch))?;
            }
        })
    }

    /// Visits every row, which may be swept several times, and returns what the visits gave, in the order of the rows.
    pub fn each_row<T: Send>(
        &self,
        visit: impl Fn(&mut Row<'_, '_, R>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        if self.elements == 0 {
            return Ok(Vec::new());
        }
        let rows = self.elements / self.row_length;
        let group = (CHUNK / self.row_length).max(1);
        let groups = rows.div_ceil(group) as usize;
        let share = groups.div_ceil(self.team.threads() * 32).max(1);
        let parts = self.team.run(groups.div_ceil(share), |index| {
            let block = ROW_BLOCK.min(self.row_length.next_multiple_of(16) as usize);
            let mut reader = Reader::new(self, block);
            let mut results = Vec::new();
            for group_index in (index * share..groups.min((index + 1) * share)).map(|i| i as u64) {
                let first = group_index * group;
                let last = rows.min(first + group);
                reader.read(first * self.row_length..last * self.row_length, |raw, scratch| {
                    for row in 0..last - first {
                        let start = (row * self.row_length) as usize;
                        let end = start + self.row_length as usize;
                        let mut row =
                            Row { tensor: self, raw, scratch, range: start..end, loaded: false };
                        results.push(visit(&mut row)?);
                    }
                    Ok(())
                })?;
            }
            Ok(results)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

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

    fn block<'b>(
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
    fn load(
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
        Ok(())
    }

    fn not_finite(&self, operand: &Operand<'_, R>, start: u64, values: &[R]) -> Error {
        let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let what = if values[at].to_f64().is_nan() { "NaN" } else { "infinity" };
        let kind = Kind::NotFinite { what: what.into(), element: start + at as u64 };
        let error = Error::from(kind).tensor(self.name).branch(operand.label());
        match operand {
            Operand::Leaf(leaf) => error.path(leaf.source.path()),
            Operand::Node(_) => error,
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

/// One row of a tensor, which a method may sweep as often as it needs.
pub struct Row<'r, 'a, R> {
    tensor: &'r Tensor<'a, R>,
    raw: &'r Raw<'r>,
    scratch: &'r mut Scratch<R>,
    range: Range<usize>,
    loaded: bool,
}

impl<R: Number> Row<'_, '_, R> {
    /// Lets `each` see the row's blocks in order. A row that fits into one block is converted only once.
    pub fn sweep(&mut self, mut each: impl FnMut(&Block<'_, R>)) -> Result<()> {
        let stride = self.scratch.stride;
        for start in self.range.clone().step_by(stride) {
            let within = start..self.range.end.min(start + stride);
            if !self.loaded {
                self.tensor.load(self.raw, &mut 0, within.clone(), self.scratch)?;
            }
            each(&self.tensor.block(self.raw, within, self.scratch));
        }
        self.loaded = self.range.len() <= stride;
        Ok(())
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
