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
) -> Result<(Output, Vec<Finished>)> {
    finish_replacement(target)?;
    let place = Place::resolve(target)?;
    place.standing(overwrite)?;
    let opening = journal::opening(run, layout);
    let (folder, made) = occupy(&place)?;
    let past = found(&folder, &opening).inspect_err(|_| {
        if made {
            place.parent.remove_if_empty(&place.partial);
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
fn known(past: Past, layout: &Layout) -> Vec<Finished> {
    let known: BTreeSet<&str> = layout.tensors.iter().map(|tensor| &*tensor.name).collect();
    let finished = past.finished.into_values();
    finished.filter(|finished| known.contains(&*finished.tensor)).collect()
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
        place.parent.remove_if_empty(&place.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::fixture::{
        content, expected, finished_of, layout, merge, room, run, snapshot,
    };
    use crate::write::system::trial::{Trial, under};
    use rustix::io::Errno;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A room with `parent/out` to write to.
    fn scene() -> (tempfile::TempDir, PathBuf) {
        let room = room();
        fs::create_dir(room.path().join("parent")).unwrap();
        let target = room.path().join("parent/out");
        (room, target)
    }

    fn partial(target: &Path) -> PathBuf {
        target.with_file_name("out.partial")
    }

    fn refused(target: &Path) -> Error {
        Output::begin(target, &layout(), &run(), false).unwrap_err()
    }

    /// An unfinished run with every tensor written and noted.
    fn unfinished(target: &Path) {
        let layout = layout();
        let (output, _) = Output::begin(target, &layout, &run(), false).unwrap();
        for tensor in &layout.tensors {
            output.write_at(tensor.file, tensor.offset, &content(tensor)).unwrap();
            output.record(&[finished_of(tensor)]).unwrap();
        }
    }

    #[test]
    fn the_files_have_their_size_and_their_header_at_once() {
        let (_room, target) = scene();
        let (output, finished) = Output::begin(&target, &layout(), &run(), false).unwrap();
        assert!(finished.is_empty());
        for file in &layout().files {
            let bytes = fs::read(partial(&target).join(&file.name)).unwrap();
            assert_eq!(bytes.len() as u64, file.bytes);
            assert!(bytes.starts_with(&file.header));
        }
        assert!(!target.exists());
        let past_end = layout().files[0].bytes;
        for (file, offset) in [(9, 100), (0, 0), (0, past_end), (0, u64::MAX)] {
            let error = output.write_at(file, offset, &[1]).unwrap_err();
            assert!(matches!(*error.kind, Kind::Internal { .. }));
        }
    }

    #[test]
    fn a_second_run_while_one_is_working_is_told_so() {
        let (_room, target) = scene();
        let (output, _) = Output::begin(&target, &layout(), &run(), false).unwrap();
        assert!(matches!(*refused(&target).kind, Kind::Locked));
        assert!(partial(&target).join(journal::NAME).exists());
        drop(output);
        Output::begin(&target, &layout(), &run(), false).unwrap();
    }

    #[test]
    fn many_runs_at_once_leave_one_whole_result() {
        let (_room, target) = scene();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        match merge(&target, false) {
                            Ok(()) => {}
                            Err(error) => assert!(
                                matches!(*error.kind, Kind::Locked | Kind::OutputExists { .. }),
                                "{error}"
                            ),
                        }
                    }
                });
            }
        });
        merge(&target, false).unwrap();
        assert_eq!(snapshot(&target), expected());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_recipe_input_or_layout_is_told_by_its_place() {
        let (_room, target) = scene();
        unfinished(&target);
        let before = snapshot(&partial(&target));
        let mut other = run();
        other.recipe = json!({ "merge_method": "linear", "t": 0.2, "new": 1 });
        other.inputs[0]["bytes"] = json!(4);
        let error = Output::begin(&target, &layout(), &other, false).unwrap_err();
        let said = error.to_string();
        assert!(matches!(*error.kind, Kind::OtherRun { .. }));
        for part in [
            "`recipe.t` was 0.1, is 0.2",
            "`recipe.new` was not there, is 1",
            "`inputs[0].bytes` was 3, is 4",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let sharded = crate::plan::layout::lay_out(
            &layout().tensors.into_iter().map(|t| (t.name, t.dtype, t.shape)).collect::<Vec<_>>(),
            1 << 30,
        );
        let error = Output::begin(&target, &sharded.unwrap(), &run(), false).unwrap_err();
        assert!(matches!(*error.kind, Kind::OtherRun { .. }));
        assert_eq!(snapshot(&partial(&target)), before);
    }

    #[test]
    fn what_no_journal_proves_ours_is_not_touched() {
        let (_room, target) = scene();
        fs::create_dir(partial(&target)).unwrap();
        fs::write(partial(&target).join("model.safetensors"), "mine").unwrap();
        let before = snapshot(target.parent().unwrap());
        assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }));
        fs::write(partial(&target).join(journal::NAME), "0000000000000000 {}\n").unwrap();
        assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }));
        fs::remove_file(partial(&target).join(journal::NAME)).unwrap();
        assert_eq!(snapshot(target.parent().unwrap()), before);
    }

    #[test]
    fn an_empty_directory_or_a_journal_without_its_first_line_is_as_good_as_new() {
        for names in [&[][..], &[journal::NAME], &[journal::NEW], &[journal::NAME, journal::NEW]] {
            let (_room, target) = scene();
            fs::create_dir(partial(&target)).unwrap();
            for name in names {
                fs::write(partial(&target).join(name), [0; 100]).unwrap();
            }
            merge(&target, false).unwrap();
            assert_eq!(snapshot(&target), expected());
        }
    }

    #[test]
    fn links_are_not_followed() {
        let (room, target) = scene();
        let outside = room.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("model.safetensors"), "mine").unwrap();
        symlink(&outside, partial(&target)).unwrap();
        assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }));
        fs::remove_file(partial(&target)).unwrap();
        symlink(room.path().join("dangling"), partial(&target)).unwrap();
        assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }));
        fs::remove_file(partial(&target)).unwrap();
        // Links, second names and other things in the place of files of an unfinished run.
        let file = layout().files[0].name.clone();
        let replace: [fn(&Path, &Path); 4] = [
            |outside, path| symlink(outside, path).unwrap(),
            |outside, path| fs::hard_link(outside, path).unwrap(),
            |_, path| fs::create_dir_all(path.join("deep/er")).unwrap(),
            |_, path| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
        ];
        for replace in replace {
            unfinished(&target);
            let path = partial(&target).join(&file);
            fs::remove_file(&path).unwrap();
            replace(&outside.join("model.safetensors"), &path);
            symlink(&outside, partial(&target).join("foreign")).unwrap();
            merge(&target, false).unwrap();
            assert_eq!(snapshot(&target), expected());
            assert_eq!(fs::read(outside.join("model.safetensors")).unwrap(), b"mine");
            fs::remove_dir_all(&target).unwrap();
        }
    }

    #[test]
    fn whatever_a_power_cut_left_of_the_files_is_mended() {
        let spoil: [fn(&Path); 5] = [
            |path| fs::remove_file(path).unwrap(),
            |path| fs::write(path, "").unwrap(),
            |path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            |path| fs::write(path, vec![0; fs::read(path).unwrap().len()]).unwrap(),
            |path| fs::write(path, vec![7; fs::read(path).unwrap().len() + 100]).unwrap(),
        ];
        for spoil in spoil {
            let (_room, target) = scene();
            unfinished(&target);
            for file in &layout().files {
                spoil(&partial(&target).join(&file.name));
            }
            merge(&target, false).unwrap();
            assert_eq!(snapshot(&target), expected());
        }
    }

    #[test]
    fn a_torn_or_garbled_journal_costs_work_and_nothing_else() {
        let (_room, target) = scene();
        unfinished(&target);
        let good = fs::read(partial(&target).join(journal::NAME)).unwrap();
        let first = good.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let expected = expected();
        let spoil: [fn(&mut Vec<u8>, usize); 4] = [
            |bytes, at| bytes.truncate(at),
            |bytes, at| bytes[at] ^= 1,
            |bytes, at| bytes[at..].fill(0),
            |bytes, at| bytes.insert(at, b'\n'),
        ];
        for (which, spoil) in spoil.into_iter().enumerate() {
            for at in 0..good.len() {
                if !partial(&target).exists() {
                    fs::remove_dir_all(&target).unwrap();
                    unfinished(&target);
                }
                let mut bytes = good.clone();
                spoil(&mut bytes, at);
                fs::write(partial(&target).join(journal::NAME), &bytes).unwrap();
                let when = format!("spoiled by {which} at {at}");
                if !bytes.starts_with(&good[..first]) {
                    // Nothing proves the directory ours: it is left as it is.
                    let before = snapshot(&partial(&target));
                    assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }), "{when}");
                    assert_eq!(snapshot(&partial(&target)), before, "{when}");
                } else {
                    merge(&target, false).unwrap_or_else(|error| panic!("{when}: {error}"));
                    assert_eq!(snapshot(&target), expected, "{when}");
                }
            }
        }
    }

    #[test]
    fn a_disk_that_is_full_leaves_nothing_behind() {
        let (_room, target) = scene();
        let trial = || Trial::default();
        let (_, calls) =
            under(trial(), || Output::begin(&target, &layout(), &run(), false).map(|_| ()));
        fs::remove_dir_all(partial(&target)).unwrap();
        for at in 0..calls.len() {
            for made in [false, true] {
                if made {
                    fs::create_dir(partial(&target)).unwrap();
                }
                let trial = Trial { fail_at: Some((at, Errno::NOSPC)), ..trial() };
                let (result, _) = under(trial, || Output::begin(&target, &layout(), &run(), false));
                let names = snapshot(target.parent().unwrap());
                if result.is_err() {
                    assert_eq!(
                        names.len(),
                        usize::from(made),
                        "{at} {:?}: {:?}",
                        calls[at],
                        names.keys()
                    );
                }
                let _ = fs::remove_dir_all(partial(&target));
            }
        }
    }

    #[test]
    fn a_parent_that_is_missing_or_a_file_is_named() {
        let (room, target) = scene();
        fs::write(&target, "x").unwrap();
        for (path, named) in [
            (room.path().join("none/out"), room.path().join("none")),
            (target.join("out"), target.clone()),
        ] {
            let error = refused(&path);
            assert_eq!(error.path.as_deref(), Some(&*named), "{error}");
            assert!(error.errno().is_some());
        }
    }
}
