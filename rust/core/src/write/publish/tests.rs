//! The last steps, killed and failed at each of their calls.

use super::*;
use crate::write::fixture::{
    COMPUTED, RECORDED, expected, layout, manifest, merge, room, run, sidecars, snapshot,
};
use crate::write::system::trial::{Trial, under};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// What stands under the target's name before the run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    Empty,
    Full,
}

/// What file systems lack.
const LACKING: [&[&str]; 3] =
    [&[], &["exchange"], &["exchange", "rename onto nothing", "allocate", "lock"]];

struct Scene {
    room: tempfile::TempDir,
    before: Before,
}

impl Scene {
    fn new(before: Before) -> Self {
        let scene = Self { room: room(), before };
        fs::create_dir(scene.parent()).unwrap();
        if before != Before::Nothing {
            fs::create_dir(scene.target()).unwrap();
        }
        if before == Before::Full {
            fs::create_dir(scene.target().join("folder")).unwrap();
            fs::write(scene.target().join("folder/old"), "old").unwrap();
            fs::write(scene.room.path().join("outside"), "keep").unwrap();
            let outside = scene.room.path().join("outside");
            std::os::unix::fs::symlink(outside, scene.target().join("link")).unwrap();
        }
        scene
    }

    fn parent(&self) -> PathBuf {
        self.room.path().join("parent")
    }

    fn target(&self) -> PathBuf {
        self.parent().join("out")
    }

    fn merge(&self) -> Result<()> {
        merge(&self.target(), self.before == Before::Full)
    }

    /// The result is in place and nothing else is.
    fn check_done(&self, expected: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
        assert_eq!(&snapshot(&self.target()), expected, "{when}");
        let names = fs::read_dir(self.parent()).unwrap().count();
        assert_eq!(names, 1, "{when}: {:?}", snapshot(&self.parent()).keys());
        if self.before == Before::Full {
            assert_eq!(fs::read(self.room.path().join("outside")).unwrap(), b"keep");
        }
    }

    /// At any moment: all of the old, or all of the new, under the target's name or under the one that keeps it.
    fn check_safe(&self, expected: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
        let whole = |path: PathBuf| path.is_dir() && snapshot(&path) == *expected;
        let old = |path: PathBuf| path.join("folder/old").exists();
        if whole(self.target()) {
            return;
        }
        match self.before {
            Before::Nothing => assert!(!self.target().exists(), "{when}"),
            Before::Empty => assert!(snapshot(&self.target()).is_empty(), "{when}"),
            Before::Full => {
                let aside = self.parent().join("out.replaced");
                let kept = old(self.target()) || (!self.target().exists() && old(aside));
                assert!(kept, "{when}: {:?}", snapshot(&self.parent()).keys());
            }
        }
    }
}

/// Kills a run at each of its calls in turn, and the run after it too if asked; then the same command.
fn kill_everywhere(before: Before, lacking: &'static [&'static str], twice: bool) {
    let expected = expected();
    for first in 0.. {
        let mut second = 0;
        loop {
            let scene = Scene::new(before);
            let killed = |kill_at| Trial { kill_at, lacking, ..Trial::default() };
            let (_, calls) = under(killed(Some(first)), || scene.merge());
            let mut when =
                format!("{before:?} {lacking:?} killed at {first} {:?}", calls.get(first));
            scene.check_safe(&expected, &when);
            let mut recorded = RECORDED.get();
            let mut ended = calls.len() <= first;
            if twice && !ended {
                let (_, calls) = under(killed(Some(second)), || scene.merge());
                when = format!("{when}, then at {second} {:?}", calls.get(second));
                scene.check_safe(&expected, &when);
                recorded = recorded.max(RECORDED.get());
                ended = calls.len() <= second;
            } else {
                ended = true;
            }
            let (result, _) = under(killed(None), || scene.merge());
            result.unwrap_or_else(|error| panic!("{when}: {error}"));
            let redone = COMPUTED.get();
            assert!(redone + recorded <= layout().tensors.len(), "{when}: {redone} redone");
            scene.check_done(&expected, &when);
            if ended {
                break;
            }
            second += 1;
        }
        let scene = Scene::new(before);
        let all = under(Trial { lacking, ..Trial::default() }, || scene.merge()).1.len();
        if first >= all {
            return;
        }
    }
}

#[test]
fn killed_at_any_call_the_same_command_ends_with_the_same_bytes() {
    for before in [Before::Nothing, Before::Empty, Before::Full] {
        for lacking in LACKING {
            kill_everywhere(before, lacking, false);
        }
    }
}

