//! The last steps: a result that is whole in `TARGET.partial` comes to stand under its name.
//!
//! Each step may be the last before a kill or a power cut. What is about to happen is written into the journal, and the
//! journal leaves the directory just before that gets its name, to `TARGET.partial.journal`; it is removed when all is done. So
//! whoever finds it there knows what was under way: [`finish_replacement`] goes back where the result is not in place
//! yet, and goes on where it is. What is replaced is removed only if its inode is the one that the journal names.

use std::ffi::OsStr;
use std::io::{Error as SystemError, ErrorKind};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::write::begin::sweep;
use crate::write::directory::Folder;
use crate::write::journal::{self, Past, Publishing};
use crate::write::look::Stamp;
use crate::write::manifest::{self, Manifest};
use crate::write::output::Output;
use crate::write::place::{Place, Standing, in_the_way};
use crate::write::sidecar::{Sidecar, with_index};
use crate::write::system::{self, Onto};

/// See [`Output::publish`].
pub(super) fn publish(
    output: &Output,
    sidecars: &[Sidecar],
    manifest: &Manifest<'_>,
    unchanged: &dyn Fn() -> Result<()>,
) -> Result<()> {
    output.sync()?;
    check_files(output)?;
    write_small_files(output, &with_index(sidecars, output.index.as_deref()), manifest)?;
    output.folder.sync()?;
    unchanged()?;
    put_in_place(output)
}

/// The directory and the files that were written are still those of these names, of their sizes.
///
/// Where there are no locks, another run may have put the directory in place: it is not touched any more.
fn check_files(output: &Output) -> Result<()> {
    let place = &output.place;
    if !has(place, &place.partial, output.folder.look_at_self()?.stamp)? {
        let what = "the directory was moved, or put in place by another run".into();
        return Err(Error::from(Kind::Changed { what }).path(output.folder.path()));
    }
    for file in &output.files {
        let look = output.folder.look(&file.name)?;
        if !look.is_some_and(|look| look.stamp == file.stamp && look.bytes == file.bytes) {
            let what = "another file, or another size, came to have its name".into();
            return Err(Error::from(Kind::Changed { what }).path(&output.folder.at(&file.name)));
        }
    }
    Ok(())
}

fn write_small_files(output: &Output, sidecars: &[Sidecar], manifest: &Manifest<'_>) -> Result<()> {
    let sealed = manifest::seal(manifest)?;
    let weights = output.files.iter().map(|file| file.name.as_os_str());
    sweep(&output.folder, weights)?;
    for sidecar in sidecars {
        sidecar.write(&output.folder, manifest.files.get(&*sidecar.name))?;
    }
    let expected = output.files.len() + sidecars.len();
    if manifest.files.len() != expected {
        let what = format!("the manifest does not have the {expected} files of the result");
        return Err(Kind::Internal { what }.into());
    }
    output.folder.write_file(OsStr::new(manifest::NAME), &sealed)
}

fn put_in_place(output: &Output) -> Result<()> {
    let Output { place, folder, journal, .. } = output;
    let standing = place.standing(output.overwrite)?;
    let old = match standing {
        Standing::Full(look) => Some(look.stamp),
        _ => None,
    };
    let publishing = Publishing { new: folder.look_at_self()?.stamp, old };
    journal.publishing(publishing)?;
    journal.sync()?;
    if let Standing::Empty(look) | Standing::Full(look) = standing {
        // Whoever made the directory chose who may read it. The owner may always: the journal has to get out, or in again.
        let _ = folder.set_mode(look.mode | 0o700);
    }
    folder.move_to(OsStr::new(journal::NAME), &place.parent, &place.journal)?;
    let placed = folder.sync().and_then(|()| exchange(place, standing));
    if let Err(error) = placed {
        // On a network the answer may be lost although the deed was done.
        if !has(place, &place.name, publishing.new)? {
            // The run can be resumed at once, not only after the next one has found what is half done.
            let _ = go_back(place, folder, publishing);
            return Err(error);
        }
    }
    place.parent.sync()?;
    clear_away(place, publishing)
}

/// The one step by which the result comes to stand under its name, or two where directories cannot change places.
fn exchange(place: &Place, standing: Standing) -> Result<()> {
    let parent = &place.parent;
    let rename = |from: &OsStr, to: &OsStr, onto| parent.rename(from, parent, to, onto);
    let moved = match standing {
        Standing::Nothing => rename(&place.partial, &place.name, Onto::Nothing),
        // Takes the place of an empty directory and of nothing else: the kernel refuses all others. Some servers refuse
        // this too; then the empty one goes first.
        Standing::Empty(_) => rename(&place.partial, &place.name, Onto::Empty).or_else(|error| {
            parent.remove_empty(&place.name).map_err(|_| error)?;
            rename(&place.partial, &place.name, Onto::Empty)
        }),
        Standing::Full(_) => rename(&place.partial, &place.name, Onto::Exchange),
    };
    let moved = match (standing, moved) {
        (Standing::Full(_), Err(error)) if system::lacks(&error) => {
            parent.move_to(&place.name, parent, &place.replaced)?;
            parent.sync()?;
            rename(&place.partial, &place.name, Onto::Empty)
        }
        (Standing::Nothing, Err(error)) if system::lacks(&error) => {
            rename(&place.partial, &place.name, Onto::Empty)
        }
        // An empty directory came to be there since.
        (Standing::Nothing, Err(error)) if error.kind() == ErrorKind::AlreadyExists => {
            place.standing(false)?;
            rename(&place.partial, &place.name, Onto::Empty)
        }
        (_, moved) => moved,
    };
    moved.map_err(|error| refused(place, error))
}

