//! A result being written: weight files of a fixed layout in `TARGET.partial`, filled at any offset by any worker.
//!
//! Begun by `begin`, ended by `publish`; between the two, bytes and lines of the journal go out in any order.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};
use crate::plan::layout::Layout;
use crate::write::directory::Folder;
use crate::write::journal::Journal;
use crate::write::look::Stamp;
use crate::write::manifest::Manifest;
use crate::write::place::Place;
use crate::write::{begin, publish, system};

pub use crate::write::journal::{Finished, Run};
pub use crate::write::place::{check_target, free_bytes};
pub use crate::write::publish::finish_replacement;
pub use crate::write::sidecar::{Content, Sidecar, file_entries};

/// A result being written. Dropping it leaves what is done for the next run.
#[derive(Debug)]
pub struct Output {
    pub(super) place: Place,
    pub(super) folder: Folder,
    pub(super) files: Vec<WeightFile>,
    pub(super) journal: Journal,
    pub(super) index: Option<Vec<u8>>,
    pub(super) overwrite: bool,
    /// Whether a sync has failed.
    pub(super) unsynced: AtomicBool,
}

/// A weight file of its full size, with its header in it.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) name: OsString,
    pub(super) stamp: Stamp,
    pub(super) bytes: u64,
    /// Where the tensors begin.
    pub(super) data: u64,
    pub(super) handle: File,
}

impl Output {
    /// Makes `TARGET.partial`, or reopens it; returns which of the layout's tensors its journal claims are finished.
    ///
    /// The claims are hints: the caller hashes the bytes again.
    ///
    /// # Errors
    /// [`Kind::OutputExists`] where something else stands there, [`Kind::OtherRun`] where an unfinished run of something
    /// else does, [`Kind::Locked`] where another run is writing, and the system's word on whatever it refuses. What was
    /// made by then is removed again.
    pub fn begin(
        target: &Path,
        layout: &Layout,
        run: &Run,
        overwrite: bool,
    ) -> Result<(Self, Vec<(usize, Finished)>)> {
        begin::begin(target, layout, run, overwrite)
    }

    /// Writes bytes of tensors into a weight file of the layout, at an offset from the file's start. Any thread may.
    ///
    /// # Errors
    /// The system's word; [`Kind::Internal`] outside the file's tensors.
    pub fn write_at(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file(file, offset, bytes.len())?;
        system::write_at(&file.handle, bytes, offset)
            .map_err(|error| self.folder.error("write", &file.name, error))
    }

    /// Reads back what was written. Any thread may.
    ///
    /// # Errors
    /// As [`Output::write_at`].
    pub fn read_at(&self, file: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let file = self.file(file, offset, bytes.len())?;
        file.handle
            .read_exact_at(bytes, offset)
            .map_err(|error| self.folder.error("read", &file.name, error))
    }

    /// Notes finished tensors, by name, in the journal, in one append.
    ///
    /// # Errors
    /// The system's word.
    pub fn record(&self, finished: &[(&str, &Finished)]) -> Result<()> {
        if finished.is_empty() { Ok(()) } else { self.journal.finished(finished) }
    }

    /// Waits until all that was written is on the disk. May be called beside the writers, to begin early.
    ///
    /// # Errors
    /// The system's word. A failed sync is final: pages that could not be written may be taken for clean afterwards, so
    /// every later call fails too, and the next run takes nothing of this one on trust.
    pub fn sync(&self) -> Result<()> {
        if self.unsynced.load(Ordering::Acquire) {
            let error = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(Error::os("sync, which failed before", self.folder.path(), error));
        }
        for file in &self.files {
            if let Err(error) = system::sync_data(&file.handle) {
                self.unsynced.store(true, Ordering::Release);
                let _ = self.journal.unsynced().and_then(|()| self.journal.sync());
                return Err(self.folder.error("sync", &file.name, error));
            }
        }
        self.journal.sync()
    }

    /// Puts the result in place under its name, whole, with its small files; returns when it is on the disk.
    ///
    /// `manifest` has the files that [`file_entries`] tells; `unchanged` says whether the inputs are still what they were.
    /// The index of several weight files is written too.
    ///
    /// # Errors
    /// Whatever is refused; then `TARGET.partial` is left to be resumed, unless the result is in place already.
    pub fn publish(
        self,
        sidecars: &[Sidecar],
        manifest: &Manifest<'_>,
        unchanged: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        publish::publish(&self, sidecars, manifest, unchanged)
    }

    fn file(&self, file: usize, offset: u64, length: usize) -> Result<&WeightFile> {
        let end = offset.checked_add(length as u64);
        self.files
            .get(file)
            .filter(|file| offset >= file.data && end.is_some_and(|end| end <= file.bytes))
            .ok_or_else(|| {
                let what =
                    format!("{length} bytes at {offset} are outside the tensors of file {file}");
                Kind::Internal { what }.into()
            })
    }
}
