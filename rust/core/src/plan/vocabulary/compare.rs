//! Whether the tokenizers of all inputs mean the same by each row of the embeddings.

use std::collections::BTreeSet;

use super::tokenizer::{CAP, FILE, Tokenizer};
use crate::error::{Error, Kind, shown};
use crate::plan::inputs::Inputs;

/// Tokens and other things that a message names.
const NAMED: usize = 3;

/// What was found of one input.
pub(in super::super) enum Found {
    /// A conflict, which a rule may permit.
    Conflict(Error),
    /// Something to know.
    Warning(String),
}

/// Compares an input's tokenizer with the donor's.
pub(in super::super) fn compare(
    inputs: &Inputs,
    input: usize,
    donor: usize,
) -> Result<Option<Found>, Error> {
    let labels = (&inputs.labels[input], &inputs.labels[donor]);
    let own = inputs.checkpoints[input].small(FILE, CAP)?;
    let theirs = inputs.checkpoints[donor].small(FILE, CAP)?;
    let (Some(own), Some(theirs)) = (own, theirs) else { return Ok(None) };
    if own == theirs {
        return Ok(None);
    }
    let (Some(own), Some(theirs)) = (Tokenizer::parse(&own), Tokenizer::parse(&theirs)) else {
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
        let path = inputs.checkpoints[input].directory.join(FILE);
        return Ok(Some(Found::Conflict(Error::from(kind).branch(labels.0).path(&path))));
    }
    let what = differences(&own, &theirs);
    let text = || {
        let (label, donor) = (shown(labels.0), shown(labels.1));
        format!("the result carries the tokenizer of `{donor}`; that of `{label}` has {what}")
    };
    Ok((!what.is_empty()).then(|| Found::Warning(text())))
}

/// What one has that another, of the same token wherever both have one, has not; empty where they are the same.
fn differences(own: &Tokenizer, theirs: &Tokenizer) -> String {
    let mut found = Vec::new();
    for (one, two, what) in [(own, theirs, "more"), (theirs, own, "fewer")] {
        let only = one.tokens.keys().filter(|row| !two.tokens.contains_key(row)).count();
        if only > 0 {
            found.push(format!("{only} tokens {what}"));
        }
    }
    found.extend(other_rules(own, theirs));
    found.join(", ")
}

/// What two say differently besides their tokens.
fn other_rules(own: &Tokenizer, theirs: &Tokenizer) -> Vec<String> {
    let keys: BTreeSet<&String> = own.rest.keys().chain(theirs.rest.keys()).collect();
    let differing = keys.into_iter().filter(|key| own.said(key) != theirs.said(key));
    differing.take(NAMED).map(|key| format!("another `{}`", shown(key))).collect()
}
