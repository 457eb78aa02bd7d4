//! The plan itself: what executing needs, and nothing left to decide.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::fit::method::Bits;
use crate::fit::survey::Question;
use crate::plan::expression::{Expression, StoredAt};
use crate::plan::layout::Layout;
use crate::read::checkpoint::Checkpoint;
use crate::read::dtype::Dtype;
use crate::read::source::Io;

/// Elements up to which a tensor goes to one worker in any case.
pub const SMALL: u64 = 1 << 20;

/// One output tensor.
#[derive(Debug)]
pub struct Job {
    /// Its name.
    pub name: Arc<str>,
    /// How it is stored in the result.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its elements come from.
    pub what: Work,
}

impl Job {
    /// How many elements it has; a plan has checked the product.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// How many elements its rows have, the last dimension.
    #[must_use]
    pub fn row(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// How many elements share each place in its first dimension.
    #[must_use]
    pub fn columns(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }

    /// Whether all workers share it, because it is so large a part of the work that the others would wait for the one that
    /// has it: more than an eighth of what falls to each. What linear algebra makes is one worker's.
    #[must_use]
    pub fn shared(&self, all: u64, threads: usize) -> bool {
        let large = self.elements() > SMALL && self.elements() > all / (8 * threads as u64);
        large && self.bits() == Bits::Everywhere
    }

    /// On which machines its bits are the same.
    #[must_use]
    pub fn bits(&self) -> Bits {
        match &self.what {
            Work::Merge { expression, .. } => expression.bits(),
            Work::Copy { .. } => Bits::Everywhere,
        }
    }

    /// The stored tensors that are read for it, and how often each.
    #[must_use]
    pub fn reads(&self) -> Vec<(StoredAt, u64)> {
        let mut found = Vec::new();
        match &self.what {
            Work::Copy { inputs } => found.extend(inputs.iter().map(|input| (input.clone(), 1))),
            Work::Merge { expression, .. } => {
                expression
                    .leaves(self.elements(), &mut |at, times| found.push((at.clone(), times)));
            }
        }
        found
    }
}

/// Where the elements of an output tensor come from.
#[derive(Debug)]
pub enum Work {
    /// They are computed; in double precision where an input is stored so.
    Merge {
        /// The outermost is a merge.
        expression: Expression,
        /// Whether in double precision.
        double: bool,
    },
    /// They are copied from the first, once all are seen to hold the same bytes.
    Copy {
        /// The tensor in each input that has it.
        inputs: Vec<StoredAt>,
    },
}

/// A small file of the result.
#[derive(Debug)]
pub enum Small {
    /// A file of the donor as it is.
    Copy {
        /// Its name in the result.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
    /// A file that had to be made true.
    Bytes {
        /// Its name in the result.
        name: String,
        /// What it holds.
        bytes: Vec<u8>,
    },
}

impl Small {
    /// Its name in the result.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Copy { name, .. } | Self::Bytes { name, .. } => name,
        }
    }
}

/// Something that a rule let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The rule: `missing`.
    pub rule: &'static str,
    /// The tensor, where it is about one.
    pub tensor: Option<String>,
    /// The branch's label.
    pub branch: String,
}

/// Everything decided about a merge.
#[derive(Debug)]
pub struct Plan {
    /// The inputs.
    pub checkpoints: Vec<Checkpoint>,
    /// What they are called.
    pub labels: Vec<String>,
    /// The output's tensors.
    pub jobs: Vec<Job>,
    /// Where they lie, in the order of the jobs.
    pub layout: Layout,
    /// The recipe in full, labels instead of paths.
    pub recipe: Value,
    /// What is asked of the whole model before any tensor is fitted, in order.
    pub surveys: Vec<Question>,
    /// Input tensors that no job reads; they count in the inputs' fingerprints.
    pub unread: Vec<(usize, String)>,
    /// Where the result goes.
    pub out: Option<PathBuf>,
    /// Whether what stands there is replaced.
    pub overwrite: bool,
    /// How files are read.
    pub io: Io,
    /// How many workers.
    pub threads: usize,
    /// The bound on private memory.
    pub memory: u64,
    /// The private memory that is needed.
    pub private: u64,
    /// The small files that are carried.
    pub sidecars: Vec<Small>,
    /// What rules let through.
    pub allowed: Vec<Allowed>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// Whether NaN and infinity go through.
    pub carry: bool,
    /// The outermost method.
    pub method: String,
    /// The base's label.
    pub base: Option<String>,
    /// Bytes that are read from inputs, sweeps counted.
    pub read_bytes: u64,
    /// Bytes that are written.
    pub write_bytes: u64,
    /// How many tensors are read how often.
    pub passes: BTreeMap<u64, u64>,
}
