//! One tensor: fitted, evaluated chunk by chunk, encoded, written and hashed; what it was made of is hashed on the way.

use std::ops::Range;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::Work;
use super::build::{Build, stored};
use crate::error::{Error, Kind, Result};
use crate::fit::method::Fitted;
use crate::fit::node::{Node, Tally};
use crate::fit::tensor::{BLOCK, Leaf, Reader};
use crate::parallel::Team;
use crate::plan::expression::{Expression, StoredAt};
use crate::plan::plan::{self, Plan};
use crate::read::source::Source;
use crate::read::tree_hash::{self, Part};
use crate::write::output::Finished;

/// Bytes of a raw copy that are handled at once: a whole subtree of the hash.
const COPY: u64 = 1 << 20;

/// Makes one tensor of the output.
pub(super) fn fuse(work: &Work<'_>, at: usize, team: Team) -> Result<Finished> {
    let job = &work.plan.jobs[at];
    let finished = match &job.what {
        plan::Work::Copy { inputs } => copy(work, at, inputs, team),
        plan::Work::Merge { expression, double: false } => merge::<f32>(work, at, expression, team),
        plan::Work::Merge { expression, double: true } => merge::<f64>(work, at, expression, team),
    };
    work.progress.add_tensor();
    finished.map_err(|error| error.tensor(&*job.name))
}

/// The stored tensors that an output tensor is made of, each once, in a fixed order.
pub(super) fn inputs_of(plan: &Plan, at: usize) -> Vec<(usize, &str)> {
    let mut found: Vec<(usize, &str)> = Vec::new();
    match &plan.jobs[at].what {
        plan::Work::Copy { inputs } => {
            found.extend(inputs.iter().map(|at| (at.input, &*at.tensor)));
        }
        plan::Work::Merge { expression, .. } => collect(expression, &mut found),
    }
    found
}

fn collect<'p>(expression: &'p Expression, found: &mut Vec<(usize, &'p str)>) {
    expression.each_stored(&mut |stored| {
        let one = (stored.input, &*stored.tensor);
        if !found.contains(&one) {
            found.push(one);
        }
    });
}

/// What a stretch of chunks came to.
struct Stretch {
    tally: Tally,
    output: Vec<Part>,
    /// The parts of each distinct input, chunk by chunk.
    inputs: Vec<Vec<Part>>,
}

fn merge<R: Fitted>(
    work: &Work<'_>,
    at: usize,
    expression: &Expression,
    team: Team,
) -> Result<Finished> {
    let job = &work.plan.jobs[at];
    let build =
        Build { plan: work.plan, answers: &work.answers, progress: work.progress, job, team };
    let Expression::Merge(root) = expression else {
        let what = "a plan's merge is a stored tensor".into();
        return Err(Kind::Internal { what }.into());
    };
    let mut found = Vec::new();
    if work.sink.hashes() {
        collect(expression, &mut found);
    }
    let node: Node<'_, R> = build.node(root, &mut Vec::new())?;
    let leaves = node.tensor.leaves();
    // Which leaf shows each distinct input whole; one that the output does not cover is hashed apart.
    let whole: Vec<Option<usize>> = found
        .iter()
        .map(|&(input, tensor)| {
            let same = |leaf: &&Leaf<'_>| {
                leaf.input == input && std::ptr::eq(leaf.stored, stored(work.plan, input, tensor).1)
            };
            leaves
                .iter()
                .position(same)
                .filter(|&at| leaves[at].stored.elements() == node.tensor.elements)
        })
        .collect();
    let chunks = node.tensor.chunks();
    // Enough stretches that no worker waits long for another; one alone makes long ones.
    let share = match team.threads() as u64 {
        1 => 64,
        threads => chunks.div_ceil(threads * 32).clamp(1, 64),
    };
    let count = chunks.div_ceil(share) as usize;
    let stretches = team.run(count, |index| {
        let first = index as u64 * share;
        stretch(work, at, &node, &whole, first..chunks.min(first + share))
    })?;
    let mut tally = Tally::default();
    let mut output = Vec::new();
    let mut inputs: Vec<Vec<Part>> = vec![Vec::new(); found.len()];
    for part in stretches {
        tally += part.tally;
        output.extend(part.output);
        inputs.iter_mut().zip(part.inputs).for_each(|(all, some)| all.extend(some));
    }
    let hashes =
        found.iter().zip(&whole).zip(&inputs).map(
            |((&(input, tensor), whole), parts)| match whole {
                Some(_) => Ok(tree_hash::join(parts)),
                None => super::inputs::hash(work.plan, input, tensor, work.progress),
            },
        );
    Ok(Finished {
        hash: tree_hash::join(&output),
        inputs: hashes.collect::<Result<_>>()?,
        statistics: statistics(&node, &tally)?,
    })
}