fn refused(place: &Place, error: SystemError) -> Error {
    let path = place.path();
    let another = "move it away and give the same command again";
    match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => {
            in_the_way("came to be there during the run", another, &path)
        }
        ErrorKind::ResourceBusy => {
            in_the_way("is a mount point", "name a directory inside it", &path)
        }
        _ => Error::os("rename to", &path, error),
    }
}

/// The result is in place and on the disk: removes what it replaced, then the journal.
fn clear_away(place: &Place, publishing: Publishing) -> Result<()> {
    let parent = &place.parent;
    if let Some(old) = publishing.old {
        for name in [&place.partial, &place.replaced] {
            if has(place, name, old)? {
                parent.remove(name)?;
            }
        }
        parent.sync()?;
    }
    parent.remove(&place.journal)?;
    parent.sync()
}

/// The result is not in place: what stood there stands there again, and the journal is back where it is resumed from.
fn go_back(place: &Place, folder: &Folder, publishing: Publishing) -> Result<()> {
    let parent = &place.parent;
    restore(place, publishing)?;
    parent.move_to(&place.journal, folder, OsStr::new(journal::NAME))?;
    folder.sync()?;
    parent.sync()
}

/// Undoes the first of the two renames.
fn restore(place: &Place, publishing: Publishing) -> Result<()> {
    let parent = &place.parent;
    let Some(old) = publishing.old else { return Ok(()) };
    if has(place, &place.replaced, old)? && parent.look(&place.name)?.is_none() {
        parent.move_to(&place.replaced, parent, &place.name)?;
        parent.sync()?;
    }
    Ok(())
}

/// Finishes or undoes the last steps of a run that was killed within them; true where its result is in place.
///
/// [`Output::begin`] does it first of all; a run that finds its result in place already calls it for what may be left
/// beside it. Without such a run nothing is changed.
///
/// # Errors
/// [`Kind::Locked`] where that run is not dead; [`Kind::OutputExists`] where a file of another origin has the journal's
/// name; the system's word.
pub fn finish_replacement(target: &Path) -> Result<bool> {
    let place = match Place::resolve(target) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(false),
        place => place?,
    };
    let Some(publishing) = under_way(&place)? else { return Ok(false) };
    for (name, in_place) in [(&place.name, true), (&place.partial, false)] {
        let Some(folder) = locked_if(&place, name, publishing)? else { continue };
        // Its run may have ended while this one came to have the lock.
        return match under_way(&place)? {
            None => Ok(in_place),
            Some(publishing) if in_place => clear_away(&place, publishing).map(|()| true),
            Some(publishing) => go_back(&place, &folder, publishing).map(|()| false),
        };
    }
    forget(&place, publishing)
}

/// What the journal beside the target says was under way; none where there is none.
fn under_way(place: &Place) -> Result<Option<Publishing>> {
    let path = place.parent.at(&place.journal);
    let Some(file) = place.parent.open_file(&place.journal)? else { return Ok(None) };
    match Past::read(&file, &path)?.and_then(|past| past.publishing) {
        Some(publishing) => Ok(Some(publishing)),
        None => Err(in_the_way("is not the journal of a run", "move it away", &path)),
    }
}

/// Whether what has this name is the very directory.
fn has(place: &Place, name: &OsStr, stamp: Stamp) -> Result<bool> {
    Ok(place.parent.look(name)?.is_some_and(|look| look.stamp == stamp))
}

/// The new directory, locked, if it has this name.
fn locked_if(place: &Place, name: &OsStr, publishing: Publishing) -> Result<Option<Folder>> {
    if !has(place, name, publishing.new)? {
        return Ok(None);
    }
    let folder = place.parent.folder(name)?;
    folder.lock()?;
    let same = folder.look_at_self()?.stamp == publishing.new;
    Ok(same.then_some(folder))
}

/// The new directory has neither name: someone moved it, or removed it.
fn forget(place: &Place, publishing: Publishing) -> Result<bool> {
    restore(place, publishing)?;
    if place.parent.look(&place.partial)?.is_some() {
        let what = "is there, but the result that a run was putting in its place is gone";
        let hint = "move it away or remove it, and the `.partial.journal` beside it";
        return Err(in_the_way(what, hint, &place.parent.at(&place.partial)));
    }
    place.parent.remove(&place.journal)?;
    Ok(false)
}

#[cfg(test)]
mod tests;
