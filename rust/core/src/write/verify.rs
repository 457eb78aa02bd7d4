//! Whether a result is still what its manifest says, byte for byte.
//!
//! Every byte of the directory is under some hash: the manifest under its seal, small files and the headers of weight
//! files each under theirs, and what follows a header under the hashes of its tensors, which must cover it without a
//! hole. So any flipped bit, and any file added, missing or resized, has a name. Links are not followed; nothing outside is read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_json::Value;

use crate::error::{Error, Kind, Result, shown};
use crate::parallel::{Phase, Progress, Team};
use crate::read::{json, tree_hash};
use crate::write::directory::{Folder, Look};
use crate::write::manifest;

/// How much is hashed at once: a whole subtree of BLAKE3.
const PART: u64 = 1 << 20;
/// The longest header of a weight file.
const LONGEST_HEADER: u64 = 100_000_000;
/// How deep folders of a result may lie in each other.
const DEEPEST: usize = 8;

/// What [`verify`] found.
#[derive(Debug)]
pub struct Verified {
    /// Everything that is not as the manifest says; none where all is well.
    pub problems: Vec<Error>,
    /// Tensors that were hashed.
    pub tensors: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
}

/// Compares a result with its manifest.
///
/// # Errors
/// Where the directory cannot be opened or listed, and [`Kind::Cancelled`]. All else is among the problems.
pub fn verify(directory: &Path, team: &Team, progress: &Progress) -> Result<Verified> {
    let folder = Folder::open(directory)?;
    let name = OsStr::new(manifest::NAME);
    let (body, manifest_bytes) = match read_manifest(&folder) {
        Ok(Some(read)) => read,
        Ok(None) => {
            let missing = not_verified("there is no manifest").path(&folder.at(name));
            return Ok(Verified { problems: vec![missing], tensors: 0, bytes: 0 });
        }
        Err(error) => {
            let problems = vec![error.path(&folder.at(name))];
            return Ok(Verified { problems, tensors: 0, bytes: 0 });
        }
    };
    let mut survey = Survey { folder: &folder, problems: Vec::new(), strings: Vec::new() };
    survey.files(&body)?;
    let Survey { mut problems, strings, .. } = survey;
    let tensors = strings.iter().filter(|string| string.tensor.is_some()).count() as u64;
    progress.begin(Phase::Checking, strings.iter().map(|string| string.bytes).sum(), tensors);
    problems.extend(hash_all(&strings, *team, progress)?);
    let hashed: u64 = strings.iter().map(|string| string.bytes).sum();
    Ok(Verified { problems, tensors, bytes: hashed + manifest_bytes })
}

/// Whether a directory is a whole result of this recipe and these inputs: then its manifest's body.
///
/// The recipe must be equal; of each input, the members that are given. Every file must be there with its size, and no
/// other; what they hold is for [`verify`] to say. A directory that is not there, or has no good manifest, is none.
///
/// # Errors
/// The system's word on what is there but cannot be looked at.
pub fn is_whole(directory: &Path, recipe: &Value, inputs: &Value) -> Result<Option<Value>> {
    let folder = match Folder::open(directory) {
        Ok(folder) => folder,
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let body = match read_manifest(&folder) {
        Ok(Some((body, _))) => body,
        Ok(None) => return Ok(None),
        Err(error) if error.errno().is_some() => return Err(error),
        Err(_) => return Ok(None),
    };
    if body.get("recipe") != Some(recipe) || !body.get("inputs").is_some_and(|all| covers(all, inputs)) {
        return Ok(None);
    }
    let there = listing(&folder)?;
    let expected = members(&body, "files");
    let whole = there.len() == expected.len() + 1
        && expected.iter().all(|(name, entry)| {
            let look = there.get(OsStr::new(name));
            look.is_some_and(|look| {
                look.kind == FileType::RegularFile && Some(look.bytes) == number(entry, "bytes")
            })
        });
    Ok(whole.then_some(body))
}

/// Whether a value has everything that another has: equal values, and at least its members.
fn covers(all: &Value, some: &Value) -> bool {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => some
            .iter()
            .all(|(key, value)| all.get(key).is_some_and(|found| covers(found, value))),
        (Value::Array(all), Value::Array(some)) => {
            all.len() == some.len() && all.iter().zip(some).all(|(all, some)| covers(all, some))
        }
        _ => all == some,
    }
}

/// The manifest's body and size.
fn read_manifest(folder: &Folder) -> Result<Option<(Value, u64)>> {
    let name = OsStr::new(manifest::NAME);
    let Some(file) = folder.open_file(name)? else { return Ok(None) };
    let bytes = read_all(&file, manifest::LARGEST).map_err(|error| folder.error("read", name, error))?;
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
fn listing(folder: &Folder) -> Result<BTreeMap<OsString, Look>> {
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
struct Hashed<'a> {
    file: std::sync::Arc<File>,
    path: PathBuf,
    tensor: Option<&'a str>,
    offset: u64,
    bytes: u64,
    hash: &'a str,
}

/// What is compared before anything is hashed: names, sizes, headers.
struct Survey<'a> {
    folder: &'a Folder,
    problems: Vec<Error>,
    strings: Vec<Hashed<'a>>,
}

