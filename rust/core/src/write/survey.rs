//! What a result has and what its manifest says of it, compared before anything is hashed: names, sizes, headers.
//!
//! The manifest may be anyone's: no name leads out of the directory, and nothing is hashed that does not lie in its file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use serde_json::Value;

use crate::error::{Error, Kind, Result, shown};
use crate::read::{json, tree_hash};
use crate::write::directory::Folder;
use crate::write::look::Look;
use crate::write::manifest;

/// The longest header of a weight file.
const LONGEST_HEADER: u64 = 100_000_000;
/// How deep folders of a result may lie in each other.
const DEEPEST: usize = 8;

/// The manifest's body and size.
pub(super) fn read_manifest(folder: &Folder) -> Result<Option<(Value, u64)>> {
    let name = OsStr::new(manifest::NAME);
    let Some(file) = folder.open_file(name)? else { return Ok(None) };
    let bytes =
        read_all(&file, manifest::LARGEST).map_err(|error| folder.error("read", name, error))?;
    Ok(Some((manifest::open(&bytes)?, bytes.len() as u64)))
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

/// Bytes of a file with the hash that they should have.
pub(super) struct Hashed<'a> {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) tensor: Option<&'a str>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) hash: &'a str,
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
    /// Compares a result with its manifest's body.
    pub(super) fn of(folder: &'a Folder, body: &'a Value) -> Result<Self> {
        let mut survey = Self { folder, problems: Vec::new(), strings: Vec::new(), headers: 0 };
        survey.files(body)?;
        Ok(survey)
    }

    fn files(&mut self, body: &'a Value) -> Result<()> {
        let mut there = listing(self.folder)?;
        there.remove(OsStr::new(manifest::NAME));
        let mut tensors: BTreeMap<&str, BTreeMap<&str, &Value>> = BTreeMap::new();
        let files = members(body, "files");
        for (name, entry) in members(body, "tensors") {
            let file = text(entry, "file");
            if files.contains_key(file) {
                tensors.entry(file).or_default().insert(name, entry);
            } else {
                let what = format!("its file `{}` is not in the manifest", shown(file));
                self.problems.push(not_verified(what).tensor(name));
            }
        }
        for (name, entry) in files {
            let look = there.remove(OsStr::new(name));
            let inside = tensors.remove(name).unwrap_or_default();
            if let Err(error) = self.file(name, entry, look, &inside) {
                self.problems.push(error.path(&self.folder.at(OsStr::new(name))));
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
        name: &'a str,
        entry: &'a Value,
        look: Option<Look>,
        tensors: &BTreeMap<&'a str, &'a Value>,
    ) -> Result<()> {
        let look = look.ok_or_else(|| not_verified("it is missing"))?;
        if look.kind != FileType::RegularFile {
            return Err(not_verified("it is not a regular file"));
        }
        let expected = number(entry, "bytes").ok_or_else(|| unsaid("bytes"))?;
        let file = open_below(self.folder, Path::new(name))?;
        let path = self.folder.at(OsStr::new(name));
        let found = file.metadata().map_err(|error| Error::os("look at", &path, error))?.len();
        if found != expected {
            return Err(not_verified(format!("it is {found} bytes, expected {expected}")));
        }
        let file = Arc::new(file);
        match (entry.get("blake3"), entry.get("header_blake3")) {
            (Some(Value::String(hash)), None) => {
                self.strings.push(Hashed {
                    file,
                    path,
                    tensor: None,
                    offset: 0,
                    bytes: found,
                    hash,
                });
                Ok(())
            }
            (None, Some(Value::String(hash))) => self.weights(&file, &path, found, hash, tensors),
            _ => Err(unsaid("hash")),
        }
    }

    /// A weight file: its header at once, its tensors later, all of it covered.
    fn weights(
        &mut self,
        file: &Arc<File>,
        path: &Path,
        length: u64,
        hash: &str,
        tensors: &BTreeMap<&'a str, &'a Value>,
    ) -> Result<()> {
        let header = read_header(file, path, length)?;
        if tree_hash::hash(&header) != hash {
            return Err(not_verified("its header is not what was written"));
        }
        let json = json::parse(&header[8..], "the header", LONGEST_HEADER)?;
        let data = header.len() as u64;
        let mut strings = Vec::new();
        for (&name, &entry) in tensors {
            let said = json.get(name).and_then(|said| range_of(said, entry, data, length));
            let Some((offset, bytes)) = said else {
                let what = "the manifest and the file's header say different things of it";
                self.problems.push(not_verified(what).tensor(name).path(path));
                continue;
            };
            let (file, path, hash) = (file.clone(), path.to_path_buf(), text(entry, "blake3"));
            strings.push(Hashed { file, path, tensor: Some(name), offset, bytes, hash });
        }
        // Each byte is under one hash; so it is read once, whatever a manifest claims.
        strings.sort_by_key(|string| (string.offset, string.bytes));
        let end = strings.iter().try_fold(data, |end, string| {
            (string.offset == end).then(|| string.offset + string.bytes)
        });
        if end != Some(length) {
            return Err(not_verified("its tensors do not cover it, each byte once"));
        }
        self.headers += data;
        self.strings.append(&mut strings);
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

/// Offset and size of a tensor in its file, if its header and the manifest agree on it.
fn range_of(said: &Value, entry: &Value, data: u64, length: u64) -> Option<(u64, u64)> {
    let agree = |key: &str| said.get(key).is_some_and(|said| Some(said) == entry.get(key));
    let [start, end] = said.get("data_offsets")?.as_array()?.as_slice() else { return None };
    let start = start.as_u64()?.checked_add(data)?;
    let end = end.as_u64()?.checked_add(data)?;
    (agree("dtype") && agree("shape") && start <= end && end <= length)
        .then(|| (start, end - start))
}

pub(super) fn members<'a>(body: &'a Value, key: &str) -> BTreeMap<&'a str, &'a Value> {
    let members = body.get(key).and_then(Value::as_object);
    members.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

pub(super) fn number(entry: &Value, key: &str) -> Option<u64> {
    entry.get(key).and_then(Value::as_u64)
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn unsaid(what: &str) -> Error {
    not_verified(format!("the manifest does not tell its {what}"))
}

pub(super) fn not_verified(what: impl Into<String>) -> Error {
    Kind::NotVerified { what: what.into() }.into()
}
