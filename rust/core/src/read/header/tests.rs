//! One header for each thing that can be wrong, with the words of its refusal; and those that are right but rare.
//!
//! Millions of headers against other readers, and memory, are in `tests/hostile_headers.rs`.

use std::fs;

use super::*;
use crate::read::source::Io;

/// A file of this header with so many bytes behind it.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parsed(json: &str, data: usize) -> Result<BTreeMap<String, Stored>> {
    let bytes = file(json, data);
    parse(&bytes, bytes.len() as u64, 3)
}

fn refused(json: &str, data: usize) -> String {
    parsed(json, data).unwrap_err().to_string()
}

/// A tensor `t` of this dtype, shape and place.
fn tensor(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn tensors_are_placed() {
    let json = r#"{"__metadata__":{"format":"pt"},"b":{"shape":[2,3],"data_offsets":[4,16],"dtype":"BF16"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"I64","shape":[7,0],"data_offsets":[4,4]}}  "#;
    let tensors = parsed(json, 16).unwrap();
    let start = 8 + json.len() as u64;
    let b = &tensors["b"];
    assert_eq!((b.dtype, b.shape.as_slice(), b.file), (Dtype::BF16, &[2, 3][..], 3));
    assert_eq!((b.range.clone(), b.elements()), (start + 4..start + 16, 6));
    assert_eq!((tensors["a"].range.clone(), tensors["a"].elements()), (start..start + 4, 1));
    assert_eq!(
        (tensors["none"].range.clone(), tensors["none"].elements()),
        (start + 4..start + 4, 0)
    );
}

#[test]
fn rare_but_right() {
    assert!(parsed("{}", 0).unwrap().is_empty());
    assert!(parsed(r#"{"__metadata__":null}"#, 0).unwrap().is_empty());
    assert_eq!(parsed(&tensor("F4", "[4]", "[0,2]"), 2).unwrap()["t"].elements(), 4);
    assert_eq!(
        parsed(&tensor("U8", &format!("[{}1]", "1,".repeat(63)), "[0,1]"), 1).unwrap().len(),
        1
    );
    // The product is taken in order, as the format's reader takes it: after a zero nothing overflows.
    let zero = tensor("F32", "[0,4294967296,4294967296,4294967296]", "[0,0]");
    assert_eq!(parsed(&zero, 0).unwrap()["t"].elements(), 0);
    let escaped = r#"{"\u0061\n":{"\u0064type":"\u00468_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    assert_eq!(parsed(escaped, 1).unwrap()["a\n"].dtype, Dtype::F8E4M3);
    for dtype in Dtype::ALL {
        let bytes = dtype.bits().to_string();
        let json = tensor(dtype.name(), "[2,4]", &format!("[0,{bytes}]"));
        assert_eq!(parsed(&json, dtype.bits() as usize).unwrap()["t"].dtype, *dtype);
    }
}

#[test]
fn lengths_are_held_against_the_file() {
    let said = |bytes: &[u8]| parse(bytes, bytes.len() as u64, 0).unwrap_err().to_string();
    assert_eq!(said(b""), "it has 0 bytes, expected 8 for the length of a header and then one");
    assert!(said(b"1234567").contains("it has 7 bytes"));
    assert!(said(&[0; 8]).contains("begins with ``, expected `{`"));
    assert!(
        said(&100_000_001_u64.to_le_bytes())
            .contains("100000001 bytes long, expected at most 100000000")
    );
    assert!(said(&u64::MAX.to_le_bytes()).contains("18446744073709551615 bytes long"));
    let whole = file(&tensor("U8", "[4]", "[0,4]"), 4);
    assert!(said(&whole[..40]).contains("32 follow: it is cut off"));
    assert!(
        said(&whole[..whole.len() - 1])
            .contains("its tensors need 4 bytes, it has 3 for them: it is cut off")
    );
    let longer = [&whole[..], b"x"].concat();
    assert!(said(&longer).contains("it has 5 for them: what follows them is no tensor's"));
    assert!(
        parse(&whole[..20], whole.len() as u64, 0).unwrap_err().to_string().contains("cut off")
    );
    for (bytes, what) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00"[..], "Git LFS"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file"),
        (b"PK\x03\x04\x14\0\0\0\0\0", "a zip archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", "a pickle"),
        (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        (b"<!DOCTYPE html>", "a web page"),
    ] {
        assert!(said(bytes).contains(what), "{what}");
    }
}

#[test]
fn sizes_and_places_are_checked() {
    for (dtype, shape, offsets, what) in [
        ("F32", "[2]", "[0,4]", "it has 4 bytes, expected 8 for shape [2] of F32"),
        ("F32", "[]", "[0,8]", "it has 8 bytes, expected 4 for shape [] of F32"),
        ("F4", "[3]", "[0,2]", "it has 12 bits for shape [3] of F4, expected whole bytes"),
        ("U8", "[4294967296,4294967296]", "[0,8]", "its size does not fit 64 bits"),
        ("F64", "[4611686018427387904]", "[0,8]", "its size does not fit 64 bits"),
        ("U8", "[4294967296,4294967296,0]", "[0,0]", "its size does not fit 64 bits"),
        (
            "U8",
            "[8]",
            "[1,9]",
            "its bytes are 1 to 9, expected to begin at 0: tensors may not leave a hole",
        ),
        ("U8", "[8]", "[8,0]", "they end before they begin"),
        ("U8", "[8]", "[0,18446744073709551615]", "it has 18446744073709551615 bytes, expected 8"),
    ] {
        let said = refused(&tensor(dtype, shape, offsets), 8);
        assert!(said.starts_with("tensor `t`: ") && said.contains(what), "{said}");
    }
    let two = |a: &str, b: &str| {
        let entry = |offsets| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b))
    };
    assert!(parsed(&two("[4,8]", "[0,4]"), 8).is_ok());
    assert!(refused(&two("[0,4]", "[2,6]"), 6).contains(
        "tensor `b`: its bytes are 2 to 6, expected to begin at 4: tensors may not overlap"
    ));
    assert!(refused(&two("[0,4]", "[5,9]"), 9).contains("hole"));
    assert!(refused(&two("[0,4]", "[0,4]"), 4).contains("overlap"));
}