#[test]
fn killed_at_any_two_calls_too() {
    for (before, lacking) in
        [(Before::Nothing, LACKING[0]), (Before::Full, LACKING[0]), (Before::Full, LACKING[2])]
    {
        kill_everywhere(before, lacking, true);
    }
}

#[test]
fn a_call_that_fails_is_told_with_a_path_and_can_be_resumed() {
    let expected = expected();
    for before in [Before::Nothing, Before::Empty, Before::Full] {
        for (lacking, errno) in LACKING.into_iter().flat_map(|lacking| {
            [(lacking, Errno::NOSPC), (lacking, Errno::IO), (lacking, Errno::DQUOT)]
        }) {
            for at in 0.. {
                let scene = Scene::new(before);
                let fail_at = Some((at, errno));
                let (result, calls) =
                    under(Trial { fail_at, lacking, ..Trial::default() }, || scene.merge());
                let when = format!("{before:?} {lacking:?} {errno:?} at {at} {:?}", calls.get(at));
                if let Err(error) = &result {
                    assert!(error.path.is_some(), "{when}: {error}");
                }
                scene.check_safe(&expected, &when);
                if calls.len() <= at {
                    result.unwrap();
                    break;
                }
                let (again, _) = under(Trial { lacking, ..Trial::default() }, || scene.merge());
                again.unwrap_or_else(|error| panic!("{when}: {error}"));
                scene.check_done(&expected, &when);
            }
        }
    }
}

#[test]
fn each_step_is_on_the_disk_before_the_next() {
    let ends_with = |before, lacking, end: &[&str]| {
        let scene = Scene::new(before);
        let (_, calls) = under(Trial { lacking, ..Trial::default() }, || scene.merge());
        assert_eq!(&calls[calls.len() - end.len()..], end, "{before:?}");
    };
    let small_files_until_journal_is_out =
        ["create", "write", "sync", "sync", "write", "sync", "rename onto nothing", "sync"];
    let end = ["rename onto nothing", "sync", "unlink", "sync"];
    ends_with(Before::Nothing, &[], &[&small_files_until_journal_is_out[..], &end].concat());
    let end = ["exchange", "sync", "unlink", "rmdir", "unlink", "rmdir", "sync", "unlink", "sync"];
    let chmod = "chmod";
    let [create, write, sync, folder, note, noted, out, gone] = small_files_until_journal_is_out;
    let begin = [create, write, sync, folder, note, noted, chmod, out, gone];
    ends_with(Before::Full, &[], &[&begin[..], &end].concat());
    let aside = ["exchange", "rename onto nothing", "sync", "rename", "sync"];
    ends_with(Before::Full, &["exchange"], &[&begin[..], &aside, &end[2..]].concat());
}

#[test]
fn a_failed_sync_leaves_nothing_to_be_trusted() {
    let scene = Scene::new(Before::Nothing);
    let (_, calls) = under(Trial::default(), || scene.merge());
    let begun = calls.iter().rposition(|call| *call == "allocate").unwrap();
    let at = begun + calls[begun..].iter().position(|call| *call == "sync").unwrap();
    let scene = Scene::new(Before::Nothing);
    let trial = Trial { fail_at: Some((at, Errno::IO)), ..Trial::default() };
    let (result, _) = under(trial, || scene.merge());
    assert_eq!(result.unwrap_err().errno(), Some(libc::EIO));
    scene.merge().unwrap();
    assert_eq!(COMPUTED.get(), layout().tensors.len());
}

#[test]
fn an_output_whose_sync_failed_is_never_published() {
    let scene = Scene::new(Before::Nothing);
    let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
    let trial = Trial { fail_at: Some((0, Errno::IO)), ..Trial::default() };
    assert!(under(trial, || output.sync()).0.is_err());
    assert!(output.sync().is_err());
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small).unwrap();
    assert!(output.publish(&small, &sealed, &|| Ok(())).is_err());
    assert!(!scene.target().exists());
}

#[test]
fn inputs_that_changed_keep_it_from_its_place() {
    let scene = Scene::new(Before::Nothing);
    let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small).unwrap();
    let error = output.publish(&small, &sealed, &|| Err(Kind::Cancelled.into())).unwrap_err();
    assert!(matches!(*error.kind, Kind::Cancelled));
    assert!(!scene.target().exists());
    scene.merge().unwrap();
    scene.check_done(&expected(), "after");
}

