//! Whether a result is still what its manifest says, byte for byte.
//!
//! Every byte of the directory is under some hash: the manifest under its seal, small files and the headers of weight
//! files each under theirs, and what follows a header under the hashes of its tensors, which must cover it without a
//! hole. So any flipped bit, and any file added, missing or resized, has a name. Links are not followed; nothing outside is read.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FileType;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::parallel::{Phase, Progress, Team};
use crate::read::tree_hash;
use crate::write::directory::Folder;
use crate::write::manifest::{self, Manifest, Unread};
use crate::write::survey::{Hashed, Survey, listing, not_verified, read_manifest};

/// How much is hashed at once: a whole subtree of BLAKE3.
const PART: u64 = 1 << 20;
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
    let only = |error: Error| {
        let problems = vec![error.path(&folder.at(name))];
        Ok(Verified { problems, tensors: 0, bytes: 0 })
    };
    let sealed = match read_manifest(&folder) {
        Ok(Some(read)) => read,
        Ok(None) => return only(not_verified("there is no manifest")),
        Err(error) => return only(error),
    };
    let manifest = match manifest::open(&sealed) {
        Ok(manifest) => manifest,
        Err(error) => return only(error),
    };
    let Survey { mut problems, strings, headers, .. } = Survey::of(&folder, &manifest)?;
    let tensors = strings.iter().filter(|string| string.tensor.is_some()).count() as u64;
    let bytes = strings.iter().map(|string| string.bytes).sum();
    progress.begin(Phase::Checking, bytes, tensors);
    problems.extend(hash_all(&strings, *team, progress)?);
    Ok(Verified { problems, tensors, bytes: bytes + headers + sealed.len() as u64 })
}

/// Whether a directory is a whole result of this recipe and these inputs: then its manifest, to be opened.
///
/// The recipe must be equal; of each input, the members that are given. Every file must be there with its size, and no
/// other; what they hold is for [`verify`] to say. A directory that is not there, or has no good manifest, is none.
///
/// # Errors
/// The system's word on what is there but cannot be looked at.
pub fn is_whole(directory: &Path, recipe: &Value, inputs: &Value) -> Result<Option<Vec<u8>>> {
    let folder = match Folder::open(directory) {
        Ok(folder) => folder,
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let sealed = match read_manifest(&folder) {
        Ok(Some(sealed)) => sealed,
        Err(error) if error.errno().is_some() => return Err(error),
        Ok(None) | Err(_) => return Ok(None),
    };
    let there = listing(&folder)?;
    let whole = manifest::open(&sealed).is_ok_and(|manifest| {
        is_of(&manifest, recipe, inputs)
            && there.len() == manifest.files.len() + 1
            && manifest.files.iter().all(|(name, entry)| {
                let look = there.get(OsStr::new(&**name));
                look.is_some_and(|look| {
                    look.kind == FileType::RegularFile && look.bytes == entry.bytes
                })
            })
    });
    Ok(whole.then_some(sealed))
}

/// Whether a manifest says that it is of this recipe and these inputs.
fn is_of(manifest: &Manifest<'_, Unread<'_>>, recipe: &Value, inputs: &Value) -> bool {
    let said = |said, what| manifest::value(said, what).unwrap_or_default();
    said(manifest.recipe, "the recipe") == *recipe
        && covers(&said(manifest.inputs, "the inputs"), inputs)
}

/// Whether a value has everything that another has: equal values, and at least its members.
fn covers(all: &Value, some: &Value) -> bool {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(key, value)| all.get(key).is_some_and(|found| covers(found, value)))
        }
        (Value::Array(all), Value::Array(some)) => {
            all.len() == some.len() && all.iter().zip(some).all(|(all, some)| covers(all, some))
        }
        _ => all == some,
    }
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

#[cfg(test)]
mod tests;
