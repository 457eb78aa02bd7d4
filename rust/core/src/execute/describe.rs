//! Plans, results and errors as JSON, for front ends.

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::Resumed;
use super::prepare::{Outline, State};
use crate::error::Error;
use crate::plan;
use crate::plan::plan::{Job, Plan};

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

/// The result of a run that wrote.
pub(super) fn done(
    plan: &Plan,
    manifest: &Value,
    resumed: &Resumed,
    seconds: f64,
    peak: u64,
) -> Value {
    let mut told = result(plan, manifest, seconds, peak);
    told["status"] = "done".into();
    let read = plan.read_bytes.saturating_sub(resumed.unread) + resumed.kept;
    told["bytes_read"] = read.into();
    told["bytes_written"] = plan.write_bytes.saturating_sub(resumed.kept).into();
    told["resumed_tensors"] = resumed.tensors.into();
    told
}

/// The result of a run that found its work done.
pub(super) fn up_to_date(plan: &Plan, manifest: &Value, seconds: f64, peak: u64) -> Value {
    let mut told = result(plan, manifest, seconds, peak);
    told["status"] = "up to date".into();
    told["bytes_read"] = 0.into();
    told["bytes_written"] = 0.into();
    told["resumed_tensors"] = 0.into();
    told
}

fn result(plan: &Plan, manifest: &Value, seconds: f64, peak: u64) -> Value {
    let tensors = manifest["tensors"].as_object();
    let statistics: serde_json::Map<String, Value> = tensors
        .into_iter()
        .flatten()
        .filter_map(|(name, entry)| Some((name.clone(), entry.get("statistics")?.clone())))
        .collect();
    json!({
        "out": plan.out.as_ref().map(|out| out.to_string_lossy()),
        "tensors": plan.jobs.len(),
        "elements": plan.jobs.iter().map(Job::elements).sum::<u64>(),
        "seconds": seconds,
        "private_peak": peak,
        "threads": plan.threads,
        "warnings": manifest["warnings"],
        "allowed": manifest["allowed"],
        "share_taken": manifest["statistics"].get("share_taken"),
        "statistics": statistics,
        "method": plan.method,
        "inputs": plan.labels,
    })
}