#[test]
fn what_comes_to_stand_there_during_the_run_is_not_replaced() {
    let make: [fn(&Path); 4] = [
        |path| fs::write(path, "mine").unwrap(),
        |path| std::os::unix::fs::symlink("nowhere", path).unwrap(),
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("mine"), "mine").unwrap();
        },
        |path| fs::create_dir(path).unwrap(),
    ];
    for lacking in LACKING {
        for (which, make) in make.into_iter().enumerate() {
            let scene = Scene::new(Before::Nothing);
            let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
            let small = sidecars(scene.room.path());
            let sealed = manifest(layout(), &small).unwrap();
            let place = scene.target();
            let come = || {
                make(&place);
                Ok(())
            };
            let trial = Trial { lacking, ..Trial::default() };
            let (result, _) = under(trial, || output.publish(&small, &sealed, &come));
            if which == 3 {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err();
            assert!(matches!(*error.kind, Kind::OutputExists { .. }), "{error}");
            assert!(
                snapshot(&scene.parent())
                    .values()
                    .any(|bytes| bytes == b"mine" || bytes == b"nowhere")
            );
            assert!(scene.parent().join("out.partial").join(journal::NAME).exists());
        }
    }
}

#[test]
fn even_between_the_last_look_and_the_rename() {
    // As if it had come after the look: the kernel's word decides.
    for lacking in [&[][..], &["rename onto nothing"]] {
        let scene = Scene::new(Before::Nothing);
        let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
        fs::create_dir(scene.target()).unwrap();
        fs::write(scene.target().join("mine"), "mine").unwrap();
        let trial = Trial { lacking, ..Trial::default() };
        let (result, _) = under(trial, || exchange(&output.place, Standing::Nothing));
        assert!(matches!(*result.unwrap_err().kind, Kind::OutputExists { .. }));
        assert_eq!(fs::read(scene.target().join("mine")).unwrap(), b"mine");
    }
}

#[test]
fn what_is_replaced_is_removed_only_if_the_journal_names_it() {
    let scene = Scene::new(Before::Full);
    let (_, calls) = under(Trial::default(), || scene.merge());
    let at = calls.iter().position(|call| *call == "exchange").unwrap() + 2;
    let scene = Scene::new(Before::Full);
    let (_, _) = under(Trial { kill_at: Some(at), ..Trial::default() }, || scene.merge());
    let partial = scene.parent().join("out.partial");
    // Someone saves what was replaced, and makes a directory of that name.
    fs::rename(&partial, scene.parent().join("saved")).unwrap();
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("mine"), "mine").unwrap();
    assert!(finish_replacement(&scene.target()).unwrap());
    assert_eq!(fs::read(partial.join("mine")).unwrap(), b"mine");
    assert!(scene.parent().join("saved/folder/old").exists());
    assert!(!scene.parent().join("out.partial.journal").exists());
}

#[test]
fn a_foreign_file_of_the_journals_name_stays() {
    let scene = Scene::new(Before::Nothing);
    let foreign = scene.parent().join("out.partial.journal");
    fs::write(&foreign, "mine").unwrap();
    assert!(matches!(*scene.merge().unwrap_err().kind, Kind::OutputExists { .. }));
    assert_eq!(fs::read(&foreign).unwrap(), b"mine");
}

#[test]
fn a_wrong_manifest_is_a_defect_told_before_anything_has_a_name() {
    let scene = Scene::new(Before::Nothing);
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small[..1]).unwrap();
    let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
    let error = output.publish(&small, &sealed, &|| Ok(())).unwrap_err();
    assert!(matches!(*error.kind, Kind::Changed { .. } | Kind::Internal { .. }), "{error}");
    assert!(!scene.target().exists());
}

#[test]
fn the_mode_of_a_directory_that_was_there_stays() {
    use std::os::unix::fs::PermissionsExt;
    for (before, mode, kept) in [
        (Before::Empty, 0o2750, 0o2750),
        (Before::Full, 0o700, 0o700),
        (Before::Empty, 0o555, 0o755),
    ] {
        let scene = Scene::new(before);
        fs::set_permissions(scene.target(), fs::Permissions::from_mode(mode)).unwrap();
        scene.merge().unwrap();
        let found = fs::metadata(scene.target()).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, kept, "{found:o}");
    }
}

