//! The small files of a result: where their bytes come from, and what the manifest says of each file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::plan::layout::{INDEX, Layout};
use crate::read::tree_hash;
use crate::write::directory::Folder;
use crate::write::manifest::FileEntry;
use crate::write::{journal, manifest, system};

/// A small file of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Its name in the result; may stand in a folder (`additional_chat_templates/tool.jinja`).
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// Where a sidecar's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a regular file.
    Copy(PathBuf),
}

/// What the manifest says of every file of the result but itself. Of weight files the header is hashed, as their tensors
/// are hashed one by one.
///
/// # Errors
/// A source that cannot be read; a name that is taken, or is not one of a file inside the result.
pub fn file_entries<'m>(
    layout: &Layout,
    sidecars: &[Sidecar],
) -> Result<BTreeMap<Cow<'m, str>, FileEntry>> {
    let mut entries = BTreeMap::new();
    for file in &layout.files {
        let header = Some(tree_hash::hash(&file.header));
        let entry = FileEntry { bytes: file.bytes, blake3: None, header_blake3: header };
        entries.insert(file.name.clone().into(), entry);
    }
    for sidecar in with_index(sidecars, layout.index.as_deref()) {
        check_name(&sidecar.name)?;
        let mut sum = Sum::default();
        sidecar.read(|bytes| {
            sum.add(bytes);
            Ok(())
        })?;
        if entries.insert(sidecar.name.clone().into(), sum.entry()).is_some() {
            return Err(internal(format!("two files are named `{}`", sidecar.name)));
        }
    }
    Ok(entries)
}

/// The sidecars, and the index where it is not among them.
pub(super) fn with_index(sidecars: &[Sidecar], index: Option<&[u8]>) -> Vec<Sidecar> {
    let mut all = sidecars.to_vec();
    if let Some(index) = index
        && all.iter().all(|sidecar| sidecar.name != INDEX)
    {
        all.push(Sidecar { name: INDEX.into(), content: Content::Bytes(index.to_vec()) });
    }
    all
}

impl Sidecar {
    /// Writes it into a result, on the disk when this returns but for names; `expected` is its entry in the manifest.
    pub(super) fn write(&self, folder: &Folder, expected: Option<&FileEntry>) -> Result<()> {
        check_name(&self.name)?;
        let path = Path::new(&self.name);
        let name = path.file_name().unwrap_or_default();
        let inner = enter_parents(folder, path)?;
        let folder = inner.last().unwrap_or(folder);
        let file = folder.create_file(name)?;
        let mut sum = Sum::default();
        self.read(|bytes| {
            let written = system::write_at(&file, bytes, sum.bytes);
            sum.add(bytes);
            written.map_err(|error| folder.error("write", name, error))
        })?;
        system::sync_data(&file).map_err(|error| folder.error("sync", name, error))?;
        inner.iter().try_for_each(Folder::sync)?;
        match (&self.content, expected) {
            (_, Some(expected)) if *expected == sum.entry() => Ok(()),
            (Content::Copy(source), Some(_)) => {
                let what = "its bytes are not those that were hashed".into();
                Err(Error::from(Kind::Changed { what }).path(source))
            }
            _ => Err(internal(format!("the manifest does not have `{}` as it is", self.name))),
        }
    }

    /// Gives its bytes piece by piece.
    fn read(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 1 << 18;
        let source = match &self.content {
            Content::Bytes(bytes) => return take(bytes),
            Content::Copy(source) => source,
        };
        let failed = |doing| move |error| Error::os(doing, source, error);
        // Not blocking, so that a FIFO in the place of a file cannot hang the run.
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(source)
            .map_err(failed("open"))?;
        if !file.metadata().map_err(failed("look at"))?.is_file() {
            return Err(Error::malformed("it is not a regular file").path(source));
        }
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => take(&piece[..read])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read")(error)),
            }
        }
    }
}

/// Makes and opens the folders above a file, outermost first.
fn enter_parents(folder: &Folder, path: &Path) -> Result<Vec<Folder>> {
    let mut inner: Vec<Folder> = Vec::new();
    for component in path.parent().into_iter().flat_map(Path::components) {
        let above = inner.last().unwrap_or(folder);
        above.make(component.as_os_str())?;
        let next = above.folder(component.as_os_str())?;
        inner.push(next);
    }
    Ok(inner)
}

/// Refuses names that lead out of the result or are ours.
fn check_name(name: &str) -> Result<()> {
    let path = Path::new(name);
    let inside = path.components().all(|component| matches!(component, Component::Normal(_)))
        && path
            .components()
            .map(Component::as_os_str)
            .collect::<Vec<&OsStr>>()
            .join(OsStr::new("/"))
            == name;
    let ours = [journal::NAME, journal::NEW, manifest::NAME];
    if !name.is_empty() && inside && !name.contains('\0') && !ours.contains(&name) {
        return Ok(());
    }
    Err(internal(format!("`{}` cannot be the name of a small file", crate::error::shown(name))))
}

fn internal(what: String) -> Error {
    Kind::Internal { what }.into()
}

/// Size and hash of bytes that come in pieces.
#[derive(Default)]
struct Sum {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    fn entry(&self) -> FileEntry {
        let hash = Some(self.hasher.finalize().into());
        FileEntry { bytes: self.bytes, blake3: hash, header_blake3: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_or_are_ours_are_refused() {
        for name in
            ["", "/a", "../a", "a/../b", "./a", "a/", "a//b", "a\0", journal::NAME, manifest::NAME]
        {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "a/b.jinja", ".hidden", "a b"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_source_that_is_no_regular_file_is_refused_and_cannot_hang() {
        let room = crate::write::fixture::room();
        let path = room.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let layout = crate::write::fixture::layout();
        for path in [path.clone(), room.path().to_path_buf(), room.path().join("none")] {
            let sidecar = Sidecar { name: "x".into(), content: Content::Copy(path.clone()) };
            let error = file_entries(layout, &[sidecar]).unwrap_err();
            assert_eq!(error.path.as_deref(), Some(&*path));
        }
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let layout = crate::write::fixture::layout();
        let file = Sidecar { name: layout.files[0].name.clone(), content: Content::Bytes(vec![]) };
        assert!(file_entries(layout, &[file]).is_err());
    }
}
