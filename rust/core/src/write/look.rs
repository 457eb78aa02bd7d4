//! What stands under a name, and by what it is known again: type, size, identity, mounts. Links are not followed.

use std::ffi::OsStr;
use std::fs::File;

use rustix::fs::{AtFlags, FileType};
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};

/// What an entry is, links not followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) kind: FileType,
    pub(super) stamp: Stamp,
    /// Device of the file system it lies on.
    pub(super) device: u64,
    pub(super) bytes: u64,
    /// How many names it has.
    pub(super) names: u64,
    pub(super) mode: u32,
    /// Whether another file system, or another part of this one, is mounted there.
    pub(super) mounted: bool,
}

/// What tells a file or directory from any other of its file system, also after a rename.
///
/// No device number: those change when a machine starts again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    inode: u64,
    /// When it was made, in nanoseconds; 0 where the system does not say. A number used again has another time.
    born: i64,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        let unsaid = self.born == 0 || other.born == 0;
        self.inode == other.inode && (unsaid || self.born == other.born)
    }
}

/// Looks at an entry of a directory.
#[cfg(target_os = "linux")]
pub(super) fn look(at: &File, name: &OsStr, flags: AtFlags) -> rustix::io::Result<Look> {
    use rustix::fs::{StatxAttributes, StatxFlags, makedev, statx};
    let flags_here = flags | AtFlags::NO_AUTOMOUNT;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = match retry_on_intr(|| statx(at, name, flags_here, mask)) {
        Ok(stat) => stat,
        Err(Errno::NOSYS) => return look_plainly(at, name, flags),
        Err(errno) => return Err(errno),
    };
    let born = if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
        0
    } else {
        stat.stx_btime.tv_sec.saturating_mul(1_000_000_000) + i64::from(stat.stx_btime.tv_nsec)
    };
    Ok(Look {
        kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
        stamp: Stamp { inode: stat.stx_ino, born },
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        bytes: stat.stx_size,
        names: u64::from(stat.stx_nlink),
        mode: u32::from(stat.stx_mode),
        mounted: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// Looks at an entry of a directory.
#[cfg(not(target_os = "linux"))]
pub(super) fn look(at: &File, name: &OsStr, flags: AtFlags) -> rustix::io::Result<Look> {
    look_plainly(at, name, flags)
}

/// Without `statx`, a mount shows by its device number alone, which is compared where it matters.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn look_plainly(at: &File, name: &OsStr, flags: AtFlags) -> rustix::io::Result<Look> {
    let stat = retry_on_intr(|| rustix::fs::statat(at, name, flags))?;
    Ok(Look {
        kind: FileType::from_raw_mode(stat.st_mode),
        stamp: Stamp { inode: stat.st_ino as u64, born: 0 },
        device: stat.st_dev as u64,
        bytes: stat.st_size as u64,
        names: stat.st_nlink as u64,
        mode: stat.st_mode.into(),
        mounted: false,
    })
}
