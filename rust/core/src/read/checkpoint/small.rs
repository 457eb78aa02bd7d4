//! The small files of a checkpoint: config, tokenizer, templates.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Checkpoint;
use crate::error::{Error, Result, shown};
use crate::read::json;

/// The largest `config.json` that is read.
pub const CONFIG_CAP: u64 = 10_000_000;
/// The largest small file that a result carries.
pub const LARGEST_SMALL: u64 = 100_000_000;

/// What holds weights.
const WEIGHTS: [&str; 13] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
    ".pkl",
    ".index.json",
    ".lock",
];
/// What tells of a checkpoint's own making, which would not be true of a result.
const OWN: [&str; 5] = [
    "branchmerge.json",
    "branch.json",
    "mergekit_config.yml",
    "trainer_state.json",
    "training_args.bin",
];
const TEMPLATES: &str = "additional_chat_templates";

impl Checkpoint {
    /// A small file's bytes; none where there is no such file.
    ///
    /// # Errors
    /// The system's word, a file that is not regular, or larger than `cap`.
    pub fn small(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        if self.bare { Ok(None) } else { read(&self.directory.join(name), cap) }
    }

    /// The content of `config.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::small`]; JSON that is not strict.
    pub fn config(&self) -> Result<Option<Value>> {
        let Some(bytes) = self.small("config.json", CONFIG_CAP)? else { return Ok(None) };
        let parsed = json::parse(&bytes, "config.json", CONFIG_CAP);
        parsed.map(Some).map_err(|error| error.path(&self.directory.join("config.json")))
    }

    /// The names of the small files that a result carries from it, sorted.
    ///
    /// # Errors
    /// The system's word; a name that is not UTF-8 or holds control characters; a file that is too large.
    pub fn sidecars(&self) -> Result<Vec<String>> {
        if self.bare {
            return Ok(Vec::new());
        }
        let mut found: Vec<String> =
            names(&self.directory)?.into_iter().filter(|name| carried(name)).collect();
        let templates = self.directory.join(TEMPLATES);
        if is_directory(&templates)? {
            let templates = names(&templates)?.into_iter().filter(|name| name.ends_with(".jinja"));
            found.extend(templates.map(|name| format!("{TEMPLATES}/{name}")));
        }
        let mut kept = Vec::new();
        for name in found {
            if sound(&self.directory.join(&name), &name)? {
                kept.push(name);
            }
        }
        kept.sort();
        Ok(kept)
    }
}

/// Whether it is a file; an error where it is one that cannot be carried.
fn sound(path: &Path, name: &str) -> Result<bool> {
    let look = fs::metadata(path).map_err(|error| Error::os("look at", path, error))?;
    if look.is_dir() {
        return Ok(false);
    }
    if !look.is_file() {
        return Err(Error::malformed("it is no regular file").path(path));
    }
    if name.chars().any(char::is_control) {
        let what = "the name of a small file holds control characters";
        return Err(Error::malformed(what).path(path));
    }
    if look.len() > LARGEST_SMALL {
        return Err(too_large(path, look.len(), LARGEST_SMALL));
    }
    Ok(true)
}

/// Whether there is such a directory; what cannot be looked at is not taken for absent.
fn is_directory(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(look) => Ok(look.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::os("look at", path, error)),
    }
}

fn carried(name: &str) -> bool {
    let lower = name.to_lowercase();
    !name.starts_with('.')
        && !lower.starts_with("readme")
        && !WEIGHTS.iter().any(|end| lower.ends_with(end))
        && !OWN.contains(&name)
}

/// The names in a directory, sorted.
pub(super) fn names(directory: &Path) -> Result<Vec<String>> {
    let listed = loop {
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        match entries {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            entries => break entries.map_err(|error| Error::os("list", directory, error))?,
        }
    };
    let mut names = Vec::new();
    for entry in listed {
        let name = entry.file_name();
        let name = name.into_string().map_err(|name| {
            let what = format!("the file name `{}` is not UTF-8", shown(&name.to_string_lossy()));
            Error::malformed(what).path(directory)
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// A regular file of at most `cap` bytes; none where it is not there.
pub(super) fn read(path: &Path, cap: u64) -> Result<Option<Vec<u8>>> {
    // Opened without waiting: a pipe of that name must not hang the run.
    let opened =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return dangling(path),
        Err(error) => return Err(Error::os("open", path, error)),
    };
    let failed = |error| Error::os("read", path, error);
    let look = file.metadata().map_err(failed)?;
    if !look.is_file() {
        return Err(Error::malformed("it is no regular file").path(path));
    }
    if look.len() > cap {
        return Err(too_large(path, look.len(), cap));
    }
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > cap {
        Err(too_large(path, bytes.len() as u64, cap))
    } else {
        Ok(Some(bytes))
    }
}

/// A link to nothing is not the same as nothing.
fn dangling(path: &Path) -> Result<Option<Vec<u8>>> {
    let link: Option<PathBuf> = fs::read_link(path).ok();
    match link {
        Some(to) => {
            let what =
                format!("it is a link to `{}`, which is not there", shown(&to.to_string_lossy()));
            Err(Error::malformed(what).path(path))
        }
        None => Ok(None),
    }
}

fn too_large(path: &Path, bytes: u64, cap: u64) -> Error {
    Error::malformed(format!("it has {bytes} bytes, at most {cap} are read")).path(path)
}
