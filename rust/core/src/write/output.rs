//! A result being written: weight files of a fixed layout in `TARGET.partial`, filled at any offset by any worker.
//!
//! A run that finds what another left goes on with it if the journal says that it is the same run, refuses it if the
//! journal says otherwise, and touches nothing where no journal proves that the directory is ours.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::plan::layout::Layout;
use crate::write::directory::{Folder, Stamp};
use crate::write::journal::{self, Journal, Past};
use crate::write::place::{Place, in_the_way};
use crate::write::{publish, system};

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
    unsynced: AtomicBool,
}

/// A weight file of its full size, with its header in it.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) name: OsString,
    pub(super) stamp: Stamp,
    pub(super) bytes: u64,
    /// Where the tensors begin.
    data: u64,
    handle: File,
}

impl Output {
    /// Makes `TARGET.partial`, or reopens it; returns what its journal claims to be finished.
    ///
    /// The claims are hints: the caller hashes the bytes again.
    ///
    /// # Errors
    /// [`Kind::OutputExists`] where something else stands there, [`Kind::OtherRun`] where an unfinished run of something
    /// else does, [`Kind::Locked`] where another run is writing, and the system's word on whatever it refuses.
    pub fn begin(
        target: &Path,
        layout: &Layout,
        run: &Run,
        overwrite: bool,
    ) -> Result<(Self, Vec<Finished>)> {
        finish_replacement(target)?;
        let place = Place::resolve(target)?;
        place.standing(overwrite)?;
        let (folder, made) = occupy(&place)?;
        let opening = journal::opening(run, layout);
        let past = match found(&folder, &opening) {
            Ok(past) => past,
            Err(error) => {
                if made {
                    place.parent.remove_if_empty(&place.partial);
                }
                return Err(error);
            }
        };
        // Another run may have put its result in place while this one waited for the lock.
        let ready = place.standing(overwrite).and_then(|_| match &past {
            Some((file, past)) => resume(&folder, layout, file, past),
            None => begin_journal(&place, &folder, &opening),
        });
        let filled = ready.and_then(|journal| Ok((journal, weight_files(&folder, layout)?)));
        match filled {
            Ok((journal, files)) => {
                let index = layout.index.clone();
                let unsynced = AtomicBool::new(false);
                let output = Self { place, folder, files, journal, index, overwrite, unsynced };
                let known: BTreeSet<&str> =
                    layout.tensors.iter().map(|tensor| &*tensor.name).collect();
                let finished = past.map(|(_, past)| past.finished).unwrap_or_default();
                let finished = finished.into_values();
                let finished =
                    finished.filter(|finished| known.contains(&*finished.tensor)).collect();
                Ok((output, finished))
            }
            Err(error) => {
                if past.is_none() {
                    abandon(&place, &folder, layout, made);
                }
                Err(error)
            }
        }
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

    /// Notes finished tensors in the journal, in one append.
    ///
    /// # Errors
    /// The system's word.
    pub fn record(&self, finished: &[Finished]) -> Result<()> {
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
    /// `manifest` is what [`crate::write::manifest::seal`] made, with a member `files` as [`file_entries`] makes it;
    /// `unchanged` says whether the inputs are still what they were. The index of several weight files is written too.
    ///
    /// # Errors
    /// Whatever is refused; then `TARGET.partial` is left to be resumed, unless the result is in place already.
    pub fn publish(
        self,
        sidecars: &[Sidecar],
        manifest: &[u8],
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
                let what = format!("{length} bytes at {offset} are outside the tensors of file {file}");
                Kind::Internal { what }.into()
            })
    }
}

/// The partial directory, made if need be (then `true`), locked, and still the one of that name.
fn occupy(place: &Place) -> Result<(Folder, bool)> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let made = place.parent.make(&place.partial)?;
        match lock_partial(place) {
            Ok(Some(folder)) => return Ok((folder, made)),
            // A run that ended, or gave up, took it away between two of these calls.
            Ok(None) => {}
            Err(error) => {
                if made && !matches!(*error.kind, Kind::Locked) {
                    place.parent.remove_if_empty(&place.partial);
                }
                return Err(error);
            }
        }
    }
    Err(Error::from(Kind::Locked).path(&place.parent.at(&place.partial)))
}

