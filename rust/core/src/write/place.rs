//! Where a result will stand: the target's parent held open, the names beside it, and what may be in the way.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FileType};

use crate::error::{Error, Kind, Result};
use crate::write::directory::Folder;
use crate::write::look::Look;

/// The directory in which a result grows.
const PARTIAL: &str = ".partial";
/// The journal, while the result is put in place.
const JOURNAL: &str = ".partial.journal";
/// What is replaced, where directories cannot change places.
const REPLACED: &str = ".replaced";
/// The longest name of a directory entry on the usual file systems.
const LONGEST_NAME: usize = 255;

/// Where a result will stand.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: Folder,
    pub(super) name: OsString,
    pub(super) partial: OsString,
    pub(super) journal: OsString,
    pub(super) replaced: OsString,
}

/// What stands under the target's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing {
    Nothing,
    Empty(Look),
    /// A directory with something in it, which may be replaced.
    Full(Look),
}

impl Place {
    /// Finds a target's parent; the target itself need not be there.
    pub(super) fn resolve(target: &Path) -> Result<Self> {
        let found = |path: &Path| {
            fs::canonicalize(path).map_err(|error| Error::os("find the directory", path, error))
        };
        // `out/` and `out/.` name `out`; `.`, `..` and `a/..` have no name of their own.
        let (parent, name) = match (target.parent(), target.file_name()) {
            (Some(parent), Some(name)) => {
                let here = parent.as_os_str().is_empty();
                (found(if here { Path::new(".") } else { parent })?, name.to_os_string())
            }
            _ if target.as_os_str().is_empty() => {
                return Err(Error::value("out", "empty", "the path of a directory"));
            }
            _ => {
                let target = found(target)?;
                let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
                    return Err(in_the_way("is a mount point", INSIDE, &target));
                };
                (parent.to_path_buf(), name.to_os_string())
            }
        };
        let longest = LONGEST_NAME - JOURNAL.len();
        if name.len() > longest {
            let found = format!("a name of {} bytes", name.len());
            let expected = format!("at most {longest}: `{JOURNAL}` is added to it for a while");
            return Err(Error::value("out", found, expected).path(target));
        }
        let [partial, journal, replaced] = [PARTIAL, JOURNAL, REPLACED].map(|suffix| {
            let mut name = name.clone();
            name.push(suffix);
            name
        });
        Ok(Self { parent: Folder::open(&parent)?, name, partial, journal, replaced })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.parent.at(&self.name)
    }

    /// What stands under the target's name, where a result may take its place.
    pub(super) fn standing(&self, overwrite: bool) -> Result<Standing> {
        let path = self.path();
        let Some(look) = self.parent.look(&self.name)? else { return Ok(Standing::Nothing) };
        self.check_directory(&self.name, &look)?;
        let folder = self.parent.folder(&self.name)?;
        let empty = folder.names()?.is_empty();
        if !empty && !overwrite {
            let hint =
                "`--overwrite` replaces it when the new one is whole; or name another output";
            return Err(in_the_way("is there already and is not empty", hint, &path));
        }
        if std::env::current_dir().is_ok_and(|current| current.starts_with(&path)) {
            let hint = "name another output, or give the command from elsewhere";
            return Err(in_the_way(
                "is the working directory, which would be replaced",
                hint,
                &path,
            ));
        }
        if empty {
            return Ok(Standing::Empty(look));
        }
        folder.check_removable()?;
        Ok(Standing::Full(look))
    }

    /// Refuses an entry that is not a directory that can be renamed.
    pub(super) fn check_directory(&self, name: &OsStr, look: &Look) -> Result<()> {
        let another = "name another output, or move it away";
        let (what, hint) = match look.kind {
            FileType::Directory if look.mounted => ("is a mount point", INSIDE),
            FileType::Directory if look.device != self.parent.look_at_self()?.device => {
                ("is a mount point, or a volume of its own", INSIDE)
            }
            FileType::Directory => return Ok(()),
            FileType::Symlink => {
                ("is a link", "name the directory that it leads to, or move it away")
            }
            FileType::RegularFile => ("is a file", another),
            _ => ("is not a directory", another),
        };
        Err(in_the_way(what, hint, &self.parent.at(name)))
    }
}

