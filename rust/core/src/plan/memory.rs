//! The private memory of a merge: known from threads, operands and the widest grain, never from the model's size.

use crate::error::{Error, Kind};
use crate::fit::method::{Extent, Grain};
use crate::fit::survey::Question;
use crate::fit::tensor::{BLOCK, CHUNK, ROW_BLOCK};
use crate::plan::expression::{Expression, StoredAt};
use crate::plan::plan::{Job, Work};
use crate::read::checkpoint::Checkpoint;
use crate::read::source::Io;

/// What the engine takes besides its workers: tables of names and places are counted by tensor.
const ENGINE: u64 = 8 << 20;
/// What names, places and figures of a tensor take, in the plan, the journal and the manifest.
const A_TENSOR: u64 = 1024;
/// A worker's stack and small change.
const A_WORKER: u64 = 1 << 20;

/// How many workers may run within `bound`, and what they take.
pub(super) fn fit(
    jobs: &[Job],
    surveys: &[Question],
    checkpoints: &[Checkpoint],
    io: Io,
    threads: usize,
    bound: u64,
) -> Result<(usize, u64), Error> {
    let surveyed =
        |threads: u64| surveys.iter().map(|question| question.memory(threads)).sum::<u64>();
    let needed =
        |threads: usize| private(jobs, checkpoints, io, threads as u64) + surveyed(threads as u64);
    match (1..=threads).rev().find(|&threads| needed(threads) <= bound) {
        Some(threads) => Ok((threads, needed(threads))),
        None => Err(Kind::MemoryBound { bound, needed: needed(1) }.into()),
    }
}

/// The bound where nothing is said: nine tenths of what is free.
pub(super) fn free() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let available = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?.to_owned();
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|most| most.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    let free = available.map_or(8 << 30, |kilobytes| kilobytes * 1024);
    group.map_or(free, |group| group.min(free)) / 10 * 9
}

fn private(jobs: &[Job], checkpoints: &[Checkpoint], io: Io, threads: u64) -> u64 {
    let tensors: u64 = checkpoints.iter().map(|checkpoint| checkpoint.tensors.len() as u64).sum();
    let all = jobs.iter().map(Job::elements).sum();
    let of_job = |job: &Job| {
        // Workers that share a tensor share what it is counted in.
        let alone = !job.shared(all, threads as usize);
        let counted = counted(job, if alone { 1 } else { threads });
        threads * worker(job, checkpoints, io) + if alone { threads } else { 1 } * counted
    };
    let widest = jobs.iter().map(of_job).max().unwrap_or(0);
    ENGINE + (tensors + jobs.len() as u64) * A_TENSOR + widest
}

/// What a worker reads into and computes in.
fn worker(job: &Job, checkpoints: &[Checkpoint], io: Io) -> u64 {
    let elements = job.elements();
    let Work::Merge { expression, double } = &job.what else { return A_WORKER + (2 << 20) };
    let chunk = CHUNK.min(elements);
    let rows = grain(expression) == Grain::Row;
    let row = if rows { job.row() } else { 0 };
    let block = if rows { ROW_BLOCK as u64 } else { BLOCK as u64 };
    let mut buffers = 0;
    expression.leaves(elements, &mut |at, _| {
        let size = checkpoints[at.input].stored(&at.tensor).dtype.bits() / 8;
        buffers += if io == Io::Read { chunk.max(row) * size } else { 0 };
    });
    let values = (2 * expression.operands() + 3) * block * width(*double);
    let stored = |at: &StoredAt| checkpoints[at.input].stored(&at.tensor).elements();
    let views = expression.held(width(*double), &stored);
    A_WORKER + values + views + chunk * job.dtype.bits() / 8 + buffers
}

/// What a tensor's fits take, shared by so many workers: of this merge and of those inside it, which stay.
fn counted(job: &Job, workers: u64) -> u64 {
    let Work::Merge { expression, double } = &job.what else { return 0 };
    let extent = Extent {
        name: &job.name,
        elements: job.elements(),
        row: job.row(),
        columns: job.columns(),
        branches: 0,
        number: width(*double),
        workers,
    };
    fits(expression, extent)
}

fn fits(expression: &Expression, extent: Extent<'_>) -> u64 {
    let Expression::Merge(merge) = expression else { return 0 };
    let extent = Extent { branches: merge.branches.len() as u64, ..extent };
    let own = (merge.method.spec().memory)(&merge.parameters, &extent);
    own + merge.operands.iter().map(|inner| fits(inner, extent)).sum::<u64>()
}

fn width(double: bool) -> u64 {
    if double { 8 } else { 4 }
}

/// The widest grain of a merge and those inside it.
fn grain(expression: &Expression) -> Grain {
    let Expression::Merge(merge) = expression else { return Grain::Element };
    let inner = merge.operands.iter().any(|operand| grain(operand) == Grain::Row);
    if inner { Grain::Row } else { merge.method.spec().grain }
}
