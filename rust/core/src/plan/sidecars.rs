//! The small files that a result carries: the donor's as they are, its config made true.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Error;
use crate::plan::plan::{Job, Small};
use crate::plan::{config, layers};
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::dtype::Dtype;

/// The files of a tokenizer.
const TOKENIZER: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The donor's small files and a tokenizer's, with the donor's config made true (`order` are the donor's layers that the result's are like, where they
/// are put together anew); what is wrong with them is added to `problems`.
pub(super) fn of(
    (donor, tokenizer): (&Checkpoint, &Checkpoint),
    jobs: &[Job],
    order: Option<&[u64]>,
    problems: &mut Vec<Error>,
) -> Vec<Small> {
    let own = |checkpoint: &Checkpoint, of_tokenizer: bool| {
        let mut names = checkpoint.sidecars()?;
        names.retain(|name| TOKENIZER.contains(&name.as_str()) == of_tokenizer);
        Ok((checkpoint.directory.clone(), names))
    };
    let found: Result<Vec<_>, Error> = [(donor, false), (tokenizer, true)]
        .map(|(from, which)| own(from, which))
        .into_iter()
        .collect();
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            problems.push(error);
            return Vec::new();
        }
    };
    let dtype = commonest(jobs);
    let layers = layers::count(donor.tensors.keys().map(String::as_str));
    let small = |(directory, name): (&Path, String)| {
        let config = if name == "config.json" {
            donor.small(&name, CONFIG_CAP).unwrap_or_else(|error| {
                problems.push(error);
                None
            })
        } else {
            None
        };
        let Some(text) = config else {
            return Small::Copy { path: directory.join(&name), name };
        };
        let mut made = text.clone();
        if let Some(order) = order {
            match config::with_layers(&made, order, layers) {
                Ok(text) => made = text,
                Err(error) => problems.push(error),
            }
        }
        if let Some(text) = dtype.and_then(|dtype| config::with_dtype(&made, dtype)) {
            made = text;
        }
        if made == text {
            Small::Copy { path: directory.join(&name), name }
        } else {
            Small::Bytes { name, bytes: made }
        }
    };
    let names = found.iter().flat_map(|(directory, names)| {
        names.iter().map(|name| (directory.as_path(), name.clone()))
    });
    let mut files: Vec<Small> = names.map(small).collect();
    files.sort_by(|one, other| one.name().cmp(other.name()));
    files
}

/// How many bytes they have.
pub(super) fn size(files: &[Small]) -> Result<u64, Error> {
    let size = |file: &Small| match file {
        Small::Copy { path, .. } => match std::fs::metadata(path) {
            Ok(look) => Ok(look.len()),
            Err(error) => Err(Error::os("look at", path, error)),
        },
        Small::Bytes { bytes, .. } => Ok(bytes.len() as u64),
    };
    files.iter().map(size).sum()
}

/// The dtype of most elements that merge.
fn commonest(jobs: &[Job]) -> Option<Dtype> {
    let mut counts: BTreeMap<Dtype, u64> = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.dtype.is_float()) {
        *counts.entry(job.dtype).or_insert(0) += job.shape.iter().product::<u64>();
    }
    counts.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype)
}
