//! Whether the tokenizers of all inputs mean the same by each row of the embeddings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::error::{Error, Kind, shown};
use crate::plan::Inputs;
use crate::read::json;

const TOKENIZER: &str = "tokenizer.json";
/// The largest tokenizer that is compared.
const CAP: u64 = 100_000_000;
/// Ends of the names of the matrix with a row a token.
const EMBEDDINGS: [&str; 4] =
    ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"];
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
    let (Some(own), Some(theirs)) = (Tokenizer::read(&own), Tokenizer::read(&theirs)) else {
        let text = format!(
            "the tokenizers of `{}` and `{}` could not be compared",
            shown(labels.0),
            shown(labels.1)
        );
        return Ok(Some(Found::Warning(text)));
    };
    let differing: Vec<(&u64, &String, &String)> = own
        .tokens
        .iter()
        .filter_map(|(row, token)| {
            Some((row, token, theirs.tokens.get(row).filter(|other| *other != token)?))
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
    let what = own.differences(&theirs);
    let text = || {
        let (label, donor) = (shown(labels.0), shown(labels.1));
        format!("the result carries the tokenizer of `{donor}`; that of `{label}` has {what}")
    };
    Ok((!what.is_empty()).then(|| Found::Warning(text())))
}

/// That a union would have tokens of an input that are not in the one that is carried.
pub(super) fn missing(inputs: &Inputs, input: usize, carried: usize) -> Option<Error> {
    let (own, theirs) = (read(inputs, input)?, read(inputs, carried)?);
    let has: BTreeSet<&String> = theirs.tokens.values().collect();
    let more: Vec<&String> = own.tokens.values().filter(|token| !has.contains(token)).collect();
    let named: Vec<String> =
        more.iter().take(NAMED).map(|token| format!("`{}`", shown(token))).collect();
    if more.is_empty() {
        return None;
    }
    let what = format!(
        "it has {} tokens that `{}` lacks, such as {}: a union of tokenizers is not understood yet",
        more.len(),
        inputs.labels[carried],
        named.join(", ")
    );
    let hint = "`tokenizer_source: base` carries the base's tokenizer";
    Some(Error::recipe_with_hint(what, hint).branch(&inputs.labels[input]))
}

/// That a tokenizer has tokens for which the embeddings of the result have no rows.
pub(super) fn too_many(inputs: &Inputs, input: usize, donor: usize) -> Option<Error> {
    let last = *read(inputs, input)?.tokens.keys().last()?;
    let tensors = &inputs.checkpoints[donor].tensors;
    let embeddings =
        tensors.iter().find(|(name, _)| EMBEDDINGS.iter().any(|part| name.ends_with(part)));
    let rows = *embeddings?.1.shape.first()?;
    if last < rows {
        return None;
    }
    let what = format!(
        "its tokenizer has a token at {last}, and the embeddings of `{}` have {rows} rows",
        inputs.labels[donor]
    );
    Some(Error::recipe(what).branch(&inputs.labels[input]))
}

fn read(inputs: &Inputs, input: usize) -> Option<Tokenizer> {
    Tokenizer::read(&inputs.checkpoints[input].small(TOKENIZER, CAP).ok()??)
}

/// A `tokenizer.json`.
struct Tokenizer {
    /// Its tokens by row.
    tokens: BTreeMap<u64, String>,
    /// All else that it says.
    rest: Map<String, Value>,
}

impl Tokenizer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let Value::Object(mut rest) = json::parse(bytes, TOKENIZER, CAP).ok()? else { return None };
        let mut tokens = BTreeMap::new();
        match rest.get_mut("model")?.as_object_mut()?.remove("vocab")? {
            Value::Object(vocabulary) => {
                for (token, row) in vocabulary {
                    tokens.insert(row.as_u64()?, token);
                }
            }
            Value::Array(vocabulary) => {
                for (row, entry) in vocabulary.iter().enumerate() {
                    tokens.insert(row as u64, entry.get(0)?.as_str()?.to_owned());
                }
            }
            _ => return None,
        }
        for added in rest.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            tokens.insert(added.get("id")?.as_u64()?, added.get("content")?.as_str()?.to_owned());
        }
        rest.values_mut().for_each(leave_out_defaults);
        Some(Self { tokens, rest })
    }

    /// What it says of something besides tokens.
    fn said(&self, key: &str) -> Option<&Value> {
        self.rest.get(key).filter(|said| !said.is_null())
    }

    /// What it has that another, of the same token wherever both have one, has not; empty where they are the same.
    fn differences(&self, other: &Self) -> String {
        let mut found = Vec::new();
        for (one, two, what) in [(self, other, "more"), (other, self, "fewer")] {
            let only = one.tokens.keys().filter(|row| !two.tokens.contains_key(row)).count();
            if only > 0 {
                found.push(format!("{only} tokens {what}"));
            }
        }
        let keys: BTreeSet<&String> = self.rest.keys().chain(other.rest.keys()).collect();
        let differing = keys.into_iter().filter(|key| self.said(key) != other.said(key));
        found.extend(differing.take(NAMED).map(|key| format!("another `{}`", shown(key))));
        found.join(", ")
    }
}

/// Removes what says nothing: libraries differ in whether they write it.
fn leave_out_defaults(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
            members.values_mut().for_each(leave_out_defaults);
        }
        Value::Array(values) => values.iter_mut().for_each(leave_out_defaults),
        _ => {}
    }
}
