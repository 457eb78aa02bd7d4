//! branchmerge-core: fuses checkpoints in a stream, exactly, resumably, the same bits everywhere.
//!
//! Each wing uses only those before it: `error`, `parallel` ← `read` ← `fit` ← `methods` ← `plan` ← `write` ← `execute`.

/// Compiles a function for several instruction sets; the widest that the processor has is taken when it is called. The
/// bits are the same with each.
macro_rules! vectorised {
    ($($item:tt)*) => {
        #[cfg_attr(
            not(feature = "baseline"),
            multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))
        )]
        $($item)*
    };
}

pub mod error;
pub mod execute;
pub mod fit;
pub mod methods;
pub mod parallel;
pub mod plan;
pub mod read;
pub mod write;
