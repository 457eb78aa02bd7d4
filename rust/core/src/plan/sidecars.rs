//! The small files that a result carries: the donor's as they are, its config made true.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::plan::plan::{Job, Small};
use crate::plan::{config, layers};
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::dtype::Dtype;

/// The donor's small files, with its config made true (`order` are the donor's layers that the result's are like, where they
/// are put together anew); what is wrong with them is added to `problems`.
pub(super) fn of(
    donor: &Checkpoint,
    jobs: &[Job],
    order: Option<&[u64]>,
    problems: &mut Vec<Error>,
) -> Vec<Small> {
    let names = match donor.sidecars() {
        Ok(names) => names,
        Err(error) => {
            problems.push(error);
            return Vec::new();
        }
    };
    let dtype = commonest(jobs);
    let layers = layers::count(donor.tensors.keys().map(String::as_str));
    let small = |name: String| {
        let config = if name == "config.json" {
            donor.small(&name, CONFIG_CAP).unwrap_or_else(|error| {
                problems.push(error);
                None
            })
        } else {
            None
        };
        let Some(text) = config else {
            return Small::Copy { path: donor.directory.join(&name), name };
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
            Small::Copy { path: donor.directory.join(&name), name }
        } else {
            Small::Bytes { name, bytes: made }
        }
    };
    names.into_iter().map(small).collect()
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
