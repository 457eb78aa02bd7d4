//! A small merge for the tests of writing: two weight files, three small files, the order of calls of a real run.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::json;
use serde_json::value::to_raw_value;

use crate::error::Result;
use crate::plan::layout::{Layout, Placed, lay_out};
use crate::read::dtype::Dtype;
use crate::read::tree_hash::{self, Hash};
use crate::write::manifest::{Manifest, TensorEntry};
use crate::write::output::{
    Content, Finished, Output, Run, Sidecar, file_entries, finish_replacement,
};
use crate::write::verify::is_whole;

/// A directory of its own, where syncs cost nothing if the machine has such a place.
pub(super) fn room() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn layout() -> &'static Layout {
    static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
        let tensors = [
            ("layers.10.w", Dtype::BF16, vec![3, 5]),
            ("layers.2.w", Dtype::F32, vec![4]),
            ("empty", Dtype::F64, vec![0, 7]),
            ("scalar", Dtype::F64, vec![]),
            ("head", Dtype::U8, vec![9]),
        ];
        lay_out(&tensors, 40).unwrap()
    });
    &LAYOUT
}

pub(super) fn run() -> Run {
    Run {
        recipe: json!({ "merge_method": "linear", "t": 0.1 }),
        inputs: json!([{ "label": "a", "bytes": 3 }]),
    }
}

/// The bytes that a tensor gets.
pub(super) fn content(tensor: &Placed) -> Vec<u8> {
    (0..tensor.bytes)
        .map(|at| tensor.name.as_bytes()[at as usize % tensor.name.len()] ^ at as u8)
        .collect()
}

pub(super) fn sidecars(beside: &Path) -> Vec<Sidecar> {
    let source = beside.join("source-of-tokenizer");
    if !source.exists() {
        fs::write(&source, "{}").unwrap();
    }
    let bytes = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    vec![
        Sidecar { name: "config.json".into(), content: bytes("{\"a\": 1}\n") },
        Sidecar { name: "tokenizer.json".into(), content: Content::Copy(source) },
        Sidecar { name: "additional_chat_templates/tool.jinja".into(), content: bytes("{{ x }}") },
    ]
}

pub(super) fn manifest<'m>(layout: &'m Layout, sidecars: &[Sidecar]) -> Result<Manifest<'m>> {
    let Run { recipe, inputs } = run();
    let entry = |tensor: &'m Placed| TensorEntry {
        blake3: tree_hash::hash(&content(tensor)),
        dtype: tensor.dtype.name().into(),
        file: (&*layout.files[tensor.file].name).into(),
        shape: (&*tensor.shape).into(),
        statistics: None,
    };
    Ok(Manifest {
        branchmerge: "0.1.0".into(),
        format: 1,
        recipe,
        inputs,
        bits: "everywhere".into(),
        allowed: json!([]),
        warnings: json!([]),
        statistics: json!({}),
        files: file_entries(layout, sidecars)?,
        tensors: layout
            .tensors
            .iter()
            .map(|tensor| ((&*tensor.name).into(), entry(tensor)))
            .collect(),
    })
}

thread_local! {
    /// How many tensors the last run computed.
    pub(super) static COMPUTED: Cell<usize> = const { Cell::new(0) };
    /// How many tensors were in the journal when it ended.
    pub(super) static RECORDED: Cell<usize> = const { Cell::new(0) };
}

/// What `execute` does, in small; a run whose result is there already does nothing.
pub(super) fn merge(target: &Path, overwrite: bool) -> Result<()> {
    let run = run();
    COMPUTED.set(0);
    RECORDED.set(0);
    finish_replacement(target)?;
    if is_whole(target, &run.recipe, &run.inputs)?.is_some() {
        return Ok(());
    }
    let layout = layout();
    let (output, finished) = Output::begin(target, layout, &run, overwrite)?;
    let finished: BTreeMap<usize, Hash> =
        finished.iter().map(|(at, finished)| (*at, finished.hash)).collect();
    for (at, tensor) in layout.tensors.iter().enumerate() {
        let mut bytes = vec![0; tensor.bytes as usize];
        output.read_at(tensor.file, tensor.offset, &mut bytes)?;
        if finished.get(&at) != Some(&tree_hash::hash(&bytes)) {
            COMPUTED.set(COMPUTED.get() + 1);
            let bytes = content(tensor);
            output.write_at(tensor.file, tensor.offset, &bytes)?;
            output.record(&[(&*tensor.name, &finished_of(tensor))])?;
        }
        RECORDED.set(RECORDED.get() + 1);
    }
    let sidecars = sidecars(target.parent().unwrap().parent().unwrap());
    output.publish(&sidecars, &manifest(layout, &sidecars)?, &|| Ok(()))
}

pub(super) fn finished_of(tensor: &Placed) -> Finished {
    Finished {
        hash: tree_hash::hash(&content(tensor)),
        inputs: [tree_hash::hash(b"input")].into(),
        statistics: to_raw_value(&json!({ "share": 0.25 })).unwrap(),
    }
}

/// Every path below a directory with what it holds; links as where they lead, empty folders with a slash.
pub(super) fn snapshot(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn add(directory: &Path, above: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), above.join(entry.file_name()));
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                all.insert(name.join(""), Vec::new());
                add(&path, &name, all);
            } else if kind.is_symlink() {
                all.insert(
                    name,
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                );
            } else {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    add(directory, Path::new(""), &mut all);
    all
}

/// What an undisturbed run writes.
pub(super) fn expected() -> BTreeMap<PathBuf, Vec<u8>> {
    let room = room();
    let parent = room.path().join("parent");
    fs::create_dir(&parent).unwrap();
    merge(&parent.join("out"), false).unwrap();
    snapshot(&parent.join("out"))
}
