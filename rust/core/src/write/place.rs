//! Place (being written).
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What stands in the way of writing to `target`.
#[must_use]
#[allow(unused_variables)]
pub fn check_target(target: &Path, inputs: &[PathBuf], overwrite: bool) -> Vec<Error> { todo!() }
/// Bytes free.
#[allow(unused_variables)]
pub fn free_bytes(target: &Path) -> Result<u64> { todo!() }
/// Finishes what a kill left.
#[allow(unused_variables)]
pub fn finish_replacement(target: &Path) -> Result<bool> { todo!() }
