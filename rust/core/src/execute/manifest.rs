//! The manifest's content, and the small files beside the weights.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::inputs::{self, Hashes};
use crate::error::Result;
use crate::plan::plan::{Job, Plan, Small};
use crate::write::output::{Content, Finished, Sidecar, file_entries};

/// The version of the manifest's form.
const FORMAT: u64 = 1;
/// Tensors that a warning names before it only counts.
const NAMED: usize = 3;

/// The small files of the result: the donor's, and those that the front end gives.
pub(super) fn sidecars(plan: &Plan, files: &[(String, Vec<u8>)]) -> Vec<Sidecar> {
    let carried = plan.sidecars.iter().map(|small| match small {
        Small::Copy { name, path, .. } => {
            Sidecar { name: name.clone(), content: Content::Copy(path.clone()) }
        }
        Small::Bytes { name, bytes } => {
            Sidecar { name: name.clone(), content: Content::Bytes(bytes.clone()) }
        }
    });
    let given = files.iter().map(|(name, bytes)| Sidecar {
        name: name.clone(),
        content: Content::Bytes(bytes.clone()),
    });
    carried.chain(given).collect()
}

/// The manifest before its seal.
pub(super) fn body(
    plan: &Plan,
    finished: &BTreeMap<String, Finished>,
    unread: &Hashes,
    sidecars: &[Sidecar],
) -> Result<Value> {
    let hashes = inputs::gathered(plan, finished, unread);
    let mut summaries = inputs::summaries(plan);
    for (input, summary) in summaries.iter_mut().enumerate() {
        summary["fingerprint"] = inputs::fingerprint(plan, input, &hashes).into();
    }
    let mut warnings = plan.warnings.clone();
    warnings.extend(tensor_warnings(plan, finished));
    Ok(json!({
        "branchmerge": env!("CARGO_PKG_VERSION"),
        "format": FORMAT,
        "recipe": plan.recipe,
        "inputs": summaries,
        "bits": "everywhere",
        "allowed": allowed(plan, finished),
        "warnings": warnings,
        "statistics": shares(plan, finished),
        "files": file_entries(&plan.layout, sidecars)?,
        "tensors": tensors(plan, finished),
    }))
}

fn tensors(plan: &Plan, finished: &BTreeMap<String, Finished>) -> Map<String, Value> {
    let mut tensors = Map::new();
    for placed in &plan.layout.tensors {
        let done = finished.get(&placed.name);
        let mut entry = json!({
            "file": plan.layout.files[placed.file].name,
            "dtype": placed.dtype.name(),
            "shape": placed.shape,
            "blake3": done.map(|done| &done.hash),
        });
        if let Some(Value::Object(statistics)) = done.map(|done| &done.statistics)
            && !statistics.is_empty()
        {
            entry["statistics"] = Value::Object(statistics.clone());
        }
        tensors.insert(placed.name.clone(), entry);
    }
    tensors
}

/// What was let through: by the plan, and non-finite values by name.
fn allowed(plan: &Plan, finished: &BTreeMap<String, Finished>) -> Vec<Value> {
    let planned = plan.allowed.iter().map(|allowed| {
        json!({ "rule": allowed.rule, "tensor": allowed.tensor, "branch": allowed.branch })
    });
    let carried = finished.values().filter(|done| done.statistics.get("carried").is_some());
    let carried =
        carried.map(|done| json!({ "rule": "nan", "tensor": done.tensor, "branch": null }));
    planned.chain(carried).collect()
}

/// The shares over the whole model.
fn shares(plan: &Plan, finished: &BTreeMap<String, Finished>) -> Value {
    let counts =
        || finished.values().filter_map(|done| done.statistics.get("taken_and_changed")?.as_u64());
    if counts().next().is_none() {
        return json!({});
    }
    let elements: u64 = plan.jobs.iter().map(Job::elements).sum();
    json!({ "share_taken": counts().sum::<u64>() as f64 / elements.max(1) as f64 })
}

/// The methods' warnings, each text once with the tensors that it is about.
fn tensor_warnings(plan: &Plan, finished: &BTreeMap<String, Finished>) -> Vec<String> {
    let mut by_text: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for job in &plan.jobs {
        let told =
            finished.get(&job.name).and_then(|done| done.statistics.get("warnings")?.as_array());
        for text in told.into_iter().flatten().filter_map(Value::as_str) {
            by_text.entry(text).or_default().push(&job.name);
        }
    }
    let line = |(text, tensors): (&str, Vec<&str>)| {
        let named: Vec<String> = tensors
            .iter()
            .take(NAMED)
            .map(|name| format!("`{}`", crate::error::shown(name)))
            .collect();
        let more = tensors.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}: {text}", named.join(", "))
    };
    by_text.into_iter().map(line).collect()
}
