//! A checkpoint: a directory of safetensors files (or one file) and the small files beside them.

pub mod index;
mod small;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, shown};
use crate::read::dtype::Dtype;
use crate::read::header::{Stored, read_header};
use crate::read::source::{Io, Lent, Source};

pub use small::{CONFIG_CAP, LARGEST_SMALL};

/// The name of the only weight file.
const SINGLE: &str = "model.safetensors";
/// The name of the index of several.
const INDEX: &str = "model.safetensors.index.json";
/// The name of an adapter's weights, which are no model.
const ADAPTER: &str = "adapter_model.safetensors";

/// So many problems of one checkpoint are told, the rest is counted.
const MOST_PROBLEMS: usize = 1000;

/// A checkpoint whose headers are read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    /// What it is called: the last component of its real path.
    pub label: String,
    /// Where its small files are.
    pub directory: PathBuf,
    /// Its weight files.
    pub files: Vec<Source>,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Stored>,
    /// Those that only say how others are stored, where a plan has put them aside.
    pub aside: BTreeMap<String, Stored>,
    /// Whether it is one file that was named itself, whose neighbours are none of its own.
    bare: bool,
}

impl Checkpoint {
    /// Opens a directory (`model.safetensors`, or shards with an index, or any safetensors files), or a single file.
    ///
    /// # Errors
    /// All that is wrong with its files at once; [`Kind::NoCheckpoint`] where there is none.
    pub fn open(path: &Path, io: Io) -> Result<Self> {
        let real = fs::canonicalize(path).map_err(|error| absent(path, error))?;
        let look = fs::metadata(&real).map_err(|error| Error::os("look at", path, error))?;
        let (directory, names, expected) = if look.is_dir() {
            let (names, expected) = weight_files(&real)?;
            (real.clone(), names, expected)
        } else {
            single(path, &real)?
        };
        // A link into a cache of blobs: what the user named is what it is called.
        let named = if look.is_dir() { &real } else { path };
        let label =
            named.file_name().map_or("root".into(), |name| name.to_string_lossy().into_owned());
        let (files, tensors) = read_all(&directory, &names, expected.as_ref(), io)?;
        let (aside, bare) = (BTreeMap::new(), !look.is_dir());
        Ok(Self { label, directory, files, tensors, aside, bare })
    }

    /// Opens the directory of an adapter.
    ///
    /// # Errors
    /// All that is wrong with it at once; [`Kind::NoCheckpoint`] where there is none.
    pub fn open_adapter(path: &Path, io: Io) -> Result<Self> {
        let directory = fs::canonicalize(path).map_err(|error| absent(path, error))?;
        let listing = small::names(&directory)?;
        if !listing.iter().any(|name| name == ADAPTER) {
            let hint = if listing.iter().any(|name| name.ends_with(".bin")) {
                "it holds pickled weights: load it with peft and save it with `safe_serialization=True`"
            } else {
                "an adapter is `adapter_model.safetensors` with `adapter_config.json`"
            };
            return Err(Error::from(Kind::NoCheckpoint { hint: hint.into() }).path(path));
        }
        let label = directory.file_name().map(|name| name.to_string_lossy().into_owned());
        let (files, tensors) = read_all(&directory, &[ADAPTER.into()], None, io)?;
        let label = label.unwrap_or_else(|| "root".into());
        Ok(Self { label, directory, files, tensors, aside: BTreeMap::new(), bare: false })
    }

    /// Tensors that a host lends, each with its name, dtype, shape and bytes.
    ///
    /// # Errors
    /// All whose bytes are not as many as dtype and shape say.
    pub fn lent(label: &str, lent: Vec<(String, Dtype, Vec<u64>, Lent)>) -> Result<Self> {
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        let mut problems = Problems::default();
        for (name, dtype, shape, bytes) in lent {
            let source = Source::lent(bytes);
            let elements = shape.iter().try_fold(1u64, |all, &size| all.checked_mul(size));
            let expected = elements.and_then(|elements| dtype.bytes_for(elements));
            if expected != Some(source.len()) {
                let found = format!("{} bytes", source.len());
                let what = format!(
                    "it has {found}, dtype {} and shape {shape:?} say otherwise",
                    dtype.name()
                );
                problems.push(Error::malformed(what).tensor(name));
                continue;
            }
            let stored = Stored { dtype, shape, file: files.len(), range: 0..source.len() };
            files.push(source);
            tensors.insert(name, stored);
        }
        problems.none(Path::new(label))?;
        let (label, directory, aside) = (label.into(), PathBuf::new(), BTreeMap::new());
        Ok(Self { label, directory, files, tensors, aside, bare: true })
    }

    /// A tensor, put aside or not.
    ///
    /// # Panics
    /// There is none of that name: a plan names only what it has seen.
    #[must_use]
    pub fn stored(&self, name: &str) -> &Stored {
        self.tensors.get(name).unwrap_or_else(|| &self.aside[name])
    }

    /// All tensors by name, those that were put aside last.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Stored)> {
        self.tensors.iter().chain(&self.aside)
    }

    /// That no weight file has changed since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(Source::unchanged)
    }
}

/// Opens all weight files and reads their headers.
fn read_all(
    directory: &Path,
    names: &[String],
    expected: Option<&index::Index>,
    io: Io,
) -> Result<(Vec<Source>, BTreeMap<String, Stored>)> {
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
    let mut problems = Problems::default();
    for (number, name) in names.iter().enumerate() {
        let opened = Source::open(&directory.join(name), io);
        match opened.and_then(|source| Ok((read_header(&source, number)?, source))) {
            Ok((found, source)) => {
                files.push(source);
                join(&mut tensors, found, names, &mut problems);
            }
            Err(error) => problems.push(error),
        }
    }
    if let (Some(expected), true) = (expected, problems.told.is_empty()) {
        index::disagreements(expected, &tensors, names).for_each(|problem| problems.push(problem));
    }
    problems.none(directory).map(|()| (files, tensors))
}