/// Makes, writes and hashes some neighbouring chunks.
fn stretch<R: Fitted>(
    work: &Work<'_>,
    at: usize,
    node: &Node<'_, R>,
    whole: &[Option<usize>],
    chunks: Range<u64>,
) -> Result<Stretch> {
    let job = &work.plan.jobs[at];
    let size = job.dtype.bits() / 8;
    let mut reader = Reader::new(&node.tensor, BLOCK);
    let (mut merged, mut bytes) = (Vec::new(), Vec::new());
    let mut done = Stretch {
        tally: Tally::default(),
        output: Vec::new(),
        inputs: vec![Vec::new(); whole.len()],
    };
    for chunk in chunks {
        let range = node.tensor.chunk(chunk);
        bytes.resize(((range.end - range.start) * size) as usize, 0);
        let same = reader.read(range.clone(), |raw, scratch| {
            // Hashing reads from many places at once: it brings the bytes from memory faster than a kernel would.
            for (parts, leaf) in done.inputs.iter_mut().zip(whole) {
                if let Some(leaf) = leaf {
                    let seen = raw.leaves[*leaf];
                    let width = seen.len() as u64 / (range.end - range.start);
                    parts.push(tree_hash::part(
                        seen,
                        range.start * width,
                        node.tensor.elements * width,
                    ));
                }
            }
            done.tally += node.apply(raw, scratch, job.dtype, &mut merged, &mut bytes)?;
            // Where an input's bytes come out, so does their hash.
            let same = |leaf: &Option<usize>| leaf.is_some_and(|leaf| raw.leaves[leaf] == bytes);
            Ok(whole.iter().position(same).and_then(|input| done.inputs[input].last().copied()))
        })?;
        let start = range.start * size;
        if work.sink.hashes() {
            let whole = node.tensor.elements * size;
            done.output.push(same.unwrap_or_else(|| tree_hash::part(&bytes, start, whole)));
        }
        work.sink.write(at, start, &bytes)?;
        work.progress.add_bytes(bytes.len() as u64);
    }
    Ok(done)
}

/// What the result tells of a tensor: the method's figures, and the shares of elements that were taken and changed.
fn statistics<R: Fitted>(node: &Node<'_, R>, tally: &Tally) -> Result<Box<RawValue>> {
    let mut told = Map::new();
    for (name, number) in &node.figures.numbers {
        told.insert((*name).into(), json!(number));
    }
    let all = node.tensor.elements.max(1) as f64;
    if node.figures.takes {
        told.insert("taken".into(), json!(tally.taken as f64 / all));
        told.insert("taken_and_changed".into(), json!(tally.changed));
    }
    if node.tensor.has_base {
        told.insert("changed".into(), json!(tally.changed as f64 / all));
    }
    if tally.carried > 0 {
        told.insert("carried".into(), json!(tally.carried));
    }
    if !node.figures.warnings.is_empty() {
        told.insert("warnings".into(), json!(node.figures.warnings));
    }
    as_json(&told.into())
}

fn as_json(told: &Value) -> Result<Box<RawValue>> {
    to_raw_value(told).map_err(|error| Kind::Internal { what: error.to_string() }.into())
}

/// Copies a tensor that is not computed with, once all inputs are seen to hold the same bytes.
fn copy(work: &Work<'_>, at: usize, inputs: &[StoredAt], team: Team) -> Result<Finished> {
    let (job, whole) = (&work.plan.jobs[at], work.plan.layout.tensors[at].bytes);
    let count = whole.div_ceil(COPY) as usize;
    let parts = team.run(count, |index| {
        work.progress.check()?;
        let range = index as u64 * COPY..whole.min((index as u64 + 1) * COPY);
        let (mut first, mut other) = (Vec::new(), Vec::new());
        let (source, bytes) = read(work.plan, &inputs[0], range.clone(), &mut first)?;
        for input in &inputs[1..] {
            let (other_source, other) = read(work.plan, input, range.clone(), &mut other)?;
            let equal = other == bytes;
            other_source.intact()?;
            if !equal {
                source.intact()?;
                let expected = work.plan.labels[inputs[0].input].clone();
                let kind = Kind::Unequal { dtype: job.dtype.name(), expected };
                return Err(Error::from(kind).branch(&work.plan.labels[input.input]));
            }
        }
        work.sink.write(at, range.start, bytes)?;
        let part = tree_hash::part(bytes, range.start, whole);
        source.intact()?;
        work.progress.add_bytes(bytes.len() as u64);
        Ok(part)
    })?;
    let hash = tree_hash::join(&parts);
    let inputs = vec![hash; inputs.len()].into();
    Ok(Finished { hash, inputs, statistics: as_json(&json!({}))? })
}

/// The bytes of a part of a stored tensor, and the file that they are of.
fn read<'s>(
    plan: &'s Plan,
    at: &StoredAt,
    range: Range<u64>,
    buffer: &'s mut Vec<u8>,
) -> Result<(&'s Source, &'s [u8])> {
    let (source, stored) = stored(plan, at.input, &at.tensor);
    let (start, end) = (stored.range.start + range.start, stored.range.start + range.end);
    Ok((source, source.bytes(start..end, buffer)?))
}