const INSIDE: &str = "name a directory inside it";

pub(super) fn in_the_way(what: &str, hint: &str, path: &Path) -> Error {
    Error::from(Kind::OutputExists { what: what.into(), hint: hint.into() }).path(path)
}

/// Everything that would keep a result from being written to `target`; nothing is changed.
///
/// `inputs` are the directories and files that are read, as the user named them or as they were found.
#[must_use]
pub fn check_target(target: &Path, inputs: &[PathBuf], overwrite: bool) -> Vec<Error> {
    let place = match Place::resolve(target) {
        Ok(place) => place,
        Err(error) => return vec![error],
    };
    let mut problems = Vec::new();
    problems.extend(place.standing(overwrite).err());
    problems.extend(unusable_partial(&place).err());
    for input in inputs {
        problems.extend(overlap(&place, input).unwrap_or_else(Some));
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let parent = place.parent.path();
    if let Err(errno) = rustix::fs::accessat(rustix::fs::CWD, parent, access, AtFlags::empty()) {
        problems.push(Error::os("write to the directory", parent, errno));
    }
    problems
}

fn unusable_partial(place: &Place) -> Result<()> {
    match place.parent.look(&place.partial)? {
        Some(look) => place.check_directory(&place.partial, &look),
        None => Ok(()),
    }
}

/// An input that the output is, lies in, or would take with it; by identity, so that no link or mount hides it.
fn overlap(place: &Place, input: &Path) -> Result<Option<Error>> {
    let real = match fs::canonicalize(input) {
        Ok(real) => real,
        // What is not there is told elsewhere.
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(Error::os("look at", input, error)),
    };
    let input_identity = identity(&real)?;
    let around = real.ancestors().skip(1).map(identity).collect::<Result<Vec<_>>>()?;
    let parents = place.parent.path().ancestors().map(identity).collect::<Result<Vec<_>>>()?;
    let inside = input_identity.is_some() && parents.contains(&input_identity);
    let mut relation = inside.then_some("lies inside the input");
    for name in [&place.replaced, &place.partial, &place.name] {
        let output = identity(&place.parent.at(name))?;
        if output.is_some() && output == input_identity {
            relation = Some("is the input");
        } else if output.is_some() && around.contains(&output) {
            relation = Some("holds the input");
        }
    }
    Ok(relation.map(|relation| {
        let shown = crate::error::shown(&input.to_string_lossy());
        let what = format!("the output {relation} `{shown}`");
        let error = Error::recipe_with_hint(what, "name an output apart from the inputs");
        error.path(&place.path())
    }))
}

/// File system and inode; none where nothing is there.
fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::os("look at", path, error)),
    }
}

/// Nothing is there, or a link that leads round in a circle.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

