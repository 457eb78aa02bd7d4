//! The table of shards: what is taken from it, against the plain reader, and what the largest ones cost.

use std::collections::BTreeSet;
use std::fs;

use branchmerge_core::read::checkpoint::index;
use serde_json::Value;

use crate::draft::spelled;
use crate::json::{changed, naive};
use crate::large::Large;
use crate::random::Random;
use crate::{in_halves, mutations, shows};

#[derive(Default)]
struct Ends {
    right: u64,
    wrong: u64,
}

#[test]
fn only_plain_names_of_shards_are_taken() {
    let (cases, [even, odd]) = in_halves(10, one);
    if cases >= 10_000 {
        assert!(even.right + odd.right > cases / 5 && even.wrong + odd.wrong > cases / 5);
    }
}

fn one(mut random: Random, ends: &mut Ends) {
    let mut text = table(&mut random);
    if random.once_in(3) {
        text = changed(text, &mut random);
    }
    let ours = index::parse(&text);
    let files = ours.as_ref().ok().map(index::Index::files);
    assert_eq!(files, naive(&text).and_then(|index| shards(&index)));
    match ours {
        Ok(_) => ends.right += 1,
        Err(error) => {
            shows(&error);
            // A shard that cannot be is told with the tensor that it was to hold.
            let puts = |said: &str| said.contains("the index puts it in");
            let told = |error: &&_| shows(error);
            error.problems().iter().for_each(told);
            assert!(
                error
                    .problems()
                    .iter()
                    .all(|one| one.tensor.is_some() == puts(&one.kind.to_string()))
            );
            ends.wrong += 1;
        }
    }
}

fn table(random: &mut Random) -> Vec<u8> {
    let line = |number: usize, random: &mut Random| {
        let name = if random.once_in(30) { "0".into() } else { number.to_string() };
        let shard = match random.below(24) {
            0 => mutations::text(random),
            1 => mutations::odd(random),
            2 | 3 => {
                let name = random.of(&[
                    "../a.safetensors",
                    "/a.safetensors",
                    "a/b.safetensors",
                    "a\\b.safetensors",
                    "a\0.safetensors",
                    ".safetensors",
                    "..safetensors",
                    "a.bin",
                    "",
                    "a.safetensors ",
                    "\u{1b}a.safetensors",
                    "A.SAFETENSORS",
                    "a.safetensors/",
                    "é.safetensors",
                ]);
                spelled(random, name)
            }
            4 => {
                let stem = "n".repeat(240 + random.below(9));
                spelled(random, &(stem + ".safetensors"))
            }
            number => spelled(random, &format!("m-{number}.safetensors")),
        };
        [spelled(random, &name), shard].join(&b':')
    };
    let map: Vec<_> = (0..random.below(6)).map(|number| line(number, random)).collect();
    let map = [b"{", &map.join(&b',')[..], b"}"].concat();
    let key = random.of(&["weight_map", "weight_map", "weight_map", "weight_map", "weights"]);
    let mut members = vec![[spelled(random, key), map].join(&b':')];
    if random.once_in(2) {
        let size = mutations::odd(random);
        let metadata = [b"{\"total_size\":", &size[..], b"}"].concat();
        members.insert(random.below(2), [spelled(random, "metadata"), metadata].join(&b':'));
    }
    [b"{", &members.join(&b',')[..], b"}"].concat()
}

/// The names of the files, where every one is plain.
fn shards(index: &Value) -> Option<Vec<String>> {
    let map = index.get("weight_map")?.as_object().filter(|map| !map.is_empty())?;
    let names: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
    let plain = |name: &&str| {
        let stem = name.strip_suffix(".safetensors").unwrap_or_default();
        let odd = |letter: char| letter.is_control() || letter == '/' || letter == '\\';
        !stem.is_empty() && !stem.starts_with('.') && !stem.contains(odd) && name.len() < 256
    };
    let names = names.filter(|names| names.iter().all(plain))?;
    Some(names.into_iter().map(str::to_owned).collect())
}

#[test]
fn the_largest_tables() {
    for (part, what) in [
        (
            // As many as there is memory for: what is wrong with each must not be kept for all of them.
            (|number| format!("\"{number:0>96}\":\"a.safetensors\",")) as fn(usize) -> String,
            "which does not hold it",
        ),
        (|number| format!("\"{number:0>96}\":\"{number}.safetensors\","), "open: No such file"),
        (
            |number| format!("\"{number:0>96}\":0,"),
            "300000 of its entries are wrong, the first 100",
        ),
        (|number| format!("\"{number:x}\":\"a.safetensors\","), "too much memory"),
        (|number| format!("\"{number:x}\":[[[]]],"), "too much memory"),
    ] {
        let table = Large::of(r#"{"weight_map":{"#, part, r#""":"a.safetensors"}}"#);
        let table = if part(0).starts_with("\"0000") { table.times(300_000) } else { table };
        let said = opened(&table).unwrap_err();
        assert!(said.contains(what), "{said}");
    }
    let texts = |begin, end| Large::of(begin, |_| r"xxxxxxxxxxxxxx\n".repeat(64), end);
    assert!(opened(&texts(r#"{"weight_map":{""#, r#"":0}}"#)).is_err());
    assert!(opened(&texts(r#"{"weight_map":{"a":""#, r#""}}"#)).is_err());
}

/// What opening a directory with it and an empty shard says, within what that may cost.
fn opened(table: &Large) -> Result<usize, String> {
    let directory = tempfile::tempdir().unwrap();
    let json = table.json(index::CAP as usize);
    fs::write(directory.path().join("model.safetensors.index.json"), json).unwrap();
    let weights = b"\x08\0\0\0\0\0\0\0{}      ";
    fs::write(directory.path().join("a.safetensors"), weights).unwrap();
    Large::cost(directory.path(), &table.start())
}
