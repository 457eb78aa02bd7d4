//! Threads, progress and the floating-point mode of workers. The only room that knows threads.
//!
//! Work is a count of parts; whichever worker is free takes the next one, and results are joined in the order of the
//! parts. So what is computed never depends on how many workers there were, or on which one was faster.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::error::{Error, Kind, Result};

/// How many workers may run at once.
#[derive(Clone, Copy, Debug)]
pub struct Team {
    threads: usize,
}

impl Team {
    /// A team of so many workers; at least one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }

    /// As many workers as there are cores to use.
    #[must_use]
    pub fn all_cores() -> Self {
        Self::new(thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// A single worker: the calling thread.
    #[must_use]
    pub fn solo() -> Self {
        Self::new(1)
    }

    /// How many workers there are.
    #[must_use]
    pub fn threads(self) -> usize {
        self.threads
    }

    /// Does `count` parts, and returns their results in the order of the parts.
    ///
    /// Threads that cannot be started mean fewer threads. The first error by part number is returned; a panic becomes
    /// [`Kind::Internal`]. After an error no new part is begun.
    pub fn run<T: Send>(
        self,
        count: usize,
        part: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        if self.threads == 1 || count <= 1 {
            return (0..count).map(|index| guarded(|| part(index))).collect();
        }
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let done: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::new());
        let work = || {
            let mut mine = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                let result = guarded(|| part(index));
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                mine.push((index, result));
            }
            lock(&done).append(&mut mine);
        };
        thread::scope(|scope| {
            for _ in 1..self.threads.min(count) {
                let worker = thread::Builder::new().name("branchmerge".into());
                let started = worker.spawn_scoped(scope, || {
                    set_default_float_mode();
                    work();
                });
                if started.is_err() {
                    break;
                }
            }
            work();
        });
        let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// Runs `work` on a thread of the engine's own, with the default floating-point mode, while `watch` is called on this
/// thread about every `pause` until the work has ended.
///
/// # Errors
/// The work's own; [`Kind::Os`] where the thread cannot be started.
pub fn apart<T: Send>(
    pause: std::time::Duration,
    work: impl FnOnce() -> Result<T> + Send,
    mut watch: impl FnMut(),
) -> Result<T> {
    let ended = AtomicBool::new(false);
    let ended = &ended;
    thread::scope(|scope| {
        let watcher = thread::current();
        let worker = thread::Builder::new()
            .name("branchmerge".into())
            .spawn_scoped(scope, move || {
                set_default_float_mode();
                let result = guarded(work);
                ended.store(true, Ordering::Release);
                watcher.unpark();
                result
            })
            .map_err(|source| Kind::Os { doing: "start a thread", source })?;
        while !ended.load(Ordering::Acquire) {
            thread::park_timeout(pause);
            watch();
        }
        worker.join().unwrap_or_else(|panic| Err(internal(&*panic)))
    })
}

/// Runs `beside` on a second thread while `work` runs on this one; `beside` is told by its flag when the work has ended.
///
/// Where the thread cannot be started, `beside` does not run: it may only do what is not needed.
pub fn with_companion<T>(beside: impl FnOnce(&AtomicBool) + Send, work: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let companion = thread::Builder::new().name("branchmerge".into());
        let _ = companion.spawn_scoped(scope, || beside(&ended));
        // Told also where the work panics: the scope would wait for the companion for ever.
        let _told = Raised(&ended);
        work()
    })
}

/// A flag that goes up when this is dropped.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn guarded<T>(part: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| Err(internal(&*panic)))
}

fn internal(panic: &(dyn std::any::Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    Kind::Internal { what: said.unwrap_or_else(|| "a worker panicked".into()) }.into()
}

/// The kind of this processor, as far as the bits of a library of linear algebra depend on it.
#[must_use]
pub fn machine() -> String {
    #[cfg(target_arch = "x86_64")]
    let vectors = match () {
        () if is_x86_feature_detected!("avx512f") => " avx512f",
        () if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") => " avx2 fma",
        () => "",
    };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    // Blocks are cut to the first cache.
    let cache = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index0/size");
    let cache = cache.map_or_else(|_| String::new(), |size| format!(" l1 {}", size.trim()));
    format!("{}{vectors}{cache}", std::env::consts::ARCH)
}

/// A mutex's content, also after a panic elsewhere: what it guards is whole at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What a run has done so far, and whether it should stop. Read by the front end, written by workers.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
    phase: AtomicUsize,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    tensors_done: AtomicU64,
    tensors_total: AtomicU64,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Hashing what an earlier run left, or what is to be verified.
    Checking,
    /// Looking at the whole model before any tensor is fused.
    Surveying,
    /// Fusing.
    Merging,
    /// Waiting for the disk.
    Syncing,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Checking, Self::Surveying, Self::Merging, Self::Syncing];

    /// The word front ends show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Surveying => "surveying",
            Self::Merging => "merging",
            Self::Syncing => "syncing",
        }
    }
}

impl Progress {
    /// Asks the run to stop at the next part.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// [`Kind::Cancelled`] once [`Progress::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Kind::Cancelled.into()) } else { Ok(()) }
    }

    /// Begins a phase with so much to do.
    pub fn begin(&self, phase: Phase, bytes: u64, tensors: u64) {
        self.bytes_done.store(0, Ordering::Relaxed);
        self.tensors_done.store(0, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
        self.tensors_total.store(tensors, Ordering::Relaxed);
        self.phase.store(phase as usize, Ordering::Relaxed);
    }

    /// So many more bytes are done.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more tensor is done.
    pub fn add_tensor(&self) {
        self.tensors_done.fetch_add(1, Ordering::Relaxed);
    }

    /// Phase, bytes done and in all, tensors done and in all.
    #[must_use]
    pub fn read(&self) -> (Phase, [u64; 4]) {
        let phase = Phase::ALL[self.phase.load(Ordering::Relaxed).min(Phase::ALL.len() - 1)];
        let figures =
            [&self.bytes_done, &self.bytes_total, &self.tensors_done, &self.tensors_total];
        (phase, figures.map(|figure| figure.load(Ordering::Relaxed)))
    }
}

/// Sets rounding to nearest even, no flush-to-zero, no traps: a thread inherits its parent's mode, and a host may have
/// set flush-to-zero for speed, which would change results near zero.
#[allow(unsafe_code)]
fn set_default_float_mode() {
    #[cfg(target_arch = "x86_64")]
    {
        let default: u32 = 0x1f80;
        // SAFETY: `ldmxcsr` reads four bytes from a valid address; 0x1f80 sets no reserved bit and masks all traps, and
        // it is the mode that compiled Rust code assumes.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: zero is the default FPCR: nearest even, no flush-to-zero, no traps; what compiled Rust code assumes.
        unsafe {
            std::arch::asm!("msr fpcr, {}", in(reg) 0u64, options(nomem, nostack));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companion_is_told_of_the_end_after_a_panic_too() {
        let beside = |ended: &AtomicBool| {
            while !ended.load(Ordering::Acquire) {
                thread::yield_now();
            }
        };
        let ended = catch_unwind(|| with_companion(beside, || panic!("as a worker might")));
        assert!(ended.is_err());
    }
}
