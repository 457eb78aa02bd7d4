//! What is found in results that were tampered with.

use super::*;
use crate::error::Kind;
use crate::plan::layout::Layout;
use crate::write::fixture::{content, layout, manifest, merge, room, run, snapshot};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A result of the small merge.
fn result() -> (tempfile::TempDir, PathBuf) {
    let room = room();
    fs::create_dir(room.path().join("parent")).unwrap();
    let target = room.path().join("parent/out");
    merge(&target, false).unwrap();
    (room, target)
}

fn problems(directory: &Path) -> Vec<Error> {
    verify(directory, &Team::new(2), &Progress::default()).unwrap().problems
}

/// The tensor at a byte of a file.
fn tensor_at(layout: &Layout, file: &Path, at: usize) -> Option<String> {
    let tensor = layout.tensors.iter().find(|tensor| {
        let inside = tensor.offset..tensor.offset + tensor.bytes;
        Path::new(&layout.files[tensor.file].name) == file && inside.contains(&(at as u64))
    });
    tensor.map(|tensor| tensor.name.to_string())
}

#[test]
fn a_result_is_well_also_where_it_was_moved() {
    let (room, target) = result();
    assert!(problems(&target).is_empty(), "{:?}", problems(&target));
    let moved = room.path().join("moved");
    fs::rename(&target, &moved).unwrap();
    let found = verify(&moved, &Team::solo(), &Progress::default()).unwrap();
    assert!(found.problems.is_empty());
    assert_eq!(found.tensors, 5);
    let all: usize = snapshot(&moved).values().map(Vec::len).sum();
    assert_eq!(found.bytes, all as u64);
}

#[test]
fn every_flipped_bit_is_found_in_its_file_and_tensor() {
    let (_room, target) = result();
    let layout = layout();
    for (name, bytes) in snapshot(&target) {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(target.join(&name), &flipped).unwrap();
            let found = problems(&target);
            assert_eq!(found.len(), 1, "{name:?} bit {bit}: {found:?}");
            assert_eq!(found[0].path.as_deref(), Some(&*target.join(&name)));
            assert_eq!(found[0].tensor, tensor_at(layout, &name, bit / 8), "{name:?} bit {bit}");
        }
        if !bytes.is_empty() {
            fs::write(target.join(&name), &bytes).unwrap();
        }
    }
}

#[test]
fn missing_added_and_resized_are_found() {
    let (room, target) = result();
    let check = |name: &Path, said: &str| {
        let found = problems(&target);
        assert!(
            found.iter().any(|problem| {
                problem.path.as_deref() == Some(&*target.join(name))
                    && problem.to_string().contains(said)
            }),
            "{name:?} {said}: {found:?}"
        );
    };
    for (name, bytes) in snapshot(&target) {
        let path = target.join(&name);
        if path.is_dir() {
            continue;
        }
        fs::remove_file(&path).unwrap();
        check(&name, if name == Path::new(manifest::NAME) { "no manifest" } else { "missing" });
        if name != Path::new(manifest::NAME) {
            symlink(room.path(), &path).unwrap();
            check(&name, "not a regular file");
            fs::remove_file(&path).unwrap();
            for size in [0, bytes.len() - 1, bytes.len() + 1] {
                let mut resized = bytes.clone();
                resized.resize(size, 0);
                fs::write(&path, resized).unwrap();
                check(&name, "expected");
            }
        }
        fs::write(&path, bytes).unwrap();
    }
    fs::write(target.join("added"), "").unwrap();
    check(Path::new("added"), "added");
    fs::write(target.join("additional_chat_templates/more"), "").unwrap();
    check(Path::new("additional_chat_templates/more"), "added");
    fs::create_dir(target.join("folder")).unwrap();
    check(Path::new("folder"), "added");
    symlink("/etc", target.join("link")).unwrap();
    check(Path::new("link"), "added");
    assert_eq!(problems(&target).len(), 4);
}

