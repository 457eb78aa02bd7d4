//! The small files that a result carries: the donor's as they are, its config made true.

use std::collections::BTreeMap;

use crate::error::{Error, shown};
use crate::plan::config;
use crate::plan::outputs::Order;
use crate::plan::plan::{Job, Small};
use crate::plan::vocabulary::Vocabulary;
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::dtype::Dtype;
use crate::read::json;

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

/// What must be true of the donor's small files in a result.
pub(super) struct Truth<'t> {
    /// The tensors of the result.
    pub(super) jobs: &'t [Job],
    /// Whether those are all that there will be: nothing was wrong.
    pub(super) all: bool,
    /// The order of its layers, where they are put together anew.
    pub(super) order: Option<&'t Order>,
    /// The tokens of the result.
    pub(super) vocabulary: &'t Vocabulary,
    /// How many rows the donor's embeddings have, where the result has other ones.
    pub(super) rows: Option<u64>,
}

/// The donor's small files and a tokenizer's, made true; what is wrong with them is added to `problems`, what a user
/// should know to `warnings`.
pub(super) fn of(
    donor: &Checkpoint,
    tokenizer: &Checkpoint,
    truth: &Truth<'_>,
    problems: &mut Vec<Error>,
    warnings: &mut Vec<String>,
) -> Vec<Small> {
    let mut files = BTreeMap::new();
    for (from, of_tokenizer) in [(donor, false), (tokenizer, true)] {
        let names = from.sidecars().map_err(|error| problems.push(error)).unwrap_or_default();
        for name in names {
            if TOKENIZER.contains(&name.as_str()) == of_tokenizer {
                let made = truth.made(from, &name, warnings).map_err(|error| problems.push(error));
                let path = from.directory.join(&name);
                files.insert(
                    name.clone(),
                    match made {
                        Ok(Some(bytes)) => Small::Bytes { name, bytes },
                        _ => Small::Copy { name, path },
                    },
                );
            }
        }
    }
    for (name, bytes) in &truth.vocabulary.files {
        files.insert(name.clone(), Small::Bytes { name: name.clone(), bytes: bytes.clone() });
    }
    files.into_values().collect()
}

impl Truth<'_> {
    /// A file made true; none where it is.
    fn made(
        &self,
        from: &Checkpoint,
        name: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mapped = self.vocabulary.mapped.as_ref();
        let of_config = name == "config.json";
        if !(of_config || name == "generation_config.json" && mapped.is_some()) {
            return Ok(None);
        }
        let Some(text) = from.small(name, CONFIG_CAP)? else { return Ok(None) };
        json::parse(&text, name, CONFIG_CAP).map_err(|error| error.path(&from.directory))?;
        let mut made = text.clone();
        if let Some(mapped) = mapped {
            let (text, lost) = config::with_tokens(&made, &mapped.moved);
            made = text;
            warnings.extend(lost.into_iter().map(|key| {
                format!("`{}` of {name} names a token that the result has not", shown(&key))
            }));
        }
        if of_config {
            made = config::without_quantisation(&made);
            let mut names = self.jobs.iter().map(|job| &*job.name);
            match (from.tensors.keys().any(|name| is_head(name)), names.any(is_head)) {
                (false, true) => made = config::untied(&made),
                (true, false) if self.all => {
                    let what =
                        "the result has no head, and config.json is that of a model with one";
                    let hint = "the last slice gives the head: is that of its model tied?";
                    return Err(Error::recipe_with_hint(what, hint));
                }
                _ => {}
            }
            if let (Some(mapped), Some(rows)) = (mapped, self.rows) {
                made = config::with_rows(&made, rows, mapped.rows)?;
            }
            if let Some(order) = self.order {
                made = config::with_layers(&made, &order.layers, order.of)?;
            }
            if let Some(dtype) = commonest(self.jobs) {
                made = config::with_dtype(&made, dtype).unwrap_or(made);
            }
        }
        Ok((made != text).then_some(made))
    }
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

/// Whether a tensor of that name is the head.
fn is_head(name: &str) -> bool {
    name.ends_with("lm_head.weight")
}

/// The dtype of most elements that merge.
fn commonest(jobs: &[Job]) -> Option<Dtype> {
    let mut counts: BTreeMap<Dtype, u64> = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.dtype.is_float()) {
        *counts.entry(job.dtype).or_insert(0) += job.shape.iter().product::<u64>();
    }
    counts.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype)
}
