//! One output tensor's sources, seen a block at a time.
//!
//! A block is what a kernel sees at once: a thousand elements of every operand, as numbers, the base taken away
//! where the method works on deltas. Blocks are cut from chunks, the unit of reading, of work and of partial sums. A
//! chunk is the same number of elements on every machine, so that sums join in the same order.

mod block;
mod importance;
mod reader;
mod view;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::fit::method::Space;
use crate::fit::node::Node;
use crate::fit::number::Number;
use crate::fit::random::Stream;
use crate::parallel::{Progress, Team};
use crate::read::header::Stored;
use crate::read::source::Source;

pub use block::{Block, Raw, Scratch};
pub use importance::Importance;
pub use reader::{Reader, Row};
pub use view::{Adapted, Pick, Rows, Scaled, View, matrix};

/// Elements in a chunk: at every dtype's size a power of two of bytes, so that a chunk is a subtree of the hash.
pub const CHUNK: u64 = 1 << 18;
/// Elements in a block of an element-wise kernel: a handful of operands stays in the first cache.
pub const BLOCK: usize = 1024;
/// Elements in a block where whole rows are swept several times: most rows fit.
pub const ROW_BLOCK: usize = 16384;

/// Parts that a tensor is cut into where each takes much memory.
pub const BANDS: u64 = 16;

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
    /// Elements that are made of stored ones, where they are read.
    View(View<'a, R>),
    /// Another merge, evaluated where it is needed.
    Node(Box<Node<'a, R>>),
}

impl<R: Number> Operand<'_, R> {
    fn label(&self) -> &str {
        match self {
            Self::Leaf(leaf) => leaf.label,
            Self::View(view) => view.label(),
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
    /// How many elements share each place in the first dimension.
    pub columns: u64,
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
    /// What the elements of the branches weigh, where that is said.
    pub importance: Option<Importance<'a>>,
    /// The Gram matrices of what the branches' tensors are multiplied with, where they are known.
    pub grams: Vec<Leaf<'a>>,
}

impl<'a, R: Number> Tensor<'a, R> {
    /// How many branches there are.
    #[must_use]
    pub fn branches(&self) -> usize {
        self.operands.len() - usize::from(self.has_base)
    }

    /// The stored tensors below it whose elements are operands as they are, in a fixed order.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Leaf<'a>> {
        let mut leaves = Vec::new();
        for operand in &self.operands {
            match operand {
                Operand::Leaf(leaf) => leaves.push(leaf),
                Operand::View(_) => {}
                Operand::Node(node) => leaves.extend(node.tensor.leaves()),
            }
        }
        leaves.extend(self.importance.iter().flat_map(Importance::leaves));
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

    /// Folds bands of neighbouring lines, each in its order, and joins the results in theirs: for sums of many numbers, of
    /// which a chunk would have too many. A line is what shares its place in the first dimension.
    pub fn fold_bands<A: Send>(
        &self,
        start: impl Fn() -> A + Sync,
        step: impl Fn(&mut A, &Block<'_, R>) + Sync,
        join: impl FnMut(&mut A, A),
    ) -> Result<A> {
        let lines = self.elements / self.columns.max(1);
        let band = lines.div_ceil(BANDS) * self.columns;
        let parts = self.team.run(BANDS as usize, |index| {
            let mut reader = Reader::new(self, BLOCK);
            let mut part = start();
            let end = ((index as u64 + 1) * band).min(self.elements);
            for first in (index as u64 * band..end).step_by(CHUNK as usize) {
                reader.read(first..end.min(first + CHUNK), |raw, scratch| {
                    self.blocks(raw, scratch, |block| step(&mut part, block))
                })?;
            }
            Ok(part)
        })?;
        let mut whole = start();
        parts.into_iter().fold(join, |mut join, part| {
            join(&mut whole, part);
            join
        });
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
        self.each_row_with(|| (), |(), row| visit(row))
    }

    /// [`Tensor::each_row`] with room of the worker's own, as `room` makes it, for its visits.
    pub fn each_row_with<S, T: Send>(
        &self,
        room: impl Fn() -> S + Sync,
        visit: impl Fn(&mut S, &mut Row<'_, '_, R>) -> Result<T> + Sync,
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
            let mut room = room();
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
                        results.push(visit(&mut room, &mut row)?);
                    }
                    Ok(())
                })?;
            }
            Ok(results)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }
}
