//! The largest headers that are allowed, each made to take as much memory as it can: a file costs at most 192 MB.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use branchmerge_core::error::Error;
use branchmerge_core::read::checkpoint::Checkpoint;
use branchmerge_core::read::header;
use branchmerge_core::read::source::Io;

use crate::{counted, shows};

/// The longest header, and what a file may cost, its header included.
const LONGEST_HEADER: usize = 100_000_000;
const MOST: usize = 192_000_000;

/// A header of this part as often as it fits, or so many times, between a beginning and an end.
pub(crate) struct Large {
    begin: &'static str,
    part: fn(usize) -> String,
    end: &'static str,
    most: usize,
}

impl Large {
    /// The same part again and again.
    pub(crate) fn of(begin: &'static str, part: fn(usize) -> String, end: &'static str) -> Self {
        Self { begin, part, end, most: usize::MAX }
    }

    pub(crate) fn times(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Of at most so many bytes.
    pub(crate) fn json(&self, longest: usize) -> Vec<u8> {
        let mut json = self.begin.as_bytes().to_vec();
        for number in 0..self.most {
            let part = (self.part)(number);
            if json.len() + part.len() + self.end.len() > longest {
                break;
            }
            json.extend_from_slice(part.as_bytes());
        }
        json.extend_from_slice(self.end.as_bytes());
        json
    }

    /// What it begins with.
    pub(crate) fn start(&self) -> String {
        format!("{}{:.100}…", self.begin, (self.part)(0))
    }

    /// What opening a directory with it says, by both ways of reading; and that neither took too much.
    fn opened(&self) -> Result<usize, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::create(directory.path().join("model.safetensors")).unwrap();
        let json = self.json(LONGEST_HEADER);
        file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
        file.write_all(&json).unwrap();
        drop(json);
        Self::cost(directory.path(), &self.start())
    }

    /// The number of tensors in a directory, or why it is refused; by both ways of reading, within what it may cost.
    pub(crate) fn cost(directory: &Path, what: &str) -> Result<usize, String> {
        let [map, read] = [Io::Map, Io::Read].map(|io| {
            let open = || Checkpoint::open(directory, io);
            let (opened, held) = counted::most_held(open);
            assert!(held <= MOST, "{held} bytes by {io:?} for {what}");
            let few = |error: &Error| error.problems().len() <= 1001;
            assert!(opened.as_ref().err().is_none_or(few));
            opened.inspect_err(shows).map_err(|error| error.to_string())
        });
        let [map, read] = [map, read].map(|opened| opened.map(|found| found.tensors.len()));
        assert_eq!(map, read);
        map
    }

    fn refused(&self, what: &str) {
        let said = self.opened().unwrap_err();
        assert!(said.contains(what), "{said}");
    }
}

const TENSOR: &str = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;

fn tensor(number: usize) -> String {
    format!("\"{number:x}\":{TENSOR},")
}

/// Texts of eight thousand bytes, plain or escaped.
fn plain(_: usize) -> String {
    "x".repeat(8000)
}

fn escaped(_: usize) -> String {
    r"\n".repeat(4000)
}

fn hidden(_: usize) -> String {
    r"\u0001".repeat(1000)
}

#[test]
fn many_tensors() {
    let tensors = |most| Large::of("{", tensor, r#""":null}"#).times(most);
    let right = Large::of("{", tensor, r#""__metadata__":null}"#).times(250_000);
    assert_eq!(right.opened(), Ok(250_000));
    tensors(1_000_000).refused("memory");
    tensors(usize::MAX).refused("memory");
    let sides = |number| {
        let sides = "0,".repeat(63);
        let shape = format!(r#""shape":[{sides}0]"#);
        tensor(number).replace(r#""shape":[0]"#, &shape)
    };
    Large::of("{", sides, r#""__metadata__":null}"#).refused("memory");
}

#[test]
fn many_texts() {
    let pair = |number| format!("\"{number:x}\":\"\",");
    let texts = |most| Large::of(r#"{"__metadata__":{"#, pair, r#""":""}}"#).times(most);
    assert_eq!(texts(500_000).opened(), Ok(0));
    texts(usize::MAX).refused("memory");
}

#[test]
fn long_texts() {
    let metadata = |part| Large::of(r#"{"__metadata__":{"a":""#, part, r#""}}"#);
    assert_eq!(metadata(plain).times(4000).opened(), Ok(0));
    assert_eq!(metadata(escaped).times(4000).opened(), Ok(0));
    for (begin, end) in [
        (r#"{"__metadata__":{"a":""#, r#""}}"#),
        (r#"{"__metadata__":{""#, r#"":""}}"#),
        (r#"{"__metadata__":""#, r#""}"#),
        (r#"{""#, r#"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#),
        (r#"{"a":{"dtype":""#, r#"","shape":[0],"data_offsets":[0,0]}}"#),
        (r#"{"a":{"dtype":"U8","shape":[""#, r#""],"data_offsets":[0,0]}}"#),
        (r#"{"a":{""#, r#"":1}}"#),
        (r#"{"a":""#, r#""}"#),
        (r#"{"a":""#, ""),
    ] {
        Large::of(begin, escaped, end).refused("a text of");
        // As long as they may be, they are refused for what is wrong with them, and still cost little.
        let _ = Large::of(begin, hidden, end).times((32 << 20) / hidden(0).len()).opened();
    }
}

#[test]
fn long_lists_numbers_and_spaces() {
    let shape = r#"{"a":{"dtype":"U8","shape":["#;
    Large::of(shape, |_| "0,".repeat(1000), "0]}}").refused("more than 64");
    Large::of(r#"{"a":{"data_offsets":["#, |_| "0,".repeat(1000), "0]}}").refused("more than 2");
    Large::of(shape, |_| "[".repeat(1000), "").refused("expected a whole number");
    Large::of(r#"{"a":"#, |_| "[[],".repeat(1000), "").refused("expected an object");
    Large::of(r#"{"a":"#, |_| "{\"\":".repeat(1000), "").refused("tensor `a`");
    Large::of("{", |_| "\"\":{".repeat(1000), "").refused("key");
    for digits in ["1", "0.0", "1e1"] {
        let begin = format!("{shape}{digits}").leak();
        Large::of(begin, |_| "0".repeat(1000), "]}}").refused("a word of");
        let _ = Large::of(begin, |_| "0".repeat(1024), "]}}").times((32 << 10) - 1).opened();
    }
    let spaces = Large::of("{", |_| " ".repeat(1000), "}");
    assert_eq!(spaces.opened(), Ok(0));
    // Of the longest header, and of one longer by a byte.
    for (length, taken) in [(LONGEST_HEADER, true), (LONGEST_HEADER + 1, false)] {
        let mut file = vec![b' '; 8 + length];
        file[..8].copy_from_slice(&(length as u64).to_le_bytes());
        file[8..10].copy_from_slice(b"{}");
        assert_eq!(header::parse(&file, file.len() as u64, 0).is_ok(), taken);
    }
}
