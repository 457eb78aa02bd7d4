//! What a result has and what its manifest says of it, compared before anything is hashed: names, sizes, headers.
//!
//! The manifest may be anyone's: no name leads out of the directory, and nothing is hashed that does not lie in its file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::error::{Error, Kind, Result, shown};
use crate::read::header::{self, LONGEST_HEADER};
use crate::read::tree_hash::{self, Hash};
use crate::write::directory::Folder;
use crate::write::look::Look;
use crate::write::manifest::{self, FileEntry, Manifest, TensorEntry, Unread};

/// How deep folders of a result may lie in each other.
const DEEPEST: usize = 8;

/// The manifest's bytes, to be opened.
pub(super) fn read_manifest(folder: &Folder) -> Result<Option<Vec<u8>>> {
    let name = OsStr::new(manifest::NAME);
    let Some(file) = folder.open_file(name)? else { return Ok(None) };
    let bytes = read_all(&file, manifest::LARGEST);
    bytes.map(Some).map_err(|error| folder.error("read", name, error))
}

fn read_all(file: &File, largest: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > largest {
        let what = format!("it is {length} bytes, expected at most {largest}");
        return Err(io::Error::other(what));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(io::Error::other)?;
    bytes.resize(length as usize, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Every entry below a directory that is not itself a folder of files, by its path from there.
///
/// An empty folder is an entry too: nothing in a result is empty.
pub(super) fn listing(folder: &Folder) -> Result<BTreeMap<OsString, Look>> {
    fn add(
        folder: &Folder,
        above: &Path,
        deep: usize,
        found: &mut BTreeMap<OsString, Look>,
    ) -> Result<()> {
        for name in folder.names()? {
            let Some(look) = folder.look(&name)? else { continue };
            let path = above.join(&name);
            let before = found.len();
            if look.kind == FileType::Directory && !look.mounted && deep < DEEPEST {
                add(&folder.folder(&name)?, &path, deep + 1, found)?;
                if found.len() > before {
                    continue;
                }
            }
            found.insert(path.into_os_string(), look);
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    add(folder, Path::new(""), 0, &mut found)?;
    Ok(found)
}

/// A manifest that was read.
type Said<'m> = Manifest<'m, Unread<'m>>;
/// What a manifest says of the tensors of one file.
type Tensors<'a> = Vec<(&'a str, &'a TensorEntry<'a>)>;

/// Bytes of a file with the hash that they should have.
pub(super) struct Hashed<'a> {
    pub(super) file: Arc<File>,
    pub(super) path: Arc<Path>,
    pub(super) tensor: Option<&'a str>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) hash: Hash,
}

/// What is compared before anything is hashed: names, sizes, headers.
pub(super) struct Survey<'a> {
    folder: &'a Folder,
    pub(super) problems: Vec<Error>,
    /// What is to be hashed.
    pub(super) strings: Vec<Hashed<'a>>,
    /// Bytes of headers, which are hashed already.
    pub(super) headers: u64,
}

impl<'a> Survey<'a> {
    /// Compares a result with its manifest.
    pub(super) fn of(folder: &'a Folder, manifest: &'a Said<'_>) -> Result<Self> {
        let mut survey = Self { folder, problems: Vec::new(), strings: Vec::new(), headers: 0 };
        survey.files(manifest)?;
        Ok(survey)
    }

    fn files(&mut self, manifest: &'a Said<'_>) -> Result<()> {
        let mut there = listing(self.folder)?;
        there.remove(OsStr::new(manifest::NAME));
        let mut tensors: BTreeMap<&str, Tensors<'_>> = BTreeMap::new();
        for (name, entry) in &manifest.tensors {
            if manifest.files.contains_key(&entry.file) {
                tensors.entry(&entry.file).or_default().push((name, entry));
            } else {
                let what = format!("its file `{}` is not in the manifest", shown(&entry.file));
                self.problems.push(not_verified(what).tensor(&**name));
            }
        }
        for (name, entry) in &manifest.files {
            let look = there.remove(OsStr::new(&**name));
            let inside = tensors.remove(&**name).unwrap_or_default();
            if let Err(error) = self.file(name, entry, look, &inside) {
                self.problems.push(error.path(&self.folder.at(OsStr::new(&**name))));
            }
        }
        for added in there.keys() {
            let added = not_verified("it is not in the manifest: it was added")
                .path(&self.folder.at(added));
            self.problems.push(added);
        }
        Ok(())
    }

    fn file(
        &mut self,
        name: &str,
        entry: &FileEntry,
        look: Option<Look>,
        tensors: &Tensors<'a>,
    ) -> Result<()> {
        let look = look.ok_or_else(|| not_verified("it is missing"))?;
        if look.kind != FileType::RegularFile {
            return Err(not_verified("it is not a regular file"));
        }
        let expected = entry.bytes;
        let file = open_below(self.folder, Path::new(name))?;
        let path: Arc<Path> = self.folder.at(OsStr::new(name)).into();
        let found = file.metadata().map_err(|error| Error::os("look at", &path, error))?.len();
        if found != expected {
            return Err(not_verified(format!("it is {found} bytes, expected {expected}")));
        }
        let file = Arc::new(file);
        match (entry.blake3, entry.header_blake3) {
            (Some(hash), None) => {
                let (offset, bytes) = (0, found);
                self.strings.push(Hashed { file, path, tensor: None, offset, bytes, hash });
                Ok(())
            }
            (None, Some(hash)) => self.weights(&file, &path, found, hash, tensors),
            _ => Err(not_verified("the manifest does not tell its one hash")),
        }
    }

    /// A weight file: its header at once, its tensors later, all of it covered.
    fn weights(
        &mut self,
        file: &Arc<File>,
        path: &Arc<Path>,
        length: u64,
        hash: Hash,
        tensors: &Tensors<'a>,
    ) -> Result<()> {
        let header = read_header(file, path, length)?;
        if tree_hash::hash(&header) != hash {
            return Err(not_verified("its header is not what was written"));
        }
        // The tensors of a header cover what follows it, each byte once: so do those of the manifest, if they are the same.
        let mut unsaid = header::parse(&header, length, 0)?;
        for &(name, entry) in tensors {
            let stored = unsaid.remove(name).filter(|stored| {
                stored.dtype.name() == entry.dtype && *stored.shape == *entry.shape
            });
            let Some(stored) = stored else {
                let what = "the manifest and the file's header say different things of it";
                self.problems.push(not_verified(what).tensor(name).path(path));
                continue;
            };
            let (file, path, hash) = (file.clone(), path.clone(), entry.blake3);
            let (offset, bytes) = (stored.range.start, stored.range.end - stored.range.start);
            self.strings.push(Hashed { file, path, tensor: Some(name), offset, bytes, hash });
        }
        for name in unsaid.into_keys() {
            let what = "the manifest does not cover it with a hash";
            self.problems.push(not_verified(what).tensor(name).path(path));
        }
        self.headers += header.len() as u64;
        Ok(())
    }
}

/// Opens a file below a directory, no link followed on the way.
fn open_below(folder: &Folder, path: &Path) -> Result<File> {
    let mut inner: Option<Folder> = None;
    for component in path.parent().into_iter().flat_map(Path::components) {
        inner = Some(inner.as_ref().unwrap_or(folder).folder(component.as_os_str())?);
    }
    let file = inner.as_ref().unwrap_or(folder).open_file(path.file_name().unwrap_or_default())?;
    file.ok_or_else(|| not_verified("it is missing"))
}

/// The eight bytes of length and the JSON.
fn read_header(file: &File, path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut prefix = [0; 8];
    let failed = |error| Error::os("read", path, error);
    if length < 8 {
        return Err(not_verified("it is too short for a header"));
    }
    file.read_exact_at(&mut prefix, 0).map_err(failed)?;
    let json = u64::from_le_bytes(prefix);
    if json > LONGEST_HEADER || json > length - 8 {
        return Err(not_verified("its header is longer than it may be"));
    }
    let mut header = vec![0; 8 + json as usize];
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    Ok(header)
}

pub(super) fn not_verified(what: impl Into<String>) -> Error {
    Kind::NotVerified { what: what.into() }.into()
}
