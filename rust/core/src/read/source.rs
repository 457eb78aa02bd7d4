//! The bytes of one file of an input: mapped, or read at positions.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How files are read. The bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// Mapped into memory: the fastest on local disks.
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

/// A regular file, open for reading.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    identity: Identity,
}

impl Source {
    /// Opens a regular file; links are followed.
    pub fn open(path: &Path, io: Io) -> Result<Self> {
        let _ = (path, io);
        Err(Error::malformed("being written"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.identity.bytes
    }

    /// What it was when it was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The bytes of a range: of the map, or read into `buffer`.
    pub fn bytes<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let _ = (range, buffer);
        Err(Error::malformed("being written"))
    }

    /// Whether all bytes handed out so far were the file's: an error once a page was lost under the map.
    pub fn intact(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the file, and what stands at its path, is still what was opened.
    pub fn unchanged(&self) -> Result<()> {
        Ok(())
    }
}
