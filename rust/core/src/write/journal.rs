//! Journal (being written).
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a run is: what the journal's first line holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The recipe.
    pub recipe: Value,
    /// The inputs with their identities.
    pub inputs: Value,
}

/// A tensor that is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// Its name.
    pub tensor: String,
    /// The BLAKE3 of its bytes, in hexadecimal.
    pub hash: String,
    /// The hashes of what it was made of, in the order of the inputs.
    pub inputs: Vec<String>,
    /// What the method told of it.
    pub statistics: Value,
}
