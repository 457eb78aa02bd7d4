//! The small files that a result carries: the donor's as they are, its config made true.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::plan::config;
use crate::plan::plan::{Job, Small};
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::dtype::Dtype;

/// The donor's small files, with its config made true; what is wrong with them is added to `problems`.
pub(super) fn of(donor: &Checkpoint, jobs: &[Job], problems: &mut Vec<Error>) -> Vec<Small> {
    let names = match donor.sidecars() {
        Ok(names) => names,
        Err(error) => {
            problems.push(error);
            return Vec::new();
        }
    };
    let dtype = commonest(jobs);
    let small = |name: String| {
        let config = if name == "config.json" {
            donor.small(&name, CONFIG_CAP).unwrap_or_else(|error| {
                problems.push(error);
                None
            })
        } else {
            None
        };
        match config.and_then(|text| config::with_dtype(&text, dtype?)) {
            Some(bytes) => Small::Bytes { name, bytes },
            None => Small::Copy { path: donor.directory.join(&name), name },
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
