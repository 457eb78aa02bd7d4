//! The system calls that change files, one function each, with what file systems lack or interrupt ridden out.
//!
//! All of writing goes through here, so that a test can end or fail a run at each call in turn (`trial`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

#[cfg(not(test))]
use passage::gate;
#[cfg(test)]
use trial::gate;

/// What a rename may do to what stands under the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    /// Nothing may stand there.
    Nothing,
    /// What POSIX says: a directory takes the place of nothing, or of an empty directory.
    Empty,
    /// The two change places.
    Exchange,
}

const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

pub(super) fn open_folder(at: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = retry_on_intr(|| rustix::fs::openat(at, name, flags, Mode::empty()))?;
    Ok(folder.into())
}

/// Opens a file for reading; a link is ELOOP, and a FIFO does not hang.
pub(super) fn open_file(at: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | FILE;
    Ok(retry_on_intr(|| rustix::fs::openat(at, name, flags, Mode::empty()))?.into())
}

/// Opens a file for reading and writing at offsets.
pub(super) fn reopen_file(at: &File, name: &OsStr) -> io::Result<File> {
    gate("open")?;
    let flags = OFlags::RDWR | FILE;
    Ok(retry_on_intr(|| rustix::fs::openat(at, name, flags, Mode::empty()))?.into())
}

/// Makes a file that was not there, with the mode that the umask leaves.
pub(super) fn create_file(at: &File, name: &OsStr) -> io::Result<File> {
    gate("create")?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE;
    let mode = Mode::from_raw_mode(0o666);
    Ok(retry_on_intr(|| rustix::fs::openat(at, name, flags, mode))?.into())
}

pub(super) fn make_folder(at: &File, name: &OsStr) -> io::Result<()> {
    gate("mkdir")?;
    let mode = Mode::from_raw_mode(0o777);
    Ok(retry_on_intr(|| rustix::fs::mkdirat(at, name, mode))?)
}

pub(super) fn unlink(at: &File, name: &OsStr) -> io::Result<()> {
    gate("unlink")?;
    Ok(retry_on_intr(|| rustix::fs::unlinkat(at, name, AtFlags::empty()))?)
}

pub(super) fn remove_folder(at: &File, name: &OsStr) -> io::Result<()> {
    gate("rmdir")?;
    Ok(retry_on_intr(|| rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR))?)
}

/// Renames; where the kernel or the file system knows no flags, `Nothing` and `Exchange` are [`lacks`] errors.
pub(super) fn rename(from: (&File, &OsStr), to: (&File, &OsStr), onto: Onto) -> io::Result<()> {
    gate(match onto {
        Onto::Nothing => "rename onto nothing",
        Onto::Empty => "rename",
        Onto::Exchange => "exchange",
    })?;
    let flags = match onto {
        Onto::Nothing => RenameFlags::NOREPLACE,
        Onto::Exchange => RenameFlags::EXCHANGE,
        Onto::Empty => {
            return Ok(retry_on_intr(|| rustix::fs::renameat(from.0, from.1, to.0, to.1))?);
        }
    };
    Ok(retry_on_intr(|| rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags))?)
}

/// Whether the system said that it does not know such a call here, rather than that it failed.
pub(super) fn lacks(error: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| unknown.contains(&errno))
}

/// Writes all bytes; short and interrupted writes are gone on with.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    trial::tear(file, bytes, offset);
    gate("write")?;
    file.write_all_at(bytes, offset)
}

pub(super) fn resize(file: &File, bytes: u64) -> io::Result<()> {
    gate("truncate")?;
    retry_on_intr(|| rustix::fs::ftruncate(file, bytes))?;
    Ok(())
}

/// Gives a file its size, with the room on the disk where the file system can reserve it.
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match reserve(file, bytes) {
        Err(error) if !lacks(&error) => return Err(error),
        _ => {}
    }
    if file.metadata()?.len() == bytes { Ok(()) } else { resize(file, bytes) }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    gate("allocate")?;
    let flags = rustix::fs::FallocateFlags::empty();
    Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, 0, bytes))?)
}