/// Adds the tensors of one file; a name may be in one only.
fn join(
    tensors: &mut BTreeMap<String, Stored>,
    found: BTreeMap<String, Stored>,
    names: &[String],
    problems: &mut Problems,
) {
    // Most checkpoints are one file: its table is not copied.
    if tensors.is_empty() {
        *tensors = found;
        return;
    }
    for (tensor, stored) in found {
        if let Some(other) = tensors.get(&tensor) {
            let (first, second) = (&names[other.file], &names[stored.file]);
            let what = format!("the tensor is in `{}` and in `{}`", shown(first), shown(second));
            problems.push(Error::malformed(what).tensor(tensor));
        } else {
            tensors.insert(tensor, stored);
        }
    }
}

/// What is wrong so far: a hostile index must not become a million errors.
#[derive(Default)]
struct Problems {
    told: Vec<Error>,
    more: usize,
}

impl Problems {
    fn push(&mut self, problem: Error) {
        if self.told.len() < MOST_PROBLEMS {
            self.told.push(problem);
        } else {
            self.more += 1;
        }
    }

    fn none(mut self, directory: &Path) -> Result<()> {
        if self.more > 0 {
            let (told, all) = (self.told.len(), self.told.len() + self.more);
            let what = format!("{all} things are wrong with its files, the first {told} are told");
            self.told.insert(0, Error::malformed(what));
        }
        if self.told.is_empty() {
            return Ok(());
        }
        Err(Error::all(self.told.into_iter().map(|problem| problem.path(directory)).collect()))
    }
}

/// A weight file that was named itself.
fn single(path: &Path, real: &Path) -> Result<(PathBuf, Vec<String>, Option<index::Index>)> {
    let name = path.file_name().or(real.file_name()).and_then(|name| name.to_str());
    let Some(name) = name.filter(|name| name.ends_with(".safetensors")) else {
        let hint = "name a directory with safetensors files, or one such file".into();
        return Err(Error::from(Kind::NoCheckpoint { hint }).path(path));
    };
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = fs::canonicalize(parent).map_err(|error| Error::os("look at", parent, error))?;
    Ok((parent, vec![name.to_owned()], None))
}

/// The weight files of a directory, and the index where there is one.
fn weight_files(directory: &Path) -> Result<(Vec<String>, Option<index::Index>)> {
    let listing = small::names(directory)?;
    let has = |name: &str| listing.iter().any(|other| other == name);
    if has(INDEX) {
        let bytes = small::read(&directory.join(INDEX), index::CAP)?.unwrap_or_default();
        let index = index::parse(&bytes).map_err(|error| error.path(&directory.join(INDEX)))?;
        let names = index.files();
        if has(SINGLE) && !names.iter().any(|name| name == SINGLE) {
            let what = format!("both `{SINGLE}` and an index of other files are here");
            let kind = Kind::Recipe { what, hint: Some("remove the one that is not meant".into()) };
            return Err(Error::from(kind).path(directory));
        }
        return Ok((names, Some(index)));
    }
    if has(SINGLE) {
        return Ok((vec![SINGLE.into()], None));
    }
    let weights = |name: &&String| name.ends_with(".safetensors") && *name != ADAPTER;
    let names: Vec<String> = listing.iter().filter(weights).cloned().collect();
    if names.is_empty() {
        return Err(no_weights(directory, &listing));
    }
    complete(directory, &names).map(|()| (names, None))
}

/// That of `model-00001-of-00003.safetensors` and the like none is missing, as no index tells.
fn complete(directory: &Path, names: &[String]) -> Result<()> {
    let mut sets: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
    for (stem, number, count) in names.iter().filter_map(|name| numbered(name)) {
        sets.entry((stem, count)).or_default().insert(number);
    }
    let mut problems = Vec::new();
    for ((stem, count), numbers) in sets {
        let Some(absent) = (1..=count).find(|number| !numbers.contains(number)) else { continue };
        let (there, stem) = (numbers.len(), shown(stem));
        let what = format!("{there} of {count} files `{stem}-…` are there, number {absent} is not");
        problems.push(Error::malformed(what).path(directory));
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::all(problems)) }
}

/// The parts of a name like `model-00001-of-00003.safetensors`.
fn numbered(name: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

fn no_weights(directory: &Path, listing: &[String]) -> Error {
    let ends =
        |ends: &[&str]| listing.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
    let hint = if ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        "it holds pickled weights: load it with transformers and save it with `safe_serialization=True`"
    } else if ends(&[".gguf"]) {
        "it holds GGUF weights: merge the safetensors they were made from"
    } else if ends(&[ADAPTER, "adapter_config.json"]) {
        "it is an adapter: name it with its base, as `base+adapter`"
    } else {
        "a checkpoint holds `model.safetensors`, or shards with `model.safetensors.index.json`"
    };
    Error::from(Kind::NoCheckpoint { hint: hint.into() }).path(directory)
}

/// Why a path cannot be opened; a name like `org/name` may be meant for the hub.
fn absent(path: &Path, error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory {
        return Error::os("look at", path, error);
    }
    let text = path.to_string_lossy();
    let hub = !text.starts_with(['.', '/', '~']) && text.matches('/').count() == 1;
    let hint = if hub {
        "only models are fetched from the hub: give a file or a directory"
    } else {
        "paths are relative to the working directory"
    };
    Error::from(Kind::NoCheckpoint { hint: hint.into() }).path(path)
}
