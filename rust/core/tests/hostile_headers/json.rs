//! What `config.json`, a manifest or a tokenizer holds: strict JSON of any kind, against the plain reader.

use std::collections::BTreeSet;

use branchmerge_core::read::json::parse;
use branchmerge_core::write::manifest;
use serde_json::{Map, Number, Value, json};

use crate::plain_json::{self, Json};
use crate::random::Random;
use crate::{in_halves, mutations, shows};

/// The deepest nesting that is read.
const DEEPEST: usize = 127;

#[derive(Default)]
struct Ends {
    right: u64,
    wrong: u64,
}

#[test]
fn strict_json_is_read_as_the_grammar_says() {
    let (cases, [even, odd]) = in_halves(10, one);
    if cases >= 10_000 {
        assert!(even.right + odd.right > cases / 5 && even.wrong + odd.wrong > cases / 5);
    }
}

fn one(mut random: Random, ends: &mut Ends) {
    let mut text = Vec::new();
    value(&mut random, 5, &mut text);
    let depth = [0, 0, 0, 0, 0, 120, 126, 127, 128, 4000][random.below(10)];
    text = [&b"[".repeat(depth)[..], &text, &b"]".repeat(depth)].concat();
    for _ in 0..random.below(3) {
        text = changed(text, &mut random);
    }
    // Once within any bound, now and then beyond it.
    let cap = if random.once_in(20) { random.below(text.len() + 2) } else { text.len() };
    let ours = parse(&text, "it", cap as u64);
    let naive = if text.len() > cap { None } else { naive(&text) };
    assert_eq!(ours.as_ref().ok(), naive.as_ref(), "{ours:?}");
    match ours {
        Ok(value) => {
            sealed(&value, &mut random);
            ends.right += 1;
        }
        Err(error) => {
            shows(&error);
            ends.wrong += 1;
        }
    }
}

/// In a manifest it is read back where any value may stand, refused elsewhere, and not read with any byte another one.
fn sealed(value: &Value, random: &mut Random) {
    let any = ["recipe", "inputs", "allowed", "warnings", "statistics"];
    let fixed = ["branchmerge", "format", "bits", "files", "tensors"];
    let mut body = json!({
        "branchmerge": "0.1.0", "format": 1, "bits": "everywhere", "files": {}, "tensors": {},
        "recipe": {}, "inputs": [], "allowed": [], "warnings": [], "statistics": {},
    });
    let free = random.once_in(2);
    let member = random.of(if free { &any } else { &fixed });
    body[member] = value.clone();
    let bytes = manifest::seal(&body).unwrap();
    match manifest::open(&bytes) {
        Ok(manifest) => assert_eq!(serde_json::to_value(manifest).unwrap(), body),
        Err(error) => {
            assert!(!free, "{error}");
            shows(&error);
        }
    }
    let other = changed(bytes.clone(), random);
    assert!(other == bytes || manifest::open(&other).is_err());
}

/// The same with some bytes other ones, which may make it a text of another kind.
pub(crate) fn changed(text: Vec<u8>, random: &mut Random) -> Vec<u8> {
    // The changes leave a length in eight bytes alone.
    let mut file = [&[0; 8][..], &text].concat();
    mutations::bytes(&mut file, random);
    file.split_off(8)
}

fn value(random: &mut Random, depth: usize, out: &mut Vec<u8>) {
    let count = random.below(4);
    match random.below(if depth == 0 { 4 } else { 8 }) {
        0 | 1 => out.extend(mutations::odd(random)),
        2 => out.extend(mutations::text(random)),
        3 => out.extend(f64::from_bits(random.number()).to_string().as_bytes()),
        4 | 5 => {
            out.push(b'[');
            for number in 0..count {
                out.extend_from_slice(if number > 0 { b", " } else { b"" });
                value(random, depth - 1, out);
            }
            out.push(b']');
        }
        _ => {
            out.push(b'{');
            for number in 0..count {
                out.extend_from_slice(if number > 0 { b"," } else { b"" });
                out.extend_from_slice(
                    random.of(&["\"a\"", "\"\\u0061\"", "\"b\"", "\"\""]).as_bytes(),
                );
                out.push(b':');
                value(random, depth - 1, out);
            }
            out.push(b'}');
        }
    }
}

/// The value, where it is strict.
pub(crate) fn naive(bytes: &[u8]) -> Option<Value> {
    strict(&plain_json::read(std::str::from_utf8(bytes).ok()?, DEEPEST)?)
}

fn strict(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(digits) => Value::Number(number(digits)?),
        Json::Text(text) => Value::String(text.clone()),
        Json::List(values) => Value::Array(values.iter().map(strict).collect::<Option<_>>()?),
        Json::Object(members) => {
            let keys: BTreeSet<_> = members.iter().map(|(key, _)| key).collect();
            if keys.len() < members.len() {
                return None;
            }
            let member = |(key, value): &(String, Json)| Some((key.clone(), strict(value)?));
            Value::Object(members.iter().map(member).collect::<Option<Map<_, _>>>()?)
        }
    })
}

/// A whole number of 64 bits as it is, any other as the nearest finite one.
fn number(digits: &str) -> Option<Number> {
    if digits != "-0" {
        if let Ok(number) = digits.parse::<u64>() {
            return Some(number.into());
        }
        if let Ok(number) = digits.parse::<i64>() {
            return Some(number.into());
        }
    }
    Number::from_f64(digits.parse().ok()?)
}
