//! Whether the tokenizers of all inputs mean the same by each row of the embeddings.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Kind, shown};
use crate::plan::Inputs;
use crate::read::json;

const TOKENIZER: &str = "tokenizer.json";
/// The largest tokenizer that is compared.
const CAP: u64 = 100_000_000;
/// Tokens that a message names.
const NAMED: usize = 3;

/// What was found of one input.
pub(super) enum Found {
    /// A conflict, which a rule may permit.
    Conflict(Error),
    /// Something to know.
    Warning(String),
}

/// Compares an input's tokenizer with the donor's.
pub(super) fn compare(inputs: &Inputs, input: usize, donor: usize) -> Result<Option<Found>, Error> {
    let labels = (&inputs.labels[input], &inputs.labels[donor]);
    let own = inputs.checkpoints[input].small(TOKENIZER, CAP)?;
    let theirs = inputs.checkpoints[donor].small(TOKENIZER, CAP)?;
    let (Some(own), Some(theirs)) = (own, theirs) else { return Ok(None) };
    if own == theirs {
        return Ok(None);
    }
    let (Some(own), Some(theirs)) = (tokens(&own), tokens(&theirs)) else {
        let text = format!(
            "the tokenizers of `{}` and `{}` could not be compared",
            shown(labels.0),
            shown(labels.1)
        );
        return Ok(Some(Found::Warning(text)));
    };
    let differing: Vec<(&u64, &String, &String)> = own
        .iter()
        .filter_map(|(row, token)| {
            Some((row, token, theirs.get(row).filter(|other| *other != token)?))
        })
        .collect();
    if !differing.is_empty() {
        let list = |token: &dyn Fn(&(&u64, &String, &String)) -> String| {
            differing.iter().take(NAMED).map(token).collect::<Vec<_>>().join(", ")
        };
        let kind = Kind::Mismatch {
            what: "the tokenizer has other tokens",
            found: format!(
                "{} of them, such as {}",
                differing.len(),
                list(&|(row, token, _)| format!("`{}` at {row}", shown(token)))
            ),
            expected: format!(
                "{} as in `{}`",
                list(&|(_, _, token)| format!("`{}`", shown(token))),
                labels.1
            ),
            allow: Some("vocabulary=rows"),
        };
        let path = inputs.checkpoints[input].directory.join(TOKENIZER);
        return Ok(Some(Found::Conflict(Error::from(kind).branch(labels.0).path(&path))));
    }
    let only = |one: &BTreeMap<u64, String>, other: &BTreeMap<u64, String>| {
        one.keys().filter(|row| !other.contains_key(row)).count()
    };
    let text = format!(
        "the tokenizer of `{}` is not that of `{}`, which the result carries: {} tokens are only in the first, {} only in the second",
        shown(labels.0),
        shown(labels.1),
        only(&own, &theirs),
        only(&theirs, &own)
    );
    Ok(Some(Found::Warning(text)))
}

/// The tokens of a `tokenizer.json` by row.
fn tokens(bytes: &[u8]) -> Option<BTreeMap<u64, String>> {
    let tokenizer = json::parse(bytes, TOKENIZER, CAP).ok()?;
    let mut tokens = BTreeMap::new();
    match tokenizer.get("model")?.get("vocab")? {
        Value::Object(vocabulary) => {
            for (token, row) in vocabulary {
                tokens.insert(row.as_u64()?, token.clone());
            }
        }
        Value::Array(vocabulary) => {
            for (row, entry) in vocabulary.iter().enumerate() {
                tokens.insert(row as u64, entry.get(0)?.as_str()?.to_owned());
            }
        }
        _ => return None,
    }
    for added in tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        tokens.insert(added.get("id")?.as_u64()?, added.get("content")?.as_str()?.to_owned());
    }
    Some(tokens)
}
