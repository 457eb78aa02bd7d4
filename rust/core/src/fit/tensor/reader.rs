//! A worker's way through the stored bytes of a tensor, by chunks or by rows.

use std::ops::Range;

use super::{Block, Leaf, Raw, Scratch, Tensor};
use crate::error::Result;
use crate::fit::number::Number;

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

/// One row of a tensor, which a method may sweep as often as it needs.
pub struct Row<'r, 'a, R> {
    pub(super) tensor: &'r Tensor<'a, R>,
    pub(super) raw: &'r Raw<'r>,
    pub(super) scratch: &'r mut Scratch<R>,
    pub(super) range: Range<usize>,
    pub(super) loaded: bool,
}

impl<R: Number> Row<'_, '_, R> {
    /// How many elements it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.range.len() as u64
    }

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
