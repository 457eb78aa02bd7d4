//! Manifests that were changed, cut, or written by someone else.

use super::*;
use crate::write::fixture::{layout, manifest};
use serde_json::json;

fn bytes() -> Vec<u8> {
    seal(&manifest(layout(), &[]).unwrap()).unwrap()
}

/// What is said of a manifest in which a member is another one.
fn refused(member: &str, other: &Value) -> String {
    let mut body: Value = json!(manifest(layout(), &[]).unwrap());
    body[member] = other.clone();
    open(&seal(&body).unwrap()).unwrap_err().to_string()
}

#[test]
fn opens_what_was_sealed() {
    let bytes = bytes();
    let opened = open(&bytes).unwrap();
    assert_eq!(json!(opened), json!(manifest(layout(), &[]).unwrap()));
    assert!(serde_json::from_slice::<Value>(&bytes).unwrap()["seal"].is_string());
    assert!(bytes.ends_with(b"\"\n}\n"));
    // What was read is written again as it was.
    assert!(open(&seal(&opened).unwrap()).is_ok());
}

#[test]
fn as_many_tensors_as_are_written_open_again() {
    assert!(room_for(MOST_TENSORS).is_ok());
    let said = room_for(MOST_TENSORS + 1).unwrap_err().to_string();
    assert!(said.contains("150001 tensors"), "{said}");
    let layout = layout();
    let statistics = json!({
        "changed": 0.123_456_789_012, "taken": 0.123_456_789_012, "taken_and_changed": 123_456_789,
        "threshold": 0.123_456_789_012, "warnings": ["the threshold is 0".repeat(6)],
    });
    let statistics = serde_json::value::to_raw_value(&statistics).unwrap();
    let mut manifest = manifest(layout, &[]).unwrap();
    let mut entry = manifest.tensors.values().next().unwrap().clone();
    entry.statistics = Some(&statistics);
    manifest.tensors = (0..MOST_TENSORS)
        .map(|number| (format!("model.layers.{number}.experts.weight").into(), entry.clone()))
        .collect();
    let bytes = seal(&manifest).unwrap();
    let opened = open(&bytes).unwrap();
    assert_eq!(opened.tensors.len(), MOST_TENSORS);
    assert_eq!(opened.tensors.values().next().unwrap().statistics.unwrap().get(), statistics.get());
}

#[test]
fn every_flipped_bit_shows() {
    let bytes = bytes();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_and_every_zeroed_tail_shows() {
    let bytes = bytes();
    for length in 0..bytes.len() {
        assert!(open(&bytes[..length]).is_err(), "cut to {length}");
        let mut zeroed = bytes.clone();
        zeroed[length..].fill(0);
        assert!(open(&zeroed).is_err(), "zeros from {length}");
    }
    assert!(open(&[&bytes[..], b"\n"].concat()).is_err());
}

#[test]
fn what_is_no_manifest_is_refused() {
    for body in [json!({}), json!([1, 2]), json!({ "files": {}, "tensors": {} })] {
        assert!(open(&seal(&body).unwrap()).is_err(), "{body}");
    }
    let hash = "0".repeat(64);
    let entry = |shape: Value| json!({ "a": { "blake3": hash, "dtype": "U8", "file": "w", "shape": shape } });
    for (member, other, said) in [
        ("files", json!([1]), "expected an object"),
        ("files", json!({ "w": {} }), "missing field `bytes`"),
        ("files", json!({ "w": { "bytes": -1 } }), "expected u64"),
        ("tensors", json!({ "a": 7 }), "invalid type"),
        ("tensors", json!({ "a": { "blake3": "00" } }), "64 hexadecimal digits"),
        ("tensors", entry(json!("x")), "expected a shape"),
        ("tensors", entry(json!([0.5])), "expected u64"),
        ("tensors", entry(json!(vec![1; MOST_DIMENSIONS + 1])), "too many dimensions"),
        ("format", json!("x".repeat(2 << 20)), "a text of 2097152 bytes"),
    ] {
        let found = refused(member, &other);
        assert!(found.contains(said) && found.len() < 1000, "{found}");
    }
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let text = String::from_utf8(bytes()).unwrap();
    let body = &text[..text.find(",\n  \"seal\"").unwrap()];
    let twice = body.replace("\"empty\": {", "\"scalar\": {");
    assert_ne!(twice, body);
    let hash = tree_hash::hash(twice.as_bytes()).to_string();
    let sealed = [twice.as_bytes(), BEFORE_SEAL, hash.as_bytes(), AFTER_SEAL].concat();
    let said = open(&sealed).unwrap_err().to_string();
    assert!(said.contains("the key `scalar` stands twice"), "{said}");
}
