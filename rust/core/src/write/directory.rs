//! A directory held open: entries are reached through its handle, never by a path that could come to mean another.
//!
//! Links are never followed, nothing but regular files is opened, and every error names the path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Kind, Result};
use crate::write::look::{Look, look};
use crate::write::system::{self, Onto};

/// A directory held open, with the path under which it was reached.
#[derive(Debug)]
pub(super) struct Folder {
    handle: File,
    path: PathBuf,
}

impl Folder {
    /// Opens the directory at a path, links followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|errno| Error::os("open the directory", path, errno))?;
        Ok(Self { handle: handle.into(), path: path.to_path_buf() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry.
    pub(super) fn at(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// The error of an entry.
    pub(super) fn error(&self, doing: &'static str, name: &OsStr, source: io::Error) -> Error {
        Error::os(doing, &self.at(name), source)
    }

    /// A directory in this one; a link to one is not one.
    pub(super) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self { handle: system::open_folder(&self.handle, name)?, path: self.at(name) })
    }

    /// The same, where nothing else may stand under the name.
    pub(super) fn folder(&self, name: &OsStr) -> Result<Self> {
        self.enter(name).map_err(|error| self.error("open the directory", name, error))
    }

    /// Makes a directory: false where something has the name already.
    pub(super) fn make(&self, name: &OsStr) -> Result<bool> {
        match system::make_folder(&self.handle, name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.error("make the directory", name, error)),
        }
    }

    /// What has this name; none where nothing has.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<Look>> {
        match look(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(look) => Ok(Some(look)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno.into())),
        }
    }

    /// What this directory is itself.
    pub(super) fn look_at_self(&self) -> Result<Look> {
        look(&self.handle, OsStr::new("."), AtFlags::empty())
            .map_err(|errno| Error::os("look at", &self.path, errno))
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        retry_on_intr(|| self.list())
            .map_err(|errno| Error::os("list the directory", &self.path, errno))
    }

    fn list(&self) -> std::result::Result<Vec<OsString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_os_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// A regular file for reading; none where nothing has the name.
    pub(super) fn open_file(&self, name: &OsStr) -> Result<Option<File>> {
        let file = match system::open_file(&self.handle, name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("open", name, error)),
        };
        let metadata = file.metadata().map_err(|error| self.error("look at", name, error))?;
        if metadata.is_file() {
            return Ok(Some(file));
        }
        Err(Error::malformed("it is not a regular file").path(&self.at(name)))
    }

    /// A regular file of one name, for writing at offsets; none where nothing, or anything else, has the name.
    ///
    /// A file with a second name elsewhere is not touched: writing here would write there.
    pub(super) fn reopen_file(&self, name: &OsStr) -> Result<Option<File>> {
        match self.look(name)? {
            Some(look) if look.kind == FileType::RegularFile && look.names == 1 => {}
            _ => return Ok(None),
        }
        let file = system::reopen_file(&self.handle, name);
        file.map(Some).map_err(|error| self.error("open for writing", name, error))
    }

    /// A new file; what had the name is removed first.
    pub(super) fn create_file(&self, name: &OsStr) -> Result<File> {
        self.remove(name)?;
        let file = system::create_file(&self.handle, name);
        file.map_err(|error| self.error("create", name, error))
    }

    /// A new file with this content, on the disk when this returns (its name is when the folder is synced).
    pub(super) fn write_file(&self, name: &OsStr, bytes: &[u8]) -> Result<()> {
        let file = self.create_file(name)?;
        system::write_at(&file, bytes, 0).map_err(|error| self.error("write", name, error))?;
        system::sync_data(&file).map_err(|error| self.error("sync", name, error))
    }

    /// Renames from one directory to another.
    pub(super) fn rename(
        &self,
        from: &OsStr,
        other: &Self,
        to: &OsStr,
        onto: Onto,
    ) -> io::Result<()> {
        system::rename((&self.handle, from), (&other.handle, to), onto)
    }

    /// Renames onto nothing; where there are no flags for it, looks first.
    pub(super) fn move_to(&self, from: &OsStr, other: &Self, to: &OsStr) -> Result<()> {
        let moved = match self.rename(from, other, to, Onto::Nothing) {
            Err(error) if system::lacks(&error) => match other.look(to)? {
                None => self.rename(from, other, to, Onto::Empty),
                Some(_) => Err(Errno::EXIST.into()),
            },
            moved => moved,
        };
        moved.map_err(|error| other.error("rename to", to, error))
    }

    /// Removes whatever has the name, a directory with all it holds; nothing there is well.
    ///
    /// # Errors
    /// Also where something is mounted below: it is not ours to empty.
    pub(super) fn remove(&self, name: &OsStr) -> Result<()> {
        let Some(look) = self.look(name)? else { return Ok(()) };
        let removed = if look.kind != FileType::Directory {
            system::unlink(&self.handle, name)
        } else if look.mounted || look.device != self.look_at_self()?.device {
            Err(Errno::BUSY.into())
        } else {
            let folder = self.folder(name)?;
            for inner in folder.names()? {
                folder.remove(&inner)?;
            }
            system::remove_folder(&self.handle, name)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("remove", name, error))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what [`Folder::remove`] would stop at after half its work: mounts below, folders that cannot be listed.
    pub(super) fn check_removable(&self) -> Result<()> {
        let device = self.look_at_self()?.device;
        for name in self.names()? {
            let Some(look) = self.look(&name)? else { continue };
            if look.mounted || look.device != device {
                let hint = "unmount it, or name another output";
                let (what, hint) =
                    ("is a mount point inside what would be replaced".into(), hint.into());
                return Err(Error::from(Kind::OutputExists { what, hint }).path(&self.at(&name)));
            }
            if look.kind == FileType::Directory {
                self.folder(&name)?.check_removable()?;
            }
        }
        Ok(())
    }

    /// Removes an empty directory; anything else is an error, and stays.
    pub(super) fn remove_empty(&self, name: &OsStr) -> io::Result<()> {
        system::remove_folder(&self.handle, name)
    }

    /// Waits until the names in it are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        system::sync_folder(&self.handle)
            .map_err(|error| Error::os("sync the directory", &self.path, error))
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        system::set_mode(&self.handle, mode)
    }

    /// Takes the lock, held until this is dropped.
    ///
    /// # Errors
    /// [`Kind::Locked`] where another run has it.
    pub(super) fn lock(&self) -> Result<()> {
        match system::lock(&self.handle) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::from(Kind::Locked).path(&self.path)),
            Err(error) => Err(Error::os("lock", &self.path, error)),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        system::unlock(&self.handle);
    }
}