/// The bytes that an ordinary user may still write where `target` will stand.
///
/// # Errors
/// The system's word on the nearest directory above that is there.
pub fn free_bytes(target: &Path) -> Result<u64> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut nearest = parent.unwrap_or(Path::new("."));
    loop {
        match rustix::fs::statvfs(nearest) {
            Ok(room) => return Ok(room.f_bavail.saturating_mul(room.f_frsize)),
            Err(errno) => match nearest.parent() {
                Some(above) if io::Error::from(errno).kind() == io::ErrorKind::NotFound => {
                    nearest = if above.as_os_str().is_empty() { Path::new(".") } else { above };
                }
                _ => return Err(Error::os("ask for the free room of", nearest, errno)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::fixture::room;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn kinds(target: &Path, inputs: &[PathBuf], overwrite: bool) -> Vec<String> {
        check_target(target, inputs, overwrite).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_parent_and_name_however_the_target_is_written() {
        let held = room();
        let root = fs::canonicalize(held.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink(root.join("a/b"), root.join("link")).unwrap();
        for (written, real) in [
            ("new", "new"),
            ("new/", "new"),
            ("new/.", "new"),
            ("./a/../new", "new"),
            ("a/b/.", "a/b"),
            ("a/b/..", "a"),
            ("link/new", "a/b/new"),
            ("link/..", "a"),
        ] {
            let place = Place::resolve(&root.join(written)).unwrap();
            assert_eq!(place.path(), root.join(real), "{written}");
        }
        let place = Place::resolve(Path::new("new")).unwrap();
        assert_eq!(place.path(), std::env::current_dir().unwrap().join("new"));
        assert_eq!(
            Place::resolve(Path::new(".")).unwrap().path(),
            std::env::current_dir().unwrap()
        );
        assert!(Place::resolve(Path::new("/")).is_err());
        assert!(Place::resolve(Path::new("")).is_err());
    }

    #[test]
    fn names_may_be_any_bytes_but_not_too_long() {
        let held = room();
        let name = OsStr::from_bytes(b"\xff\xfe\x1b");
        assert!(check_target(&held.path().join(name), &[], false).is_empty());
        assert!(check_target(&held.path().join("x".repeat(239)), &[], false).is_empty());
        let told = kinds(&held.path().join("x".repeat(240)), &[], false);
        assert!(told[0].contains("240 bytes") && told[0].contains(".partial"), "{told:?}");
    }

    #[test]
    fn tells_what_is_in_the_way() {
        let held = room();
        let out = held.path().join("out");
        assert!(kinds(&out, &[], false).is_empty());
        fs::write(&out, "x").unwrap();
        assert!(kinds(&out, &[], true)[0].contains("is a file"));
        fs::remove_file(&out).unwrap();
        symlink("nowhere", &out).unwrap();
        assert!(kinds(&out, &[], true)[0].contains("is a link"));
        assert!(kinds(&held.path().join("out/"), &[], true)[0].contains("is a link"));
        fs::remove_file(&out).unwrap();
        fs::create_dir(&out).unwrap();
        assert!(kinds(&out, &[], false).is_empty());
        fs::write(out.join("x"), "x").unwrap();
        assert!(kinds(&out, &[], false)[0].contains("not empty"));
        assert!(kinds(&out, &[], true).is_empty());
        fs::write(held.path().join("out.partial"), "x").unwrap();
        assert!(kinds(&out, &[], true)[0].contains("is a file"));
        if cfg!(target_os = "linux") {
            assert!(kinds(Path::new("/proc"), &[], true)[0].contains("is a mount point"));
        }
        assert!(
            kinds(&std::env::current_dir().unwrap(), &[], true)[0].contains("working directory")
        );
        assert!(kinds(&held.path().join("none/out"), &[], false)[0].contains("none"));
    }

    #[test]
    fn an_output_that_touches_an_input_is_refused_by_links_too() {
        let held = room();
        let root = held.path();
        fs::create_dir_all(root.join("models/a")).unwrap();
        fs::write(root.join("models/a/model.safetensors"), "x").unwrap();
        symlink(root.join("models"), root.join("link")).unwrap();
        let inputs = [root.join("models/a")];
        let told = |out: &str| kinds(&root.join(out), &inputs, true);
        assert!(told("models/a")[0].contains("is the input"));
        assert!(told("link/a")[0].contains("is the input"));
        assert!(told("models/a/out")[0].contains("lies inside the input"));
        assert!(told("link/a/out")[0].contains("lies inside the input"));
        assert!(told("models")[0].contains("holds the input"));
        assert!(told("models/b").is_empty());
        fs::rename(root.join("models/a"), root.join("models/b.partial")).unwrap();
        let inputs = [root.join("link/b.partial/model.safetensors")];
        assert!(kinds(&root.join("models/b"), &inputs, true)[0].contains("holds the input"));
    }

    #[test]
    fn the_free_room_is_that_of_the_nearest_directory() {
        let held = room();
        let here = free_bytes(&held.path().join("out")).unwrap();
        assert!(here > 0);
        assert!(free_bytes(&held.path().join("not/there/out")).unwrap() > 0);
        assert!(free_bytes(Path::new("out")).unwrap() > 0);
    }
}
