//! branchmerge-core: fuses checkpoints in a stream, exactly, resumably, the same bits everywhere.
//!
//! Each wing uses only those before it: `error`, `parallel` ← `read` ← `fit` ← `methods` ← `plan` ← `write` ← `execute`.

pub mod error;
pub mod execute;
pub mod fit;
pub mod methods;
pub mod parallel;
pub mod plan;
pub mod read;
pub mod write;