#[test]
fn a_step_that_fails_leaves_what_can_be_resumed_at_once() {
    for before in [Before::Nothing, Before::Full] {
        let (_, calls) = under(Trial::default(), || Scene::new(before).merge());
        let last =
            calls.iter().rposition(|call| *call == "exchange" || *call == "rename onto nothing");
        let fail_at = Some((last.unwrap(), Errno::IO));
        let scene = Scene::new(before);
        let (result, _) = under(Trial { fail_at, ..Trial::default() }, || scene.merge());
        assert_eq!(result.unwrap_err().errno(), Some(libc::EIO));
        assert!(scene.parent().join("out.partial").join(journal::NAME).exists());
        assert!(!scene.parent().join("out.partial.journal").exists());
    }
}

#[test]
fn the_last_steps_of_a_living_run_are_left_to_it() {
    for before in [Before::Nothing, Before::Full] {
        let (_, calls) = under(Trial::default(), || Scene::new(before).merge());
        let out = calls.len() - calls.iter().rev().position(|call| *call == "chmod").unwrap_or(7);
        for (at, call) in calls.iter().enumerate().skip(out) {
            let scene = Scene::new(before);
            let overwrite = before == Before::Full;
            let trial = Trial { kill_at: Some(at), ..Trial::default() };
            let (output, _) = under(trial, || {
                let begun = Output::begin(&scene.target(), layout(), &run(), overwrite);
                let (output, _) = begun.unwrap();
                for tensor in &layout().tensors {
                    let bytes = crate::write::fixture::content(tensor);
                    output.write_at(tensor.file, tensor.offset, &bytes).unwrap();
                    let finished = crate::write::fixture::finished_of(tensor);
                    output.record(&[(&*tensor.name, &finished)]).unwrap();
                }
                let small = sidecars(scene.room.path());
                let sealed = manifest(layout(), &small).unwrap();
                publish(&output, &small, &sealed, &|| Ok(())).unwrap_err();
                output
            });
            let beside = scene.parent().join("out.partial.journal").exists();
            let locked = finish_replacement(&scene.target());
            if beside {
                let error = locked.unwrap_err();
                assert!(matches!(*error.kind, Kind::Locked), "{call}: {error}");
            }
            drop(output);
            scene.merge().unwrap();
            scene.check_done(&expected(), call);
        }
    }
}

#[test]
fn what_was_put_among_the_files_during_the_run_is_not_published() {
    let scene = Scene::new(Before::Nothing);
    let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
    for tensor in &layout().tensors {
        let bytes = crate::write::fixture::content(tensor);
        output.write_at(tensor.file, tensor.offset, &bytes).unwrap();
    }
    fs::create_dir(scene.parent().join("out.partial/folder")).unwrap();
    fs::write(scene.parent().join("out.partial/folder/added"), "x").unwrap();
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small).unwrap();
    output.publish(&small, &sealed, &|| Ok(())).unwrap();
    scene.check_done(&expected(), "added");
}

#[test]
fn a_weight_file_that_was_exchanged_during_the_run_is_not_published() {
    let scene = Scene::new(Before::Nothing);
    let (output, _) = Output::begin(&scene.target(), layout(), &run(), false).unwrap();
    let path = scene.parent().join("out.partial").join(&layout().files[0].name);
    fs::rename(&path, path.with_extension("saved")).unwrap();
    fs::copy(path.with_extension("saved"), &path).unwrap();
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small).unwrap();
    let error = output.publish(&small, &sealed, &|| Ok(())).unwrap_err();
    assert!(matches!(*error.kind, Kind::Changed { .. }));
    assert_eq!(error.path.as_deref(), Some(&*path));
}

#[test]
fn a_result_that_another_run_put_in_place_is_not_touched() {
    let scene = Scene::new(Before::Nothing);
    let trial = || Trial { lacking: &["lock"], ..Trial::default() };
    let begin = || Output::begin(&scene.target(), layout(), &run(), false).unwrap().0;
    // Without locks two runs may share a directory; the first to end has it.
    let (slow, _) = under(trial(), begin);
    rustix::fs::rename(scene.parent().join("out.partial"), scene.target()).unwrap();
    let before = snapshot(&scene.target());
    let small = sidecars(scene.room.path());
    let sealed = manifest(layout(), &small).unwrap();
    let (result, _) = under(trial(), || slow.publish(&small, &sealed, &|| Ok(())));
    assert!(matches!(*result.unwrap_err().kind, Kind::Changed { .. }));
    assert_eq!(snapshot(&scene.target()), before);
}
