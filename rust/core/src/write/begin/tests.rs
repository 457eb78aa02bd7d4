//! What a run makes of whatever it finds in `TARGET.partial`.

use super::*;
use crate::write::fixture::{content, expected, finished_of, layout, merge, room, run, snapshot};
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
    Output::begin(target, layout(), &run(), false).unwrap_err()
}

/// An unfinished run with every tensor written and noted.
fn unfinished(target: &Path) {
    let layout = layout();
    let (output, _) = Output::begin(target, layout, &run(), false).unwrap();
    for tensor in &layout.tensors {
        output.write_at(tensor.file, tensor.offset, &content(tensor)).unwrap();
        output.record(&[(&*tensor.name, &finished_of(tensor))]).unwrap();
    }
}

#[test]
fn the_files_have_their_size_and_their_header_at_once() {
    let (_room, target) = scene();
    let (output, finished) = Output::begin(&target, layout(), &run(), false).unwrap();
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
    let (output, _) = Output::begin(&target, layout(), &run(), false).unwrap();
    assert!(matches!(*refused(&target).kind, Kind::Locked));
    assert!(partial(&target).join(journal::NAME).exists());
    drop(output);
    Output::begin(&target, layout(), &run(), false).unwrap();
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
    let error = Output::begin(&target, layout(), &other, false).unwrap_err();
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
        &layout()
            .tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone()))
            .collect::<Vec<_>>(),
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
    let file = &layout().files[0].name;
    let replace: [fn(&Path, &Path); 4] = [
        |outside, path| symlink(outside, path).unwrap(),
        |outside, path| fs::hard_link(outside, path).unwrap(),
        |_, path| fs::create_dir_all(path.join("deep/er")).unwrap(),
        |_, path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
    ];
    for replace in replace {
        unfinished(&target);
        let path = partial(&target).join(file);
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
            let proven = bytes.starts_with(&good[..first]);
            if proven {
                merge(&target, false).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_eq!(snapshot(&target), expected, "{when}");
            } else {
                // Nothing proves the directory ours: it is left as it is.
                let before = snapshot(&partial(&target));
                assert!(matches!(*refused(&target).kind, Kind::OutputExists { .. }), "{when}");
                assert_eq!(snapshot(&partial(&target)), before, "{when}");
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_leaves_nothing_behind() {
    let (_room, target) = scene();
    let trial = || Trial::default();
    let (_, calls) = under(trial(), || Output::begin(&target, layout(), &run(), false).map(|_| ()));
    fs::remove_dir_all(partial(&target)).unwrap();
    for (at, call) in calls.iter().enumerate() {
        for made in [false, true] {
            if made {
                fs::create_dir(partial(&target)).unwrap();
            }
            let trial = Trial { fail_at: Some((at, Errno::NOSPC)), ..trial() };
            let (result, _) = under(trial, || Output::begin(&target, layout(), &run(), false));
            let names = snapshot(target.parent().unwrap());
            if result.is_err() {
                assert_eq!(names.len(), usize::from(made), "{at} {:?}: {:?}", call, names.keys());
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

#[test]
fn the_journal_is_on_the_disk_before_any_other_file_is_there() {
    let (_room, target) = scene();
    let begin = || Output::begin(&target, layout(), &run(), false).map(|_| ());
    let (_, calls) = under(Trial::default(), begin);
    let journal = ["create", "write", "sync", "rename onto nothing", "sync", "sync", "open"];
    let file = ["create", "allocate", "write"];
    let expected: Vec<&str> = [&["mkdir", "lock"][..], &journal, &file, &file].concat();
    assert_eq!(calls, expected);
}
