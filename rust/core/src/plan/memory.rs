//! The private memory of a merge: known from threads, operands and the widest grain, never from the model's size.

use crate::error::{Error, Kind};
use crate::fit::method::{Grain, Type};
use crate::fit::tensor::{BLOCK, CHUNK, ROW_BLOCK};
use crate::plan::expression::Expression;
use crate::plan::plan::{Job, Work};
use crate::read::checkpoint::Checkpoint;
use crate::read::source::Io;

/// What the engine takes besides its workers: tables of names and places are counted by tensor.
const ENGINE: u64 = 8 << 20;
/// What names, places and figures of a tensor take, in the plan, the journal and the manifest.
const A_TENSOR: u64 = 4096;
/// A worker's stack and small change.
const A_WORKER: u64 = 1 << 20;
/// A table of counts by digit.
const TABLE: u64 = 8 << 16;

/// How many workers may run within `bound`, and what they take.
pub(super) fn fit(
    jobs: &[Job],
    checkpoints: &[Checkpoint],
    io: Io,
    threads: usize,
    bound: u64,
) -> Result<(usize, u64), Error> {
    let needed = |threads: usize| private(jobs, checkpoints, io, threads as u64);
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
    let widest = jobs.iter().map(|job| of_job(job, checkpoints, io, threads)).max().unwrap_or(0);
    ENGINE + (tensors + jobs.len() as u64) * A_TENSOR + widest
}

fn of_job(job: &Job, checkpoints: &[Checkpoint], io: Io, threads: u64) -> u64 {
    let elements: u64 = job.shape.iter().product();
    let Work::Merge { expression, double } = &job.what else {
        return threads * (A_WORKER + (2 << 20));
    };
    let chunk = CHUNK.min(elements);
    let width = if *double { 8 } else { 4 };
    let rows = grain(expression) == Grain::Row;
    let row = if rows { job.shape.last().copied().unwrap_or(1) } else { 0 };
    let block = if rows { ROW_BLOCK as u64 } else { BLOCK as u64 };
    let mut buffers = 0;
    expression.leaves(elements, &mut |at, _| {
        let size = checkpoints[at.input].tensors[&at.tensor].dtype.bits() / 8;
        buffers += if io == Io::Read { chunk.max(row) * size } else { 0 };
    });
    let worker = A_WORKER
        + (expression.operands() + 3) * block * width
        + chunk * job.dtype.bits() / 8
        + buffers
        + tables(expression, elements, width);
    // Factors of rows, in double precision while they are found.
    let factors = if rows && row > 1 { elements / row * 3 * 8 } else { 0 };
    threads * worker + factors + tables(expression, elements, width)
}

/// What counting takes: tables of digits, or the keys of a small tensor.
fn tables(expression: &Expression, elements: u64, width: u64) -> u64 {
    let Expression::Merge(merge) = expression else { return 0 };
    let lanes = match merge.method.spec().grain {
        Grain::Element => 0,
        Grain::Row => 3,
        Grain::Tensor => merge.branches.len() as u64,
    };
    let searches = merge
        .method
        .spec()
        .parameters
        .iter()
        .any(|parameter| !matches!(parameter.kind, Type::Flag));
    let own = if !searches {
        0
    } else if elements <= CHUNK {
        lanes * elements * 2 * width.max(8)
    } else {
        lanes * TABLE
    };
    own + merge.operands.iter().map(|operand| tables(operand, elements, width)).sum::<u64>()
}

/// The widest grain of a merge and those inside it.
fn grain(expression: &Expression) -> Grain {
    let Expression::Merge(merge) = expression else { return Grain::Element };
    let inner = merge.operands.iter().any(|operand| grain(operand) == Grain::Row);
    if inner { Grain::Row } else { merge.method.spec().grain }
}
