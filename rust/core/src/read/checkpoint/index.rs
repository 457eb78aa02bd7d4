//! `model.safetensors.index.json`: which shard each tensor is in. It may be wrong, and is held against the shards.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::error::{Error, Result, shown};
use crate::read::header::Stored;
use crate::read::json;

/// The largest index that is read, in bytes.
pub const CAP: u64 = 50_000_000;

/// So many entries that are wrong are told.
const MOST_PROBLEMS: usize = 100;

/// The shard of each tensor, by name.
#[derive(Debug)]
pub struct Index {
    shards: BTreeMap<String, String>,
}

impl Index {
    /// The shards, in the order of their names.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.shards.values().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }
}

/// Reads an index; only plain names of files are taken.
///
/// # Errors
/// [`crate::error::Kind::Malformed`], for each tensor whose shard is no plain name.
pub fn parse(bytes: &[u8]) -> Result<Index> {
    let mut shards = BTreeMap::new();
    let (mut problems, mut wrong) = (Vec::new(), 0);
    for (tensor, shard) in table(bytes)? {
        match shard {
            Value::String(shard) if plain(&shard) => {
                shards.insert(tensor, shard);
            }
            other => {
                wrong += 1;
                if wrong <= MOST_PROBLEMS {
                    problems.push(Error::malformed(no_name(&other)).tensor(tensor));
                }
            }
        }
    }
    if wrong > MOST_PROBLEMS {
        let what = format!("{wrong} of its entries are wrong, the first {MOST_PROBLEMS} are told");
        problems.insert(0, Error::malformed(what));
    }
    if problems.is_empty() { Ok(Index { shards }) } else { Err(Error::all(problems)) }
}

/// What stands at each tensor.
fn table(bytes: &[u8]) -> Result<Map<String, Value>> {
    let Value::Object(mut index) = json::parse(bytes, "the index", CAP)? else {
        return Err(Error::malformed("the index is not an object"));
    };
    let Some(Value::Object(map)) = index.remove("weight_map") else {
        return Err(Error::malformed("the index has no `weight_map`"));
    };
    if map.is_empty() { Err(Error::malformed("the index names no tensor")) } else { Ok(map) }
}

/// Whether it is the name of a file in the index's own directory.
fn plain(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
        && !name.starts_with('.')
        && name.len() <= 255
}

fn no_name(found: &Value) -> String {
    let found = match found {
        Value::String(name) => format!("`{}`", shown(name)),
        Value::Null | Value::Bool(_) | Value::Number(_) => format!("`{found}`"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    };
    format!("the index puts it in {found}, expected the name of a safetensors file beside it")
}

/// Where the index and the shards differ, tensor by tensor.
pub(super) fn disagreements<'a>(
    index: &'a Index,
    tensors: &'a BTreeMap<String, Stored>,
    files: &'a [String],
) -> impl Iterator<Item = Error> + 'a {
    let put_there = index.shards.iter().filter_map(|(tensor, shard)| {
        let put = || format!("the index puts it in `{}`", shown(shard));
        let what = match tensors.get(tensor) {
            None => format!("{}, which does not hold it", put()),
            Some(stored) if files[stored.file] != *shard => {
                format!("{}, it is in `{}`", put(), shown(&files[stored.file]))
            }
            Some(_) => return None,
        };
        Some(Error::malformed(what).tensor(tensor))
    });
    let unnamed = tensors.iter().filter(|(tensor, _)| !index.shards.contains_key(*tensor));
    put_there.chain(unnamed.map(|(tensor, stored)| {
        let file = shown(&files[stored.file]);
        Error::malformed(format!("`{file}` holds it, the index does not name it")).tensor(tensor)
    }))
}
