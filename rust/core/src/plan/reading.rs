//! What a merge reads: how many bytes, which tensors how often, and which not at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::inputs::Inputs;
use crate::plan::plan::Job;

/// Bytes to read, how many tensors are read how often, and the input tensors that no job reads.
pub(super) fn of(jobs: &[Job], inputs: &Inputs) -> (u64, BTreeMap<u64, u64>, Vec<(usize, String)>) {
    let bytes_of = |input: usize, tensor: &str| {
        let range = &inputs.checkpoints[input].stored(tensor).range;
        range.end - range.start
    };
    let mut bytes = 0u64;
    let mut passes = BTreeMap::new();
    let mut read: BTreeSet<(usize, &str)> = BTreeSet::new();
    for job in jobs {
        let mut most = 1;
        for (at, times) in job.reads() {
            bytes = bytes.saturating_add(bytes_of(at.input, &at.tensor).saturating_mul(times));
            most = most.max(times);
            let checkpoint = &inputs.checkpoints[at.input];
            let known = checkpoint.tensors.get_key_value(&*at.tensor);
            let known = known.or_else(|| checkpoint.aside.get_key_value(&*at.tensor));
            read.extend(known.map(|(name, _)| (at.input, name.as_str())));
        }
        *passes.entry(most).or_insert(0) += 1;
    }
    let all = inputs.checkpoints.iter().enumerate();
    let all =
        all.flat_map(|(input, checkpoint)| checkpoint.all().map(move |(name, _)| (input, name)));
    let unread: Vec<(usize, String)> = all
        .filter(|(input, name)| !read.contains(&(*input, name.as_str())))
        .map(|(input, name)| (input, name.clone()))
        .collect();
    bytes += unread.iter().map(|(input, tensor)| bytes_of(*input, tensor)).sum::<u64>();
    for checkpoint in &inputs.checkpoints {
        let tensors: u64 =
            checkpoint.all().map(|(_, stored)| stored.range.end - stored.range.start).sum();
        let files: u64 = checkpoint.files.iter().map(super::super::read::source::Source::len).sum();
        bytes += files - tensors;
    }
    (bytes, passes, unread)
}