#[test]
fn a_large_tensor_is_hashed_in_parts() {
    let room = room();
    let layout = crate::plan::layout::lay_out(
        &[("large", crate::read::dtype::Dtype::U8, vec![3 * PART + 5])],
        u64::MAX,
    )
    .unwrap();
    let tensor = &layout.tensors[0];
    let file = &layout.files[0];
    let mut bytes = file.header.clone();
    bytes.extend(content(tensor));
    fs::write(room.path().join(&file.name), &bytes).unwrap();
    let sealed = manifest::seal(&manifest(&layout, &[]).unwrap()).unwrap();
    fs::write(room.path().join(manifest::NAME), sealed).unwrap();
    assert!(problems(room.path()).is_empty());
    for at in [0, PART - 1, PART, 3 * PART + 4].map(|at| (tensor.offset + at) as usize) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        fs::write(room.path().join(&file.name), flipped).unwrap();
        assert_eq!(problems(room.path())[0].tensor.as_deref(), Some("large"));
    }
}

#[test]
fn a_hostile_manifest_is_a_problem_not_a_danger() {
    let room = room();
    fs::write(room.path().join("secret"), "secret").unwrap();
    let directory = room.path().join("result");
    fs::create_dir(&directory).unwrap();
    let header =
        br#"        {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551000]}}"#;
    let mut header = header.to_vec();
    let length = (header.len() as u64 - 8).to_le_bytes();
    header[..8].copy_from_slice(&length);
    fs::write(directory.join("w"), &header).unwrap();
    let hash = tree_hash::hash(b"secret");
    let tensor = |file: &str| json!({ "file": file, "dtype": "U8", "shape": [1], "blake3": tree_hash::hash(b"") });
    let weights = json!({ "bytes": header.len(), "header_blake3": tree_hash::hash(&header) });
    let layout = layout();
    let whole = json!(manifest(layout, &[]).unwrap());
    for (files, tensors) in [
        (json!({ "../secret": { "bytes": 6, "blake3": hash } }), json!({})),
        (json!({ "w": weights }), json!({ "a": tensor("w") })),
        (json!({ "w": weights }), json!({ "a": tensor("x") })),
        (json!({ "w": { "bytes": header.len() } }), json!({ "a": tensor("w") })),
        (json!({ "w": { "bytes": header.len() } }), json!({ "b": { "file": 7 } })),
        (json!([1]), json!("x")),
    ] {
        let mut body = whole.clone();
        (body["files"], body["tensors"]) = (files, tensors);
        fs::write(directory.join(manifest::NAME), manifest::seal(&body).unwrap()).unwrap();
        let found = problems(&directory);
        assert!(!found.is_empty(), "{body}");
    }
}

#[test]
fn a_result_is_whole_for_its_own_run_only() {
    let (_room, target) = result();
    let run = run();
    let whole =
        |recipe: &Value, inputs: &Value| is_whole(&target, recipe, inputs).unwrap().is_some();
    assert!(whole(&run.recipe, &run.inputs));
    assert!(whole(&run.recipe, &json!([{ "label": "a" }])));
    assert!(!whole(&run.recipe, &json!([{ "label": "b" }])));
    assert!(!whole(&run.recipe, &json!([])));
    assert!(!whole(&json!({}), &run.inputs));
    fs::write(target.join("added"), "").unwrap();
    assert!(!whole(&run.recipe, &run.inputs));
    assert!(is_whole(&target.join("none"), &run.recipe, &run.inputs).unwrap().is_none());
    assert!(is_whole(&target.join("config.json"), &run.recipe, &run.inputs).unwrap().is_none());
}

#[test]
fn stops_when_asked() {
    let (_room, target) = result();
    let progress = Progress::default();
    progress.cancel();
    let error = verify(&target, &Team::solo(), &progress).unwrap_err();
    assert!(matches!(*error.kind, Kind::Cancelled));
}

#[test]
fn bytes_that_no_hash_covers_are_a_problem() {
    let (_room, target) = result();
    let path = target.join(manifest::NAME);
    let sealed = fs::read(&path).unwrap();
    for tensor in &layout().tensors {
        let mut manifest = manifest::open(&sealed).unwrap();
        manifest.tensors.remove(&*tensor.name);
        fs::write(&path, manifest::seal(&manifest).unwrap()).unwrap();
        let found = problems(&target);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().contains("cover"), "{found:?}");
        assert_eq!(found[0].tensor.as_deref(), Some(&*tensor.name));
    }
}
