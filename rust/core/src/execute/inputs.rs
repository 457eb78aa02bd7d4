//! What the inputs are: their identities while a run lasts, their fingerprints in the manifest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fuse::inputs_of;
use crate::error::Result;
use crate::parallel::{Progress, Team};
use crate::plan::plan::Plan;
use crate::read::checkpoint::Checkpoint;
use crate::read::tree_hash::{self, Hash, Part};
use crate::write::output::Finished;

/// Bytes that are hashed at once: a whole subtree of the hash.
const PART: u64 = 1 << 20;

/// The hashes of stored tensors, by input and name.
pub(super) type Hashes<'p> = BTreeMap<(usize, &'p str), Hash>;

/// What tells an unfinished run whether its inputs are still the same: names, sizes and times, never paths.
pub(super) fn identities(plan: &Plan) -> Value {
    let of = |(label, checkpoint): (&String, &Checkpoint)| {
        let files = checkpoint.files.iter().map(|file| {
            let name = file.path().file_name().map(|name| name.to_string_lossy().into_owned());
            json!({ "name": name, "bytes": file.len(), "modified_ns": file.identity().modified_ns })
        });
        json!({ "label": label, "files": files.collect::<Vec<_>>() })
    };
    plan.labels.iter().zip(&plan.checkpoints).map(of).collect()
}

/// What the manifest says of every input but its fingerprint.
pub(super) fn summaries(plan: &Plan) -> Vec<Value> {
    let of = |(label, checkpoint): (&String, &Checkpoint)| {
        let bytes: u64 =
            checkpoint.all().map(|(_, stored)| stored.range.end - stored.range.start).sum();
        json!({ "label": label, "tensors": checkpoint.all().count(), "bytes": bytes })
    };
    plan.labels.iter().zip(&plan.checkpoints).map(of).collect()
}

/// Hashes the input tensors that no output tensor is made of.
pub(super) fn hash_unread<'p>(
    plan: &'p Plan,
    team: Team,
    progress: &Progress,
) -> Result<Hashes<'p>> {
    let hashes = team.run(plan.unread.len(), |index| {
        let (input, tensor) = &plan.unread[index];
        Ok(((*input, tensor.as_str()), hash(plan, *input, tensor, progress)?))
    })?;
    Ok(hashes.into_iter().collect())
}

/// Hashes every tensor of every input.
pub(super) fn hash_all<'p>(plan: &'p Plan, team: Team, progress: &Progress) -> Result<Hashes<'p>> {
    let tensors = |(input, checkpoint): (usize, &'p Checkpoint)| {
        checkpoint.all().map(move |(name, _)| (input, name.as_str()))
    };
    let all: Vec<(usize, &str)> = plan.checkpoints.iter().enumerate().flat_map(tensors).collect();
    let hashes = team.run(all.len(), |index| {
        let hash = hash(plan, all[index].0, all[index].1, progress)?;
        progress.add_tensor();
        Ok((all[index], hash))
    })?;
    Ok(hashes.into_iter().collect())
}

/// The hash of a stored tensor.
pub(super) fn hash(plan: &Plan, input: usize, tensor: &str, progress: &Progress) -> Result<Hash> {
    let checkpoint = &plan.checkpoints[input];
    let stored = checkpoint.stored(tensor);
    let source = &checkpoint.files[stored.file];
    let total = stored.range.end - stored.range.start;
    let mut buffer = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    for start in (0..total).step_by(PART as usize) {
        progress.check()?;
        let end = total.min(start + PART);
        let bytes =
            source.bytes(stored.range.start + start..stored.range.start + end, &mut buffer)?;
        parts.push(tree_hash::part(bytes, start, total));
        progress.add_bytes(end - start);
    }
    source.intact()?;
    Ok(tree_hash::join(&parts))
}

/// Adds the hashes of all that the finished tensors were made of.
pub(super) fn gather<'p>(hashes: &mut Hashes<'p>, plan: &'p Plan, finished: &[Finished]) {
    for (at, finished) in finished.iter().enumerate() {
        hashes.extend(inputs_of(plan, at).into_iter().zip(finished.inputs.iter().copied()));
    }
}

/// The same with every input's fingerprint.
pub(super) fn fingerprinted(plan: &Plan, hashes: &Hashes<'_>) -> Vec<Value> {
    let mut summaries = summaries(plan);
    for (input, summary) in summaries.iter_mut().enumerate() {
        summary["fingerprint"] = json!(fingerprint(plan, input, hashes));
    }
    summaries
}

/// One hash for all that a checkpoint's tensors are: names, dtypes, shapes and bytes, whatever its shards.
fn fingerprint(plan: &Plan, input: usize, hashes: &Hashes<'_>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (name, stored) in plan.checkpoints[input].all() {
        let hash = hashes.get(&(input, name.as_str())).map(Hash::to_string).unwrap_or_default();
        let line = json!([name, stored.dtype.name(), stored.shape, hash]);
        hasher.update(format!("{line}\n").as_bytes());
    }
    hasher.finalize().into()
}
