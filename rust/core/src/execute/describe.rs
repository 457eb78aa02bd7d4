//! Plans, results and errors as JSON, for front ends.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Resumed;
use super::prepare::{Outline, State};
use crate::error::{Error, Kind, Result};
use crate::plan;
use crate::plan::plan::{Job, Plan};
use crate::write::manifest::Manifest;

/// One error as JSON: the sentence, the hint, and where it is.
#[must_use]
pub fn describe_error(error: &Error) -> Value {
    json!({
        "class": error.class(),
        "message": error.to_string(),
        "hint": error.hint(),
        "at": error.at,
        "tensor": error.tensor,
        "branch": error.branch,
        "path": error.path.as_ref().map(|path| path.to_string_lossy()),
        "errno": error.errno(),
    })
}

/// A plan, or its problems, as JSON.
#[must_use]
pub fn describe(outline: &Outline) -> Value {
    let mut told = plan::describe(&outline.outline);
    let problems = outline.problems().iter().flat_map(Error::problems).map(describe_error);
    told["problems"] = problems.collect();
    told["out"] = json!(outline.out.as_ref().map(|out| out.to_string_lossy()));
    let needed = outline.planned().map(|plan| plan.write_bytes);
    told["disk"] = json!({ "needed": needed, "free": outline.free });
    told["state"] = match outline.state {
        State::New => "new",
        State::Resumes => "resumes",
        State::PerhapsUpToDate => "up_to_date?",
    }
    .into();
    told
}

/// What a run tells.
#[derive(Serialize)]
struct Told<'t, Said> {
    status: &'static str,
    out: Option<Cow<'t, str>>,
    method: &'t str,
    inputs: &'t [String],
    tensors: usize,
    elements: u64,
    bytes_read: u64,
    bytes_written: u64,
    seconds: f64,
    private_peak: u64,
    threads: usize,
    resumed_tensors: usize,
    warnings: &'t Said,
    allowed: &'t Said,
    /// Of the model as a whole.
    shares: &'t Said,
    /// Of each tensor.
    statistics: BTreeMap<&'t str, &'t RawValue>,
}

/// The result of a run; where nothing was `resumed` or written, it found its work done.
pub(super) fn result<Said: Serialize>(
    plan: &Plan,
    manifest: &Manifest<'_, Said>,
    resumed: Option<&Resumed>,
    seconds: f64,
    private_peak: u64,
) -> Result<String> {
    let read = |run: &Resumed| plan.read_bytes.saturating_sub(run.unread) + run.kept;
    let written = |run: &Resumed| plan.write_bytes.saturating_sub(run.kept);
    let told = Told {
        status: if resumed.is_some() { "done" } else { "up to date" },
        out: plan.out.as_ref().map(|out| out.to_string_lossy()),
        method: &plan.method,
        inputs: &plan.labels,
        tensors: plan.jobs.len(),
        elements: plan.jobs.iter().map(Job::elements).sum(),
        bytes_read: resumed.map_or(0, read),
        bytes_written: resumed.map_or(0, written),
        seconds,
        private_peak,
        threads: plan.threads,
        resumed_tensors: resumed.map_or(0, |run| run.tensors),
        warnings: &manifest.warnings,
        allowed: &manifest.allowed,
        shares: &manifest.statistics,
        statistics: manifest
            .tensors
            .iter()
            .filter_map(|(name, entry)| Some((&**name, entry.statistics?)))
            .collect(),
    };
    serde_json::to_string(&told).map_err(|error| Kind::Internal { what: error.to_string() }.into())
}
