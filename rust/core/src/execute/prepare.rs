//! What a plan cannot know from headers alone: whether its output may stand where it should, and whether it does already.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{inputs, manifest};
use crate::error::{Error, Kind, Result};
use crate::parallel::{Phase, Progress, Team};
use crate::plan::plan::Plan;
use crate::plan::{self, Options};
use crate::read::checkpoint::Checkpoint;
use crate::write::manifest::room_for;
use crate::write::output::{check_target, file_entries, free_bytes};
use crate::write::verify::{is_whole, verify};

/// Everything decided about a merge, or every problem of it.
#[derive(Debug)]
pub struct Outline {
    pub(super) outline: plan::Outline,
    pub(super) out: Option<PathBuf>,
    pub(super) free: Option<u64>,
    pub(super) state: State,
}

/// What stands where the output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Resumes,
    PerhapsUpToDate,
}

impl Outline {
    /// Everything that is wrong.
    #[must_use]
    pub fn problems(&self) -> &[Error] {
        &self.outline.problems
    }

    /// The plan, where nothing is wrong.
    #[must_use]
    pub fn planned(&self) -> Option<&Plan> {
        self.outline.plan.as_ref().filter(|_| self.outline.problems.is_empty())
    }
}

/// Decides everything about a merge; nothing is written.
#[must_use]
pub fn prepare(recipe: &Value, options: &Options) -> Outline {
    let outline = plan::plan(recipe, options);
    let mut prepared = Outline { outline, out: options.out.clone(), free: None, state: State::New };
    let Some(target) = options.out.as_deref() else { return prepared };
    let tensors = prepared.outline.plan.as_ref().map_or(0, |plan| plan.jobs.len());
    prepared.outline.problems.extend(room_for(tensors).err());
    let found = prepared.outline.plan.as_ref().map(|plan| looks_whole(plan, target)).transpose();
    match found {
        Ok(Some(true)) => prepared.state = State::PerhapsUpToDate,
        Ok(_) => {
            prepared.state = if partial(target).is_dir() { State::Resumes } else { State::New }
        }
        Err(error) => prepared.outline.problems.push(error),
    }
    let inputs: Vec<PathBuf> = prepared.outline.checkpoints_said.clone();
    let over = options.overwrite || prepared.state == State::PerhapsUpToDate;
    let found = check_target(target, &inputs, over);
    // An input that cannot be looked at is told once.
    let told: Vec<_> = prepared.outline.problems.iter().map(|known| known.path.clone()).collect();
    let new =
        found.into_iter().filter(|error| error.errno().is_none() || !told.contains(&error.path));
    prepared.outline.problems.extend(new);
    match free_bytes(target) {
        Ok(free) => {
            prepared.free = Some(free);
            let needed = prepared.outline.plan.as_ref().map_or(0, |plan| plan.write_bytes);
            if prepared.state == State::New && needed > free {
                let error = Error::from(Kind::DiskFull { needed, free }).path(target);
                prepared.outline.problems.push(error);
            }
        }
        Err(error) => prepared.outline.problems.push(error),
    }
    prepared
}

/// Decides everything about a merge of checkpoints that a host lends; the recipe names them by their labels.
#[must_use]
pub fn prepare_lent(recipe: &Value, lent: Vec<Checkpoint>, options: &Options) -> Outline {
    let outline = plan::plan_lent(recipe, lent, options);
    Outline { outline, out: None, free: None, state: State::New }
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn looks_whole(plan: &Plan, target: &Path) -> Result<bool> {
    Ok(is_whole(target, &plan.recipe, &Value::Array(inputs::summaries(plan)))?.is_some())
}

/// The manifest, to be opened, of a target that already holds this very result: same recipe, same inputs by their hashes,
/// every byte as it was written.
pub(super) fn up_to_date(
    plan: &Plan,
    target: &Path,
    team: Team,
    progress: &Progress,
) -> Result<Option<Vec<u8>>> {
    let summaries = inputs::summaries(plan);
    let Some(sealed) = is_whole(target, &plan.recipe, &Value::Array(summaries.clone()))? else {
        return Ok(None);
    };
    let bytes = summaries.iter().filter_map(|summary| summary["bytes"].as_u64()).sum();
    let tensors = summaries.iter().filter_map(|summary| summary["tensors"].as_u64()).sum();
    progress.begin(Phase::Checking, bytes, tensors);
    let hashes = inputs::hash_all(plan, team, progress)?;
    let fingerprinted = Value::Array(inputs::fingerprinted(plan, &hashes));
    if is_whole(target, &plan.recipe, &fingerprinted)?.as_ref() != Some(&sealed) {
        return Ok(None);
    }
    // What the donor's small files have become counts too.
    let carried = file_entries(&plan.layout, &manifest::sidecars(plan, &[]))?;
    let same = crate::write::manifest::open(&sealed)
        .is_ok_and(|told| carried.iter().all(|(name, entry)| told.files.get(name) == Some(entry)));
    Ok((same && verify(target, &team, progress)?.problems.is_empty()).then_some(sealed))
}
