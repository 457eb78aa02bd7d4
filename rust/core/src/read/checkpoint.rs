//! A checkpoint: a directory of safetensors files (or one file) and the small files beside them.

mod index;
mod small;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::read::header::{Stored, read_header};
use crate::read::source::{Io, Source};

pub use small::{CONFIG_CAP, LARGEST_SMALL};

/// The name of the only weight file.
const SINGLE: &str = "model.safetensors";
/// The name of the index of several.
const INDEX: &str = "model.safetensors.index.json";

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
        let (mut files, mut tensors, mut problems) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (number, name) in names.iter().enumerate() {
            match open_file(&directory.join(name), io, number) {
                Ok((source, found)) => {
                    files.push(source);
                    for (tensor, stored) in found {
                        let Some(other) = tensors.insert(tensor.clone(), stored) else { continue };
                        let what =
                            format!("the tensor is in `{}` and in `{name}`", names[other.file]);
                        problems.push(Error::malformed(what).tensor(tensor));
                    }
                }
                Err(error) => problems.push(error),
            }
        }
        if let (Some(expected), true) = (&expected, problems.is_empty()) {
            problems.extend(index::disagreements(expected, &tensors, &names));
        }
        if !problems.is_empty() {
            return Err(Error::all(
                problems.into_iter().map(|problem| problem.path(&directory)).collect(),
            ));
        }
        Ok(Self { label, directory, files, tensors, bare: !look.is_dir() })
    }

    /// That no weight file has changed since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(Source::unchanged)
    }
}

fn open_file(path: &Path, io: Io, number: usize) -> Result<(Source, BTreeMap<String, Stored>)> {
    let source = Source::open(path, io)?;
    let tensors = read_header(&source, number)?;
    Ok((source, tensors))
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
    let names: Vec<String> =
        listing.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect();
    if names.is_empty() { Err(no_weights(directory, &listing)) } else { Ok((names, None)) }
}

fn no_weights(directory: &Path, listing: &[String]) -> Error {
    let ends =
        |ends: &[&str]| listing.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
    let hint = if ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        "it holds pickled weights: load it with transformers and save it with `safe_serialization=True`"
    } else if ends(&[".gguf"]) {
        "it holds GGUF weights: merge the safetensors they were made from"
    } else if ends(&["adapter_model.safetensors", "adapter_config.json"]) {
        "it is an adapter: merge it into its base first"
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
    let hint = if text.contains('+') {
        "adapters (`model+adapter`) are not understood yet: merge the adapter into its model first"
    } else if hub {
        "names of the hub are not read yet: download it, and give its directory"
    } else {
        "paths are relative to the working directory"
    };
    Error::from(Kind::NoCheckpoint { hint: hint.into() }).path(path)
}