#[test]
fn entries_are_strict() {
    let entry = |inner: &str| format!(r#"{{"t":{inner}}}"#);
    for (inner, what) in [
        (r#"{"shape":[4],"data_offsets":[0,4]}"#, "it has no `dtype`"),
        (r#"{"dtype":"U8","data_offsets":[0,4]}"#, "it has no `shape`"),
        (r#"{"dtype":"U8","shape":[4]}"#, "it has no `data_offsets`"),
        (
            r#"{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}"#,
            "`dtype` is there twice",
        ),
        (
            r#"{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}"#,
            "`shape` is there twice",
        ),
        (
            r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"data_\u006fffsets":[0,4]}"#,
            "`data_offsets` is there twice",
        ),
        (
            r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":0}"#,
            "it has the key `x`, expected",
        ),
        (r#"{"dtype":"Q8","shape":[4],"data_offsets":[0,4]}"#, "its dtype is `Q8`, expected"),
        (r#"{"dtype":"u8","shape":[4],"data_offsets":[0,4]}"#, "its dtype is `u8`"),
        (
            r#"{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}"#,
            "expected the name of a dtype",
        ),
        (
            r#"{"dtype":"U8","shape":4,"data_offsets":[0,4]}"#,
            "expected a list of whole numbers as `shape`",
        ),
        (
            r#"{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}"#,
            "expected a whole number below 2^64 in `shape`",
        ),
        (
            r#"{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}"#,
            "integer `-4`, expected a whole number",
        ),
        (
            r#"{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}"#,
            "string \"4\", expected a whole number",
        ),
        (
            r#"{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}"#,
            "expected a whole number below 2^64",
        ),
        (
            r#"{"dtype":"U8","shape":[4],"data_offsets":[0]}"#,
            "`data_offsets` has 1 numbers, expected 2",
        ),
        (
            r#"{"dtype":"U8","shape":[4],"data_offsets":[0,2,4]}"#,
            "`data_offsets` has more than 2 numbers",
        ),
        (r#"["U8",[4],[0,4]]"#, "expected an object with `dtype`"),
        ("null", "invalid type: null, expected an object with `dtype`"),
        ("\"U8\"", "string \"U8\", expected an object with `dtype`"),
        (r#"{"dtype":"U8","shape":[4"#, "expected `,` or `]`"),
    ] {
        let said = refused(&entry(inner), 4);
        assert!(said.starts_with("tensor `t`: ") && said.contains(what), "{said}");
    }
    let deep = format!("[{}1]", "1,".repeat(64));
    assert!(refused(&tensor("U8", &deep, "[0,1]"), 1).contains("`shape` has more than 64 numbers"));
    let twice = r#"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    assert_eq!(refused(twice, 4), "tensor `t`: it is there twice");
    let long = tensor("U8", "[4]", "[0,4]").replace("\"t\"", &format!("\"{}\"", "t".repeat(4097)));
    let said = refused(&long, 4);
    assert!(said.contains("its name has 4097 bytes, expected at most 4096") && said.len() < 400);
}

#[test]
fn the_table_is_strict() {
    for (json, what) in [
        ("[]", "begins with `[]`, expected `{`"),
        (" {}", "begins with ` {}`, expected `{`"),
        ("\u{feff}{}", "begins with `\\u{feff}{}`"),
        ("{}{}", "trailing characters"),
        ("{}\0", "trailing characters"),
        ("{,}", "no valid table of tensors: key must be a string"),
        ("{", "EOF"),
        (r#"{"__metadata__":{"a":1}}"#, "expected a text in `__metadata__`"),
        (r#"{"__metadata__":"a"}"#, "expected texts by name in `__metadata__`"),
        (r#"{"__metadata__":["a"]}"#, "expected texts by name in `__metadata__`"),
        (r#"{"__metadata__":{"a":"","a":""}}"#, "`a` is there twice in `__metadata__`"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, "`__metadata__` is there twice"),
        (r#"{"__metadata__":{"a":"\ud800"}}"#, "no valid table"),
        ("{\"__metadata__\":{\"a\":\"\n\"}}", "control character"),
    ] {
        let said = refused(json, 0);
        assert!(said.contains(what), "{said}");
    }
    let mut bytes = file(r#"{"__metadata__":{"a":"x"}}"#, 0);
    let place = bytes.iter().position(|byte| *byte == b'x').unwrap();
    bytes[place] = 0xff;
    let said = parse(&bytes, bytes.len() as u64, 0).unwrap_err().to_string();
    assert!(said.contains("byte 22 of the header is no UTF-8"), "{said}");
}

#[test]
fn texts_that_are_too_long_are_found_before_they_are_read() {
    let longest = |json: &str| crate::read::words::too_long(json, LONGEST_TEXT);
    let text = |count| format!(r#"{{"a\"\\":null,"a\"{}":"b"}}"#, "x".repeat(count));
    assert_eq!(longest(&text(10)), None);
    assert_eq!(longest(&text(LONGEST_TEXT)), Some(("text", LONGEST_TEXT + 3)));
    let cut = &text(2 * LONGEST_TEXT)[..LONGEST_TEXT + 16];
    assert_eq!(longest(cut), Some(("text", LONGEST_TEXT + 1)));
    let number = |count| format!(r#"{{"a":[1, {}],"b":"c"}}"#, "1".repeat(count));
    assert_eq!(longest(&number(LONGEST_TEXT)), None);
    assert_eq!(longest(&number(LONGEST_TEXT + 1)), Some(("word", LONGEST_TEXT + 1)));
}

#[test]
fn files_are_named_and_both_ways_of_reading_agree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.safetensors");
    fs::write(&path, file(&tensor("U8", "[4]", "[0,4]"), 4)).unwrap();
    let read = |io| read_header(&Source::open(&path, io).unwrap(), 0);
    assert_eq!(read(Io::Map).unwrap(), read(Io::Read).unwrap());
    fs::write(&path, file(&tensor("U8", "[5]", "[0,4]"), 4)).unwrap();
    for io in [Io::Map, Io::Read] {
        let error = read(io).unwrap_err();
        assert_eq!((error.path.as_deref(), error.tensor.as_deref()), (Some(&*path), Some("t")));
    }
    fs::write(&path, "").unwrap();
    assert!(read(Io::Map).unwrap_err().to_string().contains("it has 0 bytes"));
}
