//! The private memory of the process: what is resident less what is shared with files.

use std::sync::atomic::{AtomicU64, Ordering};

/// The highest private memory that was seen.
#[derive(Debug, Default)]
pub(super) struct Peak {
    bytes: AtomicU64,
}

impl Peak {
    /// Looks once.
    pub(super) fn look(&self) {
        self.bytes.fetch_max(private().unwrap_or(0), Ordering::Relaxed);
    }

    /// The highest so far.
    pub(super) fn bytes(&self) -> u64 {
        self.look();
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Resident pages that belong to no file; none where the system does not tell.
fn private() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_ascii_whitespace().map(str::parse::<u64>);
    let resident = pages.nth(1)?.ok()?;
    let shared = pages.next()?.ok()?;
    Some(resident.saturating_sub(shared) * page_size())
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