/// macOS reserves beyond the end only, and would reserve again what a resumed run has.
#[cfg(not(target_os = "linux"))]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    gate("allocate")?;
    if file.metadata()?.len() >= bytes {
        return Ok(());
    }
    let flags = rustix::fs::FallocateFlags::empty();
    Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, 0, bytes))?)
}

/// Waits until a file's bytes are on the disk.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    gate("sync")?;
    file.sync_data()
}

/// Waits until a folder's entries are on the disk, where the file system has such a call for folders.
pub(super) fn sync_folder(folder: &File) -> io::Result<()> {
    gate("sync")?;
    match folder.sync_all() {
        Err(error) if lacks(&error) => Ok(()),
        result => result,
    }
}

pub(super) fn set_mode(folder: &File, mode: u32) -> io::Result<()> {
    gate("chmod")?;
    let mode = Mode::from_bits_truncate(mode as rustix::fs::RawMode & 0o7777);
    Ok(retry_on_intr(|| rustix::fs::fchmod(folder, mode))?)
}

/// Takes the advisory lock of a folder, until the handle is closed or [`unlock`]ed: false where another has it.
///
/// Where the file system has no locks it is true: hashes are the proof, the lock a courtesy.
pub(super) fn lock(folder: &File) -> io::Result<bool> {
    gate("lock").or_else(|error| if lacks(&error) { Ok(()) } else { Err(error) })?;
    match retry_on_intr(|| rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) | Err(Errno::NOLCK | Errno::BADF) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) if lacks(&errno.into()) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the lock go, also where a forked child still holds the handle.
pub(super) fn unlock(folder: &File) {
    let _ = rustix::fs::flock(folder, FlockOperation::Unlock);
}

#[cfg(not(test))]
mod passage {
    /// Outside tests every call goes through.
    #[inline]
    #[allow(clippy::unnecessary_wraps)]
    pub(super) fn gate(_call: &'static str) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ends, fails or withholds a call, to try what a run leaves behind.
#[cfg(test)]
pub(super) mod trial {
    use super::{Errno, File, FileExt, io};
    use std::cell::RefCell;

    /// What befalls the calls of this thread.
    #[derive(Default)]
    pub(in crate::write) struct Trial {
        /// The call, counted from 0, at which the process is as good as killed: it and all after it do nothing.
        pub(in crate::write) kill_at: Option<usize>,
        /// The call that fails, once, and how.
        pub(in crate::write) fail_at: Option<(usize, Errno)>,
        /// Calls that the file system does not have.
        pub(in crate::write) lacking: &'static [&'static str],
        /// The calls so far.
        pub(in crate::write) calls: Vec<&'static str>,
    }

    thread_local!(static TRIAL: RefCell<Option<Trial>> = const { RefCell::new(None) });

    /// Runs `work` under a trial; returns what it returned and the calls it made.
    pub(in crate::write) fn under<T>(
        trial: Trial,
        work: impl FnOnce() -> T,
    ) -> (T, Vec<&'static str>) {
        TRIAL.set(Some(trial));
        let result = work();
        let trial = TRIAL.take().expect("set above");
        (result, trial.calls)
    }

    pub(super) fn gate(call: &'static str) -> io::Result<()> {
        TRIAL.with_borrow_mut(|trial| {
            let Some(trial) = trial else { return Ok(()) };
            let number = trial.calls.len();
            trial.calls.push(call);
            if trial.lacking.contains(&call) {
                return Err(Errno::INVAL.into());
            }
            match trial.fail_at {
                Some((at, errno)) if at == number => return Err(errno.into()),
                _ => {}
            }
            match trial.kill_at {
                Some(at) if at <= number => Err(io::Error::other("killed")),
                _ => Ok(()),
            }
        })
    }

    /// A write that is the last thing of a killed process gets half its bytes out.
    pub(super) fn tear(file: &File, bytes: &[u8], offset: u64) {
        let last = TRIAL.with_borrow(|trial| {
            trial.as_ref().is_some_and(|trial| trial.kill_at == Some(trial.calls.len()))
        });
        if last {
            file.write_all_at(&bytes[..bytes.len() / 2], offset).unwrap();
        }
    }
}
