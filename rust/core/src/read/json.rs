//! JSON from a file, strictly.

use serde_json::Value;

use crate::error::{Error, Result};

/// The value of a JSON text of at most `cap` bytes; `what` names it in errors.
pub fn parse(bytes: &[u8], what: &str, cap: u64) -> Result<Value> {
    let _ = (bytes, cap);
    Err(Error::malformed(what))
}
