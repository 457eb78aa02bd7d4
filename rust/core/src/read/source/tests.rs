//! Both ways give the same bytes; what is no file is refused; what shrinks is an error, never the end of the process.
#![allow(unsafe_code)]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::ptr;

use libc::c_int;
use proptest::prelude::*;

use super::*;

const BOTH: [Io; 2] = [Io::Map, Io::Read];

fn folder_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Reads a byte that the compiler cannot have read before.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "where it lies matters")]
fn touch(byte: &u8) -> u8 {
    // SAFETY: a reference is valid for reads.
    unsafe { ptr::read_volatile(byte) }
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn an_empty_file_has_no_bytes() {
    let (_folder, path) = folder_with(b"");
    for io in BOTH {
        let source = Source::open(&path, io).unwrap();
        assert_eq!(source.len(), 0);
        assert_eq!(source.bytes(0..0, &mut Vec::new()).unwrap(), b"");
        assert!(source.bytes(0..1, &mut Vec::new()).is_err());
        source.intact().unwrap();
        source.unchanged().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "maps files")]
    fn both_ways_give_the_bytes_of_the_file(
        bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        ranges in proptest::collection::vec((0u64..21_000, 0u64..21_000), 1..8),
    ) {
        let (_folder, path) = folder_with(&bytes);
        for io in BOTH {
            let source = Source::open(&path, io).unwrap();
            prop_assert_eq!(matches!(source.content, Content::Mapped { .. }), io == Io::Map && !bytes.is_empty());
            let mut buffer = Vec::new();
            for (start, end) in ranges.clone() {
                let expected = bytes.get(start as usize..end as usize);
                prop_assert_eq!(source.bytes(start..end, &mut buffer).ok(), expected);
            }
            source.intact().unwrap();
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn a_range_that_leads_out_is_refused() {
    let (_folder, path) = folder_with(&[1; 100]);
    for io in BOTH {
        let source = Source::open(&path, io).unwrap();
        #[allow(clippy::reversed_empty_ranges)]
        for range in [0..101, 101..101, 5..4, u64::MAX..u64::MAX, 0..u64::MAX] {
            let error = source.bytes(range, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("the file has 100"), "{error}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes a FIFO")]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for io in BOTH {
        let refused = |path: &Path| Source::open(path, io).unwrap_err().to_string();
        assert!(refused(&fifo).contains("it is a pipe, expected a regular file"));
        assert!(refused(folder.path()).contains("it is a directory"));
        assert!(refused(Path::new("/dev/zero")).contains("it is a device"));
        assert!(refused(&socket).contains("socket"));
        let absent = Source::open(&folder.path().join("absent"), io).unwrap_err();
        assert_eq!(absent.errno(), Some(libc::ENOENT));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn links_are_followed() {
    let (folder, path) = folder_with(b"weights");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let source = Source::open(&link, Io::Map).unwrap();
    assert_eq!(source.bytes(0..7, &mut Vec::new()).unwrap(), b"weights");
    assert_eq!(source.identity(), Source::open(&path, Io::Read).unwrap().identity());
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn what_changed_is_told() {
    for io in BOTH {
        let told = |change: &dyn Fn(&Path)| {
            let (_folder, path) = folder_with(&[1; 100]);
            let source = Source::open(&path, io).unwrap();
            source.unchanged().unwrap();
            change(&path);
            let error = source.unchanged().unwrap_err();
            assert!(matches!(*error.kind, Kind::Changed { .. }));
            assert_eq!(error.path.as_deref(), Some(path.as_path()));
            error.to_string()
        };
        assert!(told(&|path| cut(path, 7)).contains("it is 7 bytes, it was 100"));
        assert!(told(&|path| fs::remove_file(path).unwrap()).contains("no longer there"));
        let replace = |path: &Path| {
            fs::write(path.with_extension("new"), [1; 100]).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        };
        assert!(told(&replace).contains("another file"));
        let write = |path: &Path| {
            let mut file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(&[2; 100]).unwrap();
            file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9))
                .unwrap();
        };
        assert!(told(&write).contains("written to"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn a_file_cut_short_is_an_error_before_it_is_read() {
    let _armed = LostPages::arm();
    for io in BOTH {
        let (_folder, path) = folder_with(&vec![1; 100_000]);
        let source = Source::open(&path, io).unwrap();
        cut(&path, 5000);
        let mut buffer = Vec::new();
        let bytes =
            source.bytes(0..100_000, &mut buffer).map(|bytes| bytes.iter().map(touch).max());
        // An old kernel hands the bytes out, and tells after.
        let error = bytes.and_then(|_| source.intact()).unwrap_err();
        assert!(error.to_string().contains("it is 5000 bytes, it was 100000"), "{error}");
        assert_eq!(error.path.as_deref(), Some(path.as_path()));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn a_page_lost_under_the_map_is_told_and_reads_as_zeros() {
    let (_folder, path) = folder_with(&vec![7; 1 << 20]);
    let (_other_folder, other_path) = folder_with(&vec![7; 1 << 20]);
    let source = Source::open(&path, Io::Map).unwrap();
    let other = Source::open(&other_path, Io::Map).unwrap();
    let (_armed, _twice) = (LostPages::arm(), LostPages::arm());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let bytes = source.bytes(0..1 << 20, &mut first).unwrap();
    let others = other.bytes(0..1 << 20, &mut second).unwrap();
    assert_eq!(touch(&bytes[1 << 19]), 7);
    source.intact().unwrap();
    cut(&path, 10);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                assert!(
                    bytes
                        .iter()
                        .skip(thread * 1000 + (1 << 16))
                        .step_by(4096)
                        .all(|byte| touch(byte) == 0)
                );
            });
        }
    });
    assert_eq!(touch(&bytes[3]), 7);
    let error = source.intact().unwrap_err();
    assert!(error.to_string().contains("it is 10 bytes, it was 1048576"), "{error}");
    assert!(others.iter().all(|byte| touch(byte) == 7));
    other.intact().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn a_place_is_used_again() {
    let (_folder, path) = folder_with(&[7; 10]);
    for _ in 0..5000 {
        let source = Source::open(&path, Io::Map).unwrap();
        assert!(matches!(source.content, Content::Mapped { .. }));
        source.intact().unwrap();
    }
}

/// Runs one of the deeds below in a process of its own.
fn end_of(deed: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "read::source::tests::deed", "--ignored", "--test-threads=1"]);
    child.env("BRANCHMERGE_TEST_DEED", deed).output().unwrap().status
}

extern "C" fn leave(_: c_int) {
    // SAFETY: ends the process, async-signal-safe.
    unsafe { libc::_exit(42) };
}

#[test]
#[ignore = "ends the process; run by another test"]
fn deed() {
    let deed = std::env::var("BRANCHMERGE_TEST_DEED").unwrap_or_default();
    let set = |handler| {
        // SAFETY: a constant of the system, or a function of that signature.
        unsafe { libc::signal(libc::SIGBUS, handler) };
    };
    match deed.split(' ').next().unwrap() {
        "handler" => set(leave as extern "C" fn(c_int) as usize),
        "ignored" => set(libc::SIG_IGN),
        _ => set(libc::SIG_DFL),
    }
    let armed = LostPages::arm();
    let (_folder, path) = folder_with(&[7; 10_000]);
    if deed.ends_with("disarmed") {
        drop(armed);
    }
    if deed.contains("sent") {
        // SAFETY: sends this thread a signal.
        unsafe { libc::raise(libc::SIGBUS) };
    } else {
        // SAFETY: read-only, and the test is about what happens when it is cut short.
        let foreign = unsafe { Mmap::map(&File::open(&path).unwrap()) }.unwrap();
        cut(&path, 0);
        touch(&foreign[5000]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn a_foreign_signal_does_what_it_did_before() {
    for deed in [
        "default access",
        "default sent",
        "default access disarmed",
        "ignored access",
        "default sent disarmed",
    ] {
        assert_eq!(end_of(deed).signal(), Some(libc::SIGBUS), "{deed}");
    }
    for deed in ["handler access", "handler sent", "handler access disarmed"] {
        assert_eq!(end_of(deed).code(), Some(42), "{deed}");
    }
    assert!(end_of("ignored sent").success());
}
