//! Whether the tensors of all inputs fit together, tensor by tensor.

use crate::error::{Error, Kind};
use crate::plan::inputs::Inputs;
use crate::plan::plan::Allowed;
use crate::plan::recipe::Allow;
use crate::read::header::Stored;

/// Parts of the names of matrices with a row a token.
const EMBEDDINGS: [&str; 6] =
    ["embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out"];

/// A tensor that a branch lacks.
pub(super) fn missing(
    inputs: &Inputs,
    tensor: &str,
    input: usize,
    (donor, of_donor): (usize, &str),
    allow: bool,
) -> Error {
    let expected = &inputs.checkpoints[donor].tensors[of_donor];
    let kind = Kind::Mismatch {
        what: "the tensor is missing",
        found: if is_head(tensor) {
            "no head of its own (tied to the embeddings?)".into()
        } else {
            "none".into()
        },
        expected: format!(
            "{} {:?} as in `{}`",
            expected.dtype.name(),
            expected.shape,
            inputs.labels[donor]
        ),
        allow: allow.then_some("missing=base"),
    };
    Error::from(kind).tensor(tensor).branch(&inputs.labels[input])
}

/// A tensor that only a branch has.
pub(super) fn extra(inputs: &Inputs, tensor: &str, input: usize, donor: usize) -> Error {
    let found = &inputs.checkpoints[input].tensors[tensor];
    let donor = &inputs.labels[donor];
    let expected = if is_head(tensor) {
        format!("no head of its own, as in `{donor}` (tied to the embeddings?)")
    } else {
        format!("no such tensor, as in `{donor}`")
    };
    let found = format!("{} {:?}", found.dtype.name(), found.shape);
    let kind =
        Kind::Mismatch { what: "the tensor is extra", found, expected, allow: Some("extra=drop") };
    Error::from(kind).tensor(tensor).branch(&inputs.labels[input])
}

fn is_head(tensor: &str) -> bool {
    tensor.ends_with("lm_head.weight")
}

/// Whether a stored tensor can be an operand of the donor's; an allowed difference is noted.
pub(super) fn fits(
    inputs: &Inputs,
    (input, tensor): (usize, &str),
    (donor, of_donor): (usize, &str),
    allow: &Allow,
    allowed: &mut Vec<Allowed>,
) -> Result<(), Error> {
    let expected = &inputs.checkpoints[donor].tensors[of_donor];
    let found = &inputs.checkpoints[input].tensors[tensor];
    let mismatch = |what, found: String, expected: String, allow| {
        let kind = Kind::Mismatch { what, found, expected, allow };
        Err(Error::from(kind).tensor(tensor).branch(&inputs.labels[input]))
    };
    let both_float = expected.dtype.is_float() && found.dtype.is_float();
    if !both_float && expected.dtype != found.dtype {
        return mismatch(
            "the dtype does not merge",
            found.dtype.name().into(),
            expected.dtype.name().into(),
            None,
        );
    }
    if expected.shape == found.shape {
        return Ok(());
    }
    let overlaps = both_float && overlap(tensor, expected, found);
    if overlaps && allow.shape_overlap {
        let branch = inputs.labels[input].clone();
        allowed.push(Allowed { rule: "shape", tensor: Some(tensor.into()), branch });
        return Ok(());
    }
    let shape = |stored: &Stored| format!("{:?}", stored.shape);
    mismatch(
        "the shape differs",
        shape(found),
        shape(expected),
        overlaps.then_some("shape=overlap"),
    )
}

/// Whether two matrices of embeddings differ in their number of rows alone.
fn overlap(tensor: &str, one: &Stored, other: &Stored) -> bool {
    EMBEDDINGS.iter().any(|part| tensor.contains(part))
        && one.shape.len() == 2
        && other.shape.len() == 2
        && one.shape[1] == other.shape[1]
}

/// An input with not one tensor of the donor's, said once instead of tensor by tensor.
pub(super) fn stranger(inputs: &Inputs, input: usize, donor: usize) -> Option<Error> {
    let (own, theirs) = (&inputs.checkpoints[input].tensors, &inputs.checkpoints[donor].tensors);
    if own.is_empty() || theirs.is_empty() || own.keys().any(|name| theirs.contains_key(name)) {
        return None;
    }
    let first = own.keys().next().map_or("", String::as_str);
    let wanted = theirs.keys().next().map_or("", String::as_str);
    let (label, donor) = (&inputs.labels[input], &inputs.labels[donor]);
    let what = format!(
        "it has no tensor of `{donor}`: its first is `{first}`, the first there `{wanted}`"
    );
    let hint = "is it of another architecture? `rename` exchanges prefixes of names";
    Some(Error::recipe_with_hint(what, hint).branch(label))
}

#[cfg(test)]
mod tests;
