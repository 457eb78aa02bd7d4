//! `model.safetensors.index.json`: which shard each tensor is in. It may be wrong, and is held against the shards.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::{Error, Result, shown};
use crate::read::header::Stored;
use crate::read::json;

/// The largest index that is read.
pub(super) const CAP: u64 = 50_000_000;

/// The shard of each tensor, by name.
#[derive(Debug)]
pub(super) struct Index {
    shards: BTreeMap<String, String>,
}

impl Index {
    /// The shards, in the order of their names.
    pub(super) fn files(&self) -> Vec<String> {
        self.shards.values().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }
}

/// Reads an index; only plain names of files are taken.
pub(super) fn parse(bytes: &[u8]) -> Result<Index> {
    let Value::Object(mut index) = json::parse(bytes, "the index", CAP)? else {
        return Err(Error::malformed("the index is not an object"));
    };
    let Some(Value::Object(map)) = index.remove("weight_map") else {
        return Err(Error::malformed("the index has no `weight_map`"));
    };
    if map.is_empty() {
        return Err(Error::malformed("the index names no tensor"));
    }
    let mut shards = BTreeMap::new();
    let mut problems = Vec::new();
    for (tensor, shard) in map {
        match shard {
            Value::String(shard) if plain(&shard) => {
                shards.insert(tensor, shard);
            }
            other => {
                let what = format!(
                    "the index puts it in `{}`, expected the name of a safetensors file beside it",
                    shown(&other.to_string())
                );
                problems.push(Error::malformed(what).tensor(tensor));
            }
        }
    }
    if problems.is_empty() { Ok(Index { shards }) } else { Err(Error::all(problems)) }
}

fn plain(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.contains(['/', '\\', '\0'])
        && !name.starts_with('.')
        && name.len() <= 255
}

/// Where the index and the shards differ, tensor by tensor.
pub(super) fn disagreements(
    index: &Index,
    tensors: &BTreeMap<String, Stored>,
    files: &[String],
) -> Vec<Error> {
    let mut problems = Vec::new();
    for (tensor, shard) in &index.shards {
        let what = match tensors.get(tensor) {
            None => format!("the index puts it in `{}`, which does not hold it", shown(shard)),
            Some(stored) if files[stored.file] != *shard => {
                format!(
                    "the index puts it in `{}`, it is in `{}`",
                    shown(shard),
                    shown(&files[stored.file])
                )
            }
            Some(_) => continue,
        };
        problems.push(Error::malformed(what).tensor(tensor));
    }
    for (tensor, stored) in tensors {
        if !index.shards.contains_key(tensor) {
            let what =
                format!("`{}` holds it, the index does not name it", shown(&files[stored.file]));
            problems.push(Error::malformed(what).tensor(tensor));
        }
    }
    problems
}
