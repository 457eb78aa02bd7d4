//! Output (being written).
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::plan::layout::Layout;
pub use crate::write::journal::{Finished, Run};
pub use crate::write::place::{check_target, finish_replacement, free_bytes};

/// A small file of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Its name in the result; may stand in a folder (`additional_chat_templates/tool.jinja`).
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// Where a sidecar's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a file.
    Copy(PathBuf),
}

/// A result being written.
#[derive(Debug)]
pub struct Output {
    _todo: (),
}

#[allow(unused_variables, clippy::missing_errors_doc)]
impl Output {
    /// Makes or reopens `TARGET.partial`.
    pub fn begin(target: &Path, layout: &Layout, run: &Run, overwrite: bool) -> Result<(Self, Vec<Finished>)> { todo!() }
    /// Writes.
    pub fn write_at(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> { todo!() }
    /// Reads.
    pub fn read_at(&self, file: usize, offset: u64, bytes: &mut [u8]) -> Result<()> { todo!() }
    /// Appends to the journal.
    pub fn record(&self, finished: &[Finished]) -> Result<()> { todo!() }
    /// Syncs.
    pub fn sync(&self) -> Result<()> { todo!() }
    /// Publishes.
    pub fn publish(self, sidecars: &[Sidecar], manifest: &[u8], unchanged: &dyn Fn() -> Result<()>) -> Result<()> { todo!() }
}
