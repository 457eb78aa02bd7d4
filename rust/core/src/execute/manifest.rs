//! The manifest, and the small files beside the weights.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::inputs::{self, Hashes};
use crate::error::{Result, shown};
use crate::fit::method::Bits;
use crate::plan::layout::Placed;
use crate::plan::plan::{Job, Plan, Small};
use crate::write::manifest::{Manifest, TensorEntry};
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

/// The manifest; `finished` are the tensors in the order of the jobs, `found` the answers of the plan's surveys.
pub(super) fn manifest<'p>(
    plan: &'p Plan,
    finished: &'p [Finished],
    found: Vec<Value>,
    unread: Hashes<'p>,
    sidecars: &[Sidecar],
) -> Result<Manifest<'p>> {
    let mut hashes = unread;
    inputs::gather(&mut hashes, plan, finished);
    let mut told = Told::default();
    for (job, finished) in plan.jobs.iter().zip(finished) {
        told.add(job, &finished.statistics);
    }
    let planned = plan.allowed.iter().map(|allowed| {
        json!({ "rule": allowed.rule, "tensor": allowed.tensor, "branch": allowed.branch })
    });
    let warnings = plan.warnings.iter().cloned().chain(told.warnings()).collect();
    let statistics = whole(&told, found);
    Ok(Manifest {
        branchmerge: env!("CARGO_PKG_VERSION").into(),
        format: FORMAT,
        recipe: plan.recipe.clone(),
        inputs: inputs::fingerprinted(plan, &hashes).into(),
        bits: bits(plan).into(),
        allowed: planned.chain(told.carried).collect(),
        warnings,
        statistics,
        files: file_entries(&plan.layout, sidecars)?,
        tensors: plan
            .layout
            .tensors
            .iter()
            .zip(finished)
            .map(|(placed, finished)| ((&*placed.name).into(), entry(plan, placed, finished)))
            .collect(),
    })
}

/// Where the same bits come out.
fn bits(plan: &Plan) -> &'static str {
    if plan.jobs.iter().any(|job| job.bits() == Bits::Machine) { "machine" } else { "everywhere" }
}

/// What is told of the model as a whole.
fn whole(told: &Told<'_>, found: Vec<Value>) -> Value {
    let mut whole = json!({});
    if let Some(taken) = told.taken {
        whole["share_taken"] = json!(taken as f64 / told.elements.max(1) as f64);
    }
    if !found.is_empty() {
        whole["surveys"] = found.into();
    }
    whole
}

fn entry<'p>(plan: &'p Plan, placed: &'p Placed, finished: &'p Finished) -> TensorEntry<'p> {
    TensorEntry {
        blake3: finished.hash,
        dtype: placed.dtype.name().into(),
        file: (&*plan.layout.files[placed.file].name).into(),
        shape: (&*placed.shape).into(),
        statistics: (finished.statistics.get() != "{}").then_some(&finished.statistics),
    }
}

/// What the statistics of single tensors come to.
#[derive(Default)]
struct Told<'p> {
    elements: u64,
    /// Elements that were taken and changed, where a method takes any.
    taken: Option<u64>,
    /// The tensors that had NaN or infinity in them, as what was let through.
    carried: Vec<Value>,
    /// The tensors that a text is about.
    tensors: BTreeMap<String, Vec<&'p str>>,
}

impl<'p> Told<'p> {
    fn add(&mut self, job: &'p Job, statistics: &RawValue) {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Statistics {
            taken_and_changed: Option<u64>,
            carried: Option<u64>,
            warnings: Vec<String>,
        }

        // What an earlier run left in its journal may be in another form: then it says nothing here.
        let told: Statistics = serde_json::from_str(statistics.get()).unwrap_or_default();
        self.elements += job.elements();
        if let Some(taken) = told.taken_and_changed {
            *self.taken.get_or_insert(0) += taken;
        }
        if told.carried.is_some() {
            self.carried.push(json!({ "rule": "nan", "tensor": &*job.name, "branch": null }));
        }
        for text in told.warnings {
            self.tensors.entry(text).or_default().push(&job.name);
        }
    }

    /// The methods' warnings, each text once with the tensors that it is about.
    fn warnings(&self) -> impl Iterator<Item = String> {
        self.tensors.iter().map(|(text, tensors)| {
            let named = tensors.iter().take(NAMED).map(|name| format!("`{}`", shown(name)));
            let more = tensors.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}: {text}", named.collect::<Vec<_>>().join(", "))
        })
    }
}