impl<'a> Survey<'a> {
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
            let added = not_verified("it is not in the manifest: it was added").path(&self.folder.at(added));
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
        let file = std::sync::Arc::new(file);
        match (entry.get("blake3"), entry.get("header_blake3")) {
            (Some(Value::String(hash)), None) => {
                self.strings.push(Hashed { file, path, tensor: None, offset: 0, bytes: found, hash });
                Ok(())
            }
            (None, Some(Value::String(hash))) => self.weights(&file, &path, found, hash, tensors),
            _ => Err(unsaid("hash")),
        }
    }

    /// A weight file: its header at once, its tensors later, all of it covered.
    fn weights(
        &mut self,
        file: &std::sync::Arc<File>,
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
        let mut ranges = Vec::new();
        for (&name, &entry) in tensors {
            let range = json.get(name).and_then(|said| range_of(said, entry, data));
            let Some((start, end)) = range else {
                let differs = not_verified("the manifest and the file's header say different things of it");
                self.problems.push(differs.tensor(name).path(path));
                continue;
            };
            let (offset, bytes, hash) = (start, end - start, text(entry, "blake3"));
            ranges.push((start, end));
            let (file, path, tensor) = (file.clone(), path.to_path_buf(), Some(name));
            self.strings.push(Hashed { file, path, tensor, offset, bytes, hash });
        }
        ranges.sort_unstable();
        let mut covered = data;
        for (start, end) in ranges {
            if start != covered {
                break;
            }
            covered = end;
        }
        if covered == length { Ok(()) } else { Err(not_verified("its tensors do not cover it")) }
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

/// Where a tensor lies in its file, if its header and the manifest agree on it.
fn range_of(said: &Value, entry: &Value, data: u64) -> Option<(u64, u64)> {
    let same = ["dtype", "shape"].iter().all(|key| said.get(key).is_some_and(|said| Some(said) == entry.get(key)));
    let [start, end] = said.get("data_offsets")?.as_array()?.as_slice() else { return None };
    let start = start.as_u64()?.checked_add(data)?;
    let end = end.as_u64()?.checked_add(data)?;
    (same && start <= end).then_some((start, end))
}

/// Hashes everything in parts, on all workers, and tells what is not as expected.
fn hash_all(strings: &[Hashed<'_>], team: Team, progress: &Progress) -> Result<Vec<Error>> {
    let parts: Vec<(usize, u64)> = strings
        .iter()
        .enumerate()
        .flat_map(|(string, hashed)| {
            (0..hashed.bytes.div_ceil(PART).max(1)).map(move |part| (string, part))
        })
        .collect();
    let hashed = team.run(parts.len(), |index| {
        progress.check()?;
        let (string, part) = parts[index];
        let string = &strings[string];
        let start = part * PART;
        let length = PART.min(string.bytes - start);
        let result = hash_part(string, start, length as usize);
        progress.add_bytes(length);
        if string.tensor.is_some() && start + length == string.bytes {
            progress.add_tensor();
        }
        Ok(result)
    })?;
    let mut hashed = hashed.into_iter();
    let mut problems = Vec::new();
    for string in strings {
        let count = string.bytes.div_ceil(PART).max(1) as usize;
        let parts: io::Result<Vec<tree_hash::Part>> = hashed.by_ref().take(count).collect();
        let problem = match parts {
            Ok(parts) if tree_hash::join(&parts) == string.hash => continue,
            Ok(_) => not_verified("its bytes are not what was written"),
            Err(error) => Error::os("read", &string.path, error),
        };
        let problem = problem.path(&string.path);
        problems.push(match string.tensor {
            Some(tensor) => problem.tensor(tensor),
            None => problem,
        });
    }
    Ok(problems)
}

fn hash_part(string: &Hashed<'_>, start: u64, length: usize) -> io::Result<tree_hash::Part> {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PART as usize, 0);
        let bytes = &mut buffer[..length];
        string.file.read_exact_at(bytes, string.offset + start)?;
        Ok(tree_hash::part(bytes, start, string.bytes))
    })
}

fn members<'a>(body: &'a Value, key: &str) -> BTreeMap<&'a str, &'a Value> {
    let members = body.get(key).and_then(Value::as_object);
    members.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

fn number(entry: &Value, key: &str) -> Option<u64> {
    entry.get(key).and_then(Value::as_u64)
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn unsaid(what: &str) -> Error {
    not_verified(format!("the manifest does not tell its {what}"))
}

fn not_verified(what: impl Into<String>) -> Error {
    Kind::NotVerified { what: what.into() }.into()
}