fn lock_partial(place: &Place) -> Result<Option<Folder>> {
    let Some(look) = place.parent.look(&place.partial)? else { return Ok(None) };
    place.check_directory(&place.partial, &look)?;
    let folder = match place.parent.enter(&place.partial) {
        Ok(folder) => folder,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(place.parent.error("open the directory", &place.partial, error));
        }
    };
    folder.lock()?;
    let stamp = folder.look_at_self()?.stamp;
    let same = place.parent.look(&place.partial)?.is_some_and(|look| look.stamp == stamp);
    Ok(same.then_some(folder))
}

/// The journal of an earlier run of the same; none where the directory is new, or as good as new.
fn found(folder: &Folder, opening: &Value) -> Result<Option<(File, Past)>> {
    let name = OsStr::new(journal::NAME);
    let path = folder.at(name);
    if let Some(file) = folder.reopen_file(name)? {
        if let Some(past) = Past::read(&file, &path)? {
            return match past.changed(opening) {
                None => Ok(Some((file, past))),
                Some(changed) => Err(Error::from(Kind::OtherRun { changed }).path(folder.path())),
            };
        }
    }
    let ours = [journal::NAME, journal::NEW];
    if folder.names()?.iter().all(|name| ours.iter().any(|ours| name == ours)) {
        return Ok(None);
    }
    let hint = "move it away or remove it, or name another output";
    Err(in_the_way("holds files, but no journal of an unfinished run", hint, folder.path()))
}

/// Writes the first line; the journal has its name only once that line is on the disk.
fn begin_journal(place: &Place, folder: &Folder, opening: &Value) -> Result<Journal> {
    let (name, new) = (OsStr::new(journal::NAME), OsStr::new(journal::NEW));
    let line = journal::first_line(opening)?;
    folder.remove(name)?;
    folder.write_file(new, &line)?;
    folder.move_to(new, folder, name)?;
    folder.sync()?;
    place.parent.sync()?;
    let path = folder.at(name);
    match folder.reopen_file(name)? {
        Some(file) => Ok(Journal::begun(file, path, line.len() as u64)),
        None => Err(Kind::Changed { what: "it was taken away".into() }.into()),
    }
}

/// Goes on with the journal, and clears away what is not of the layout: small files, or what others put there.
fn resume(folder: &Folder, layout: &Layout, file: &File, past: &Past) -> Result<Journal> {
    let name = OsStr::new(journal::NAME);
    let file = file.try_clone().map_err(|error| folder.error("open", name, error))?;
    let journal = Journal::resume(file, folder.at(name), past)?;
    sweep(folder, layout.files.iter().map(|file| OsStr::new(&*file.name)))?;
    Ok(journal)
}

/// Removes everything but the journal and the names given.
pub(super) fn sweep<'a>(folder: &Folder, keep: impl Iterator<Item = &'a OsStr>) -> Result<()> {
    let keep: BTreeSet<&OsStr> = keep.chain([OsStr::new(journal::NAME)]).collect();
    let names = folder.names()?;
    names.iter().filter(|name| !keep.contains(name.as_os_str())).try_for_each(|name| folder.remove(name))
}

/// Opens or makes every weight file, gives it its size, and writes its header.
///
/// Also after a resumption: a power cut may have left any of it undone.
fn weight_files(folder: &Folder, layout: &Layout) -> Result<Vec<WeightFile>> {
    let open = |file: &crate::plan::layout::OutputFile| {
        let name = OsString::from(&file.name);
        let handle = match folder.reopen_file(&name)? {
            Some(handle) => handle,
            None => folder.create_file(&name)?,
        };
        let failed = |doing| move |error| (doing, error);
        system::allocate(&handle, file.bytes)
            .map_err(failed("reserve the room of"))
            .and_then(|()| system::write_at(&handle, &file.header, 0).map_err(failed("write")))
            .map_err(|(doing, error)| folder.error(doing, &name, error))?;
        let Some(look) = folder.look(&name)? else {
            let error = Error::from(Kind::Changed { what: "it was taken away".into() });
            return Err(error.path(&folder.at(&name)));
        };
        let data = file.header.len() as u64;
        Ok(WeightFile { name, stamp: look.stamp, bytes: file.bytes, data, handle })
    };
    layout.files.iter().map(open).collect()
}

/// Takes away what a run that could not begin has made; the journal last, as it is what says whose the rest is.
fn abandon(place: &Place, folder: &Folder, layout: &Layout, made: bool) {
    let files = layout.files.iter().map(|file| file.name.as_str());
    let names = files.chain([journal::NEW, journal::NAME]);
    let cleared = names.map(|name| folder.remove(OsStr::new(name))).all(|removed| removed.is_ok());
    if cleared && made {
        place.parent.remove_if_empty(&place.partial);
    }
}

