//! The largest manifests, sealed, each made to take as much memory as it can.

use branchmerge_core::write::manifest;

use crate::large::Large;
use crate::{counted, shows};

const LONGEST: usize = (96 << 20) - 200;
const MOST: usize = 192_000_000;

/// What opening it says: how many tensors it has, or why it is refused.
fn opened(large: &Large) -> Result<usize, String> {
    let mut bytes = large.json(LONGEST);
    let hash = blake3::hash(&bytes);
    bytes.extend(format!(",\n  \"seal\": \"{hash}\"\n}}\n").into_bytes());
    let (opened, held) = counted::most_held(|| manifest::open(&bytes));
    assert!(held + bytes.len() <= MOST, "{held} bytes and the text for {}", large.start());
    let opened = opened.inspect_err(shows).map_err(|error| error.to_string());
    opened.map(|manifest| manifest.tensors.len())
}

/// A manifest up to the value of a member that comes last.
fn begin(member: &str, value: &str) -> &'static str {
    let others = ["recipe", "inputs", "allowed", "warnings", "statistics", "files", "tensors"];
    let others = others.iter().filter(|other| **other != member);
    let others: Vec<String> = others.map(|other| format!("\"{other}\":{{}},")).collect();
    let others = others.concat();
    let fixed = r#""branchmerge":"0","format":1,"bits":"everywhere","#;
    format!("{{{fixed}{others}\"{member}\":{value}").leak()
}

fn entry(name: &str, number: usize, shape: &str) -> String {
    let comma = if number == 0 { "" } else { "," };
    let hash = "0".repeat(64);
    format!(
        r#"{comma}"{name}{number:x}":{{"blake3":"{hash}","dtype":"U8","file":"w","shape":[{shape}]}}"#
    )
}

#[test]
fn many_tensors_files_and_sides() {
    let tensors = |part| Large::of(begin("tensors", "{"), part, "}");
    let few: fn(usize) -> String = |number| entry("", number, "7");
    assert_eq!(opened(&tensors(few).times(250_000)), Ok(250_000));
    let sides = |number| entry("", number, &["0"; 64].join(","));
    let escaped = |number| entry(r"\n\n\n\n\n\n\n\n", number, "");
    for part in [few, sides, escaped] {
        let said = opened(&tensors(part)).unwrap_err();
        assert!(said.contains("memory"), "{said}");
    }
    let files = |number: usize| {
        let comma = if number == 0 { "" } else { "," };
        format!(r#"{comma}"{number:x}":{{"bytes":0}}"#)
    };
    let said = opened(&Large::of(begin("files", "{"), files, "}")).unwrap_err();
    assert!(said.contains("memory"), "{said}");
}

#[test]
fn values_of_no_fixed_form_cost_nothing_yet() {
    let opens = |member, part| {
        assert_eq!(opened(&Large::of(begin(member, "["), part, "0]")), Ok(0));
    };
    opens("recipe", |_| "[],".repeat(1000));
    opens("allowed", |_| r#"{"":0},"#.repeat(1000));
    opens("warnings", |_| r#""\n","#.repeat(1000));
    let long = Large::of(begin("bits", "\""), |_| "x".repeat(1000), "\"");
    assert!(opened(&long).unwrap_err().contains("a text of"));
    let shape = Large::of(begin("tensors", r#"{"a":{"shape":["#), |_| "0,".repeat(1000), "0]}}");
    assert!(opened(&shape).unwrap_err().contains("too many dimensions"));
}
