//! How a run gets its `TARGET.partial`: made new, or taken up where an earlier run left it.
//!
//! A run that finds what another left goes on with it if the journal says that it is the same run, refuses it if the
//! journal says otherwise, and touches nothing where no journal proves that the directory is ours.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::plan::layout::{Layout, OutputFile};
use crate::write::directory::Folder;
use crate::write::journal::{self, Finished, Journal, Past, Run};
use crate::write::output::{Output, WeightFile};
use crate::write::place::{Place, in_the_way};
use crate::write::publish::finish_replacement;
use crate::write::system;

/// See [`Output::begin`].
pub(super) fn begin(
    target: &Path,
    layout: &Layout,
    run: &Run,
    overwrite: bool,
) -> Result<(Output, Vec<(usize, Finished)>)> {
    finish_replacement(target)?;
    let place = Place::resolve(target)?;
    place.standing(overwrite)?;
    let opening = journal::opening(run, layout);
    let (folder, made) = occupy(&place)?;
    let past = found(&folder, &opening).inspect_err(|_| {
        if made {
            let _ = place.parent.remove_empty(&place.partial);
        }
    })?;
    // Another run may have put its result in place while this one waited for the lock.
    let journal = place.standing(overwrite).and_then(|_| match &past {
        Some((file, past)) => resume(&folder, layout, file, past),
        None => begin_journal(&place, &folder, &opening),
    });
    let filled = journal.and_then(|journal| Ok((journal, weight_files(&folder, layout)?)));
    let (journal, files) = filled.inspect_err(|_| {
        if past.is_none() {
            abandon(&place, &folder, layout, made);
        }
    })?;
    let (index, unsynced) = (layout.index.clone(), AtomicBool::new(false));
    let output = Output { place, folder, files, journal, index, overwrite, unsynced };
    Ok((output, past.map_or_else(Vec::new, |(_, past)| known(past, layout))))
}

/// What is claimed to be finished of the layout's tensors.
fn known(mut past: Past, layout: &Layout) -> Vec<(usize, Finished)> {
    let tensors = layout.tensors.iter().enumerate();
    tensors.filter_map(|(at, tensor)| Some((at, past.finished.remove(&*tensor.name)?))).collect()
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
                    let _ = place.parent.remove_empty(&place.partial);
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
    if let Some(file) = folder.reopen_file(name)?
        && let Some(past) = Past::read(&file, &path)?
    {
        return match past.changed(opening) {
            None => Ok(Some((file, past))),
            Some(changed) => Err(Error::from(Kind::OtherRun { changed }).path(folder.path())),
        };
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
    names
        .iter()
        .filter(|name| !keep.contains(name.as_os_str()))
        .try_for_each(|name| folder.remove(name))
}

/// Opens or makes every weight file, gives it its size, and writes its header.
///
/// Also after a resumption: a power cut may have left any of it undone.
fn weight_files(folder: &Folder, layout: &Layout) -> Result<Vec<WeightFile>> {
    let open = |file: &OutputFile| {
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
        let _ = place.parent.remove_empty(&place.partial);
    }
}

#[cfg(test)]
mod tests;
