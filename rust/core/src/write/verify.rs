//! Verify (being written).
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::parallel::{Progress, Team};

/// What [`verify`] found.
#[derive(Debug)]
pub struct Verified {
    /// Everything that is not as the manifest says.
    pub problems: Vec<Error>,
    /// Tensors whose bytes were hashed.
    pub tensors: u64,
    /// Bytes hashed.
    pub bytes: u64,
}

/// Verifies.
#[allow(unused_variables)]
pub fn verify(directory: &Path, team: &Team, progress: &Progress) -> Result<Verified> { todo!() }

/// Whether `directory` is a whole result of this run: its manifest's body if so.
#[allow(unused_variables)]
pub fn is_whole(directory: &Path, recipe: &Value, inputs: &Value) -> Result<Option<Value>> { todo!() }
