//! Every kind of error, as the contract with Python has it.

use std::path::Path;

use super::*;
use crate::error::Kind;

/// One error of each kind. Whoever adds a kind adds it to the match, and an error of it to the list.
fn every_kind() -> Vec<Error> {
    let text = String::from;
    let kinds = vec![
        Kind::Problems(vec![
            Error::recipe("`model` is missing").at("models[0]"),
            Error::malformed("the header is 3 bytes").path(Path::new("a/model.safetensors")),
        ]),
        Kind::Recipe { what: text("`models` lists no model"), hint: Some(text("list one")) },
        Kind::Recipe { what: text("`models` lists no model"), hint: None },
        Kind::Unknown { what: "key", found: text("modles"), near: Some(text("known is x")) },
        Kind::Unknown { what: "key", found: text("modles"), near: None },
        Kind::Value { name: text("t"), found: text("2"), expected: text("0 to 1") },
        Kind::Mismatch {
            what: "the tensor is missing",
            found: text("none"),
            expected: text("BF16 [2, 3]"),
            allow: Some("missing=base"),
        },
        Kind::Mismatch {
            what: "the shape differs",
            found: text("[2, 4]"),
            expected: text("[2, 3]"),
            allow: None,
        },
        Kind::NoCheckpoint { hint: text("name a directory") },
        Kind::Malformed { what: text("the header is 3 bytes") },
        Kind::NotFinite { what: text("NaN"), element: 7 },
        Kind::Unequal { dtype: "I64", expected: text("code") },
        Kind::Changed { what: text("it is gone") },
        Kind::NotVerified { what: text("a part differs") },
        Kind::OutputExists { what: text("it is there"), hint: text("name another") },
        Kind::OtherRun { changed: text("the seed") },
        Kind::Locked,
        Kind::DiskFull { needed: 10, free: 5 },
        Kind::MemoryBound { bound: 5, needed: 3 << 20 },
        Kind::OutOfMemory { needed: 10 },
        Kind::Os { doing: "write", source: std::io::Error::from_raw_os_error(libc::ENOSPC) },
        Kind::Os { doing: "open", source: std::io::Error::from_raw_os_error(libc::EACCES) },
        Kind::Cancelled,
        Kind::Internal { what: text("a worker panicked") },
    ];
    let mut seen = [false; 18];
    for kind in &kinds {
        let place = match kind {
            Kind::Problems(_) => 0,
            Kind::Recipe { .. } => 1,
            Kind::Unknown { .. } => 2,
            Kind::Value { .. } => 3,
            Kind::Mismatch { .. } => 4,
            Kind::NoCheckpoint { .. } => 5,
            Kind::Malformed { .. } => 6,
            Kind::NotFinite { .. } => 7,
            Kind::Changed { .. } => 8,
            Kind::NotVerified { .. } => 9,
            Kind::OutputExists { .. } | Kind::OtherRun { .. } => 10,
            Kind::Locked => 11,
            Kind::DiskFull { .. } => 12,
            Kind::MemoryBound { .. } | Kind::OutOfMemory { .. } => 13,
            Kind::Os { .. } => 14,
            Kind::Cancelled => 15,
            Kind::Internal { .. } => 16,
            Kind::Unequal { .. } => 17,
        };
        seen[place] = true;
    }
    assert!(!seen.contains(&false));
    let placed =
        |kind| Error::from(kind).tensor("model.norm.weight").branch("math").path(Path::new("math"));
    kinds.into_iter().map(placed).collect()
}

/// The contract with Python, whose own test reads the same file.
#[test]
fn every_kind_is_told_as_the_contract_says() {
    let told: Vec<Value> = every_kind().iter().map(describe_error).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/contract/errors.json");
    let agreed: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    let told = json!(told);
    assert_eq!(told, agreed, "{told:#}");
}

#[test]
fn every_message_names_its_place_and_has_a_hint() {
    for error in every_kind() {
        let message = error.to_string();
        for name in ["`model.norm.weight`", "`math`"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(!message.ends_with('.') && error.hint().is_some(), "{message}");
    }
}
