//! The bytes of one file of an input: mapped, or read at positions; or those of one tensor that a host lends. The same
//! bytes any way.
//!
//! Only regular files are opened: a FIFO or a device under the name of a shard must neither hang nor flood a run. A file
//! that shrinks, vanishes or cannot be read is an error that names it, under a map too (see [`LostPages`]).

mod lost_pages;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};
use serde::{Deserialize, Serialize};

pub use self::lost_pages::LostPages;
use self::lost_pages::Watched;
use crate::error::{Error, Kind, Result};

/// How files are read. The bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// Mapped into memory: the fastest on local disks. What cannot be mapped is read.
    Map,
    /// Positional reads: for network mounts, and where a host's process must not see a signal.
    Read,
}

/// What tells whether a file is still the one that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its size.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its number in its file system.
    pub inode: u64,
    /// The file system.
    pub device: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let seconds = metadata.mtime().saturating_mul(1_000_000_000);
        Self {
            bytes: metadata.len(),
            modified_ns: seconds.saturating_add(metadata.mtime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

/// Bytes of somebody else that do not move or change while they are lent.
pub type Lent = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A regular file, open for reading, or bytes that are lent.
pub struct Source {
    path: PathBuf,
    identity: Identity,
    content: Content,
}

enum Content {
    /// Dropped in this order: a map that is gone is no longer watched.
    Mapped {
        watched: Watched,
        map: Mmap,
    },
    Opened(File),
    Lent(Lent),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({} bytes)", self.path.display(), self.len())
    }
}

impl Source {
    /// Opens a regular file; links are followed. A mapped one holds no descriptor.
    ///
    /// # Errors
    /// `Os` where it cannot be opened; `Malformed` where it is something else than a regular file.
    pub fn open(path: &Path, io: Io) -> Result<Self> {
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
        let file = options.open(path).map_err(|error| Error::os("open", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::os("stat", path, error))?;
        if !metadata.is_file() {
            let what = format!("it is {}, expected a regular file", kind_of(&metadata));
            return Err(Error::malformed(what).path(path));
        }
        let identity = Identity::of(&metadata);
        let mapped = if io == Io::Map { map(&file, identity.bytes) } else { None };
        let content = mapped.unwrap_or(Content::Opened(file));
        Ok(Self { path: path.to_path_buf(), identity, content })
    }

    /// Bytes that are lent: they have no path.
    #[must_use]
    pub fn lent(bytes: Lent) -> Self {
        let length = (*bytes).as_ref().len() as u64;
        let identity = Identity { bytes: length, modified_ns: 0, inode: 0, device: 0 };
        Self { path: PathBuf::new(), identity, content: Content::Lent(bytes) }
    }

    /// Where it is; empty for bytes that are lent.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a size, not a collection")]
    pub fn len(&self) -> u64 {
        self.identity.bytes
    }

    /// What it was when it was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The bytes of a range: of the map, or read into `buffer`, which only grows.
    ///
    /// Where they are of the map, ask [`Self::intact`] once they are used.
    ///
    /// # Errors
    /// `Changed` where the file is shorter now, `Os` where it cannot be read, `Malformed` where the range leads out.
    pub fn bytes<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let within = self.within(&range)?;
        match &self.content {
            Content::Mapped { map, .. } => {
                self.populate(map, &within)?;
                Ok(&map[within])
            }
            Content::Opened(file) => self.read(file, range.start, within.len(), buffer),
            Content::Lent(bytes) => {
                let bytes = (**bytes).as_ref().get(within);
                bytes.ok_or_else(|| Error::malformed("what was lent is shorter now"))
            }
        }
    }

    /// Whether all bytes handed out so far were the file's: an error once a page was lost under the map.
    ///
    /// # Errors
    /// `Changed` where the file is not what it was, else `Os`.
    pub fn intact(&self) -> Result<()> {
        match &self.content {
            Content::Mapped { watched, .. } if watched.lost() => Err(self.lost()),
            _ => Ok(()),
        }
    }

    /// Whether what stands at its path is still what was opened.
    ///
    /// # Errors
    /// `Changed` with what differs; `Os` where that cannot be told.
    pub fn unchanged(&self) -> Result<()> {
        if matches!(self.content, Content::Lent(_)) {
            return Ok(());
        }
        let changed = |what: String| Error::from(Kind::Changed { what }).path(&self.path);
        let now = match fs::metadata(&self.path) {
            Ok(metadata) => Identity::of(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(changed("it is no longer there".into()));
            }
            Err(error) => return Err(Error::os("stat", &self.path, error)),
        };
        let then = self.identity;
        if (now.inode, now.device) != (then.inode, then.device) {
            Err(changed("another file is in its place".into()))
        } else if now.bytes != then.bytes {
            Err(changed(format!("it is {} bytes, it was {}", now.bytes, then.bytes)))
        } else if now.modified_ns != then.modified_ns {
            Err(changed("it was written to".into()))
        } else {
            Ok(())
        }
    }

    /// The range as places in memory.
    fn within(&self, range: &Range<u64>) -> Result<Range<usize>> {
        let places = (usize::try_from(range.start), usize::try_from(range.end));
        match places {
            (Ok(start), Ok(end)) if start <= end && range.end <= self.len() => Ok(start..end),
            _ => {
                let (Range { start, end }, size) = (range, self.len());
                let what = format!("bytes {start} to {end} were asked for, the file has {size}");
                Err(Error::malformed(what).path(&self.path))
            }
        }
    }

    /// Brings the pages of a range in, so that a lost one is an error here and no signal later.
    #[cfg(target_os = "linux")]
    fn populate(&self, map: &Mmap, range: &Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let populated = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        match populated.map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EFAULT | libc::EIO | libc::EHWPOISON)) => Err(self.lost()),
            // A kernel before 5.14 knows it not, a sandbox may forbid it: the handler is there for them.
            _ => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
    fn populate(&self, _: &Mmap, _: &Range<usize>) -> Result<()> {
        Ok(())
    }

    /// What to say of a page that is not to be had.
    fn lost(&self) -> Error {
        let unreadable = || Error::os("read", &self.path, io::Error::from_raw_os_error(libc::EIO));
        self.unchanged().err().unwrap_or_else(unreadable)
    }

    fn read<'a>(
        &self,
        file: &File,
        start: u64,
        length: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        if let Some(more) = length.checked_sub(buffer.len()) {
            let out_of_memory = |_| Error::from(Kind::OutOfMemory { needed: length as u64 });
            buffer.try_reserve_exact(more).map_err(out_of_memory)?;
            buffer.resize(length, 0);
        }
        let bytes = &mut buffer[..length];
        // Rides out interruptions and short reads.
        match file.read_exact_at(bytes, start) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.lost()),
            Err(error) => Err(Error::os("read", &self.path, error)),
        }
    }
}

/// A map of the file, watched for lost pages; nothing where it cannot be had, so that it is read instead.
#[allow(unsafe_code)]
fn map(file: &File, bytes: u64) -> Option<Content> {
    let length = usize::try_from(bytes).ok().filter(|&length| length > 0)?;
    // SAFETY: The map is private and read-only, and no reference into it is made here. Another process may write to the
    // file or cut it short while we hold slices of it. The first only changes numbers: no code decides about memory by a
    // byte of the map that it reads again. The second is a signal on access, which `LostPages` turns into zeros.
    let map = unsafe { MmapOptions::new().len(length).map(file) }.ok()?;
    let watched = Watched::new(map.as_ptr() as usize, length)?;
    Some(Content::Mapped { watched, map })
}

fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}
