//! A plan as JSON, for front ends.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::plan::Outline;
use crate::plan::plan::Plan;

/// What is decided, as JSON; the problems are the caller's to add.
#[must_use]
pub fn describe(outline: &Outline) -> Value {
    let Some(plan) = &outline.plan else { return json!({}) };
    let elements: u64 = plan.jobs.iter().map(|job| job.shape.iter().product::<u64>()).sum();
    let files =
        plan.layout.files.iter().map(|file| json!({ "name": file.name, "bytes": file.bytes }));
    let bytes: u64 = plan.layout.files.iter().map(|file| file.bytes).sum();
    let passes: BTreeMap<String, u64> =
        plan.passes.iter().map(|(passes, count)| (passes.to_string(), *count)).collect();
    json!({
        "warnings": plan.warnings,
        "method": plan.method,
        "recipe": plan.recipe,
        "inputs": inputs(plan),
        "output": {
            "tensors": plan.jobs.len(),
            "elements": elements,
            "bytes": bytes,
            "files": files.collect::<Vec<_>>(),
            "dtypes": count(plan.jobs.iter().map(|job| job.dtype.name())),
        },
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "passes": passes,
        "memory": { "private": plan.private, "threads": plan.threads, "bound": plan.memory },
        "base": plan.base,
        "sidecars": plan.sidecars.iter().map(super::plan::Small::name).collect::<Vec<_>>(),
        "allowed": plan.allowed.iter().map(|one| {
            json!({ "rule": one.rule, "tensor": one.tensor, "branch": one.branch })
        }).collect::<Vec<_>>(),
    })
}

fn inputs(plan: &Plan) -> Vec<Value> {
    let of = |(label, checkpoint): (&String, &crate::read::checkpoint::Checkpoint)| {
        let bytes: u64 =
            checkpoint.tensors.values().map(|stored| stored.range.end - stored.range.start).sum();
        json!({
            "label": label,
            "path": checkpoint.directory.to_string_lossy(),
            "tensors": checkpoint.tensors.len(),
            "bytes": bytes,
            "dtypes": count(checkpoint.tensors.values().map(|stored| stored.dtype.name())),
        })
    };
    plan.labels.iter().zip(&plan.checkpoints).map(of).collect()
}

fn count<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}
