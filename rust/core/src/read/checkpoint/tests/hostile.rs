//! One directory for each thing that can be wrong with a checkpoint.

use std::time::Instant;

use super::*;

#[test]
fn indices_are_hostile() {
    let place = Place::new();
    place.weights("a.safetensors", &["a"]);
    for (text, what) in [
        ("", "no valid JSON"),
        ("[]", "the index is not an object"),
        ("{}", "has no `weight_map`"),
        (r#"{"weight_map":[]}"#, "has no `weight_map`"),
        (r#"{"weight_map":{}}"#, "names no tensor"),
        (r#"{"weight_map":{"a":"a.safetensors","a":"a.safetensors"}}"#, "the key `a` stands twice"),
        (
            r#"{"weight_map":{"a":"../a.safetensors"}}"#,
            "`../a.safetensors`, expected the name of a safetensors file",
        ),
        (r#"{"weight_map":{"a":"/a.safetensors"}}"#, "`/a.safetensors`"),
        (r#"{"weight_map":{"a":"x\\a.safetensors"}}"#, "expected the name"),
        (r#"{"weight_map":{"a":"a\u0000.safetensors"}}"#, "`a\\u{0}.safetensors`"),
        (r#"{"weight_map":{"a":".a.safetensors"}}"#, "`.a.safetensors`"),
        (r#"{"weight_map":{"a":"a.bin"}}"#, "`a.bin`"),
        (r#"{"weight_map":{"a":1}}"#, "puts it in `1`"),
        (r#"{"weight_map":{"a":{}}}"#, "puts it in an object"),
        (r#"{"weight_map":{"a":[],"b":null}}"#, "puts it in `null`"),
    ] {
        place.write(INDEX, text).says(what);
        place.says(INDEX);
    }
    fs::remove_file(place.path().join(INDEX)).unwrap();
    symlink("nowhere", place.path().join(INDEX)).unwrap();
    place.says("it is a link to `nowhere`");
    fs::remove_file(place.path().join(INDEX)).unwrap();
    fs::create_dir(place.path().join(INDEX)).unwrap();
    place.says("it is no regular file");
    fs::remove_dir(place.path().join(INDEX)).unwrap();
    fs::File::create(place.path().join(INDEX)).unwrap().set_len(index::CAP + 1).unwrap();
    place.says("it has 50000001 bytes, at most 50000000 are read");
    place.index(INDEX, &[("a", "a.safetensors")]).weights("model.safetensors", &["a"]);
    place.says("an index of other files are here");
}

#[test]
fn all_problems_at_once() {
    let place = Place::new();
    place.weights("a.safetensors", &["a", "b"]).weights("b.safetensors", &["b"]);
    place.write("c.safetensors", "1234");
    symlink("nowhere", place.path().join("e.safetensors")).unwrap();
    fs::create_dir(place.path().join("f.safetensors")).unwrap();
    let named = ["a", "b", "c", "d", "e", "f"];
    let files = named.map(|name| format!("{name}.safetensors"));
    let map: Vec<_> = named.iter().copied().zip(files.iter().map(String::as_str)).collect();
    place.index(INDEX, &map);
    for what in [
        "5 problems",
        "tensor `b`: ",
        "the tensor is in `a.safetensors` and in `b.safetensors`",
        "c.safetensors`: it has 4 bytes",
        "d.safetensors`: open: No such file",
        "e.safetensors`: open: No such file",
        "f.safetensors`: it is a directory",
    ] {
        place.says(what);
    }
}

#[test]
fn an_index_and_its_shards_disagree() {
    let place = Place::new();
    place.weights("a.safetensors", &["a", "moved", "unnamed"]).weights("b.safetensors", &["b"]);
    place.index(
        INDEX,
        &[
            ("a", "a.safetensors"),
            ("moved", "b.safetensors"),
            ("lacking", "a.safetensors"),
            ("b", "b.safetensors"),
        ],
    );
    for what in [
        "the index puts it in `b.safetensors`, it is in `a.safetensors`",
        "the index puts it in `a.safetensors`, which does not hold it",
        "`a.safetensors` holds it, the index does not name it",
    ] {
        place.says(what);
    }
    let tensors: Vec<_> =
        place.refused().problems().iter().filter_map(|problem| problem.tensor.clone()).collect();
    assert_eq!(tensors, ["lacking", "moved", "unnamed"]);
}

#[test]
fn pipes_do_not_hang() {
    let place = Place::new();
    let pipe = |name: &str| {
        let path = place.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    pipe("model.safetensors");
    place.says("it is a pipe, expected a regular file");
    fs::remove_file(place.path().join("model.safetensors")).unwrap();
    pipe(INDEX);
    place.says("it is no regular file");
    fs::remove_file(place.path().join(INDEX)).unwrap();
    place.weights("model.safetensors", &["a"]);
    pipe("config.json");
    let checkpoint = place.open().unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("it is no regular file"));
    assert!(checkpoint.sidecars().unwrap_err().to_string().contains("it is no regular file"));
    fs::remove_file(place.path().join("config.json")).unwrap();
    symlink("/dev/zero", place.path().join("config.json")).unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("it is no regular file"));
    fs::remove_file(place.path().join("model.safetensors")).unwrap();
    symlink("/dev/zero", place.path().join("model.safetensors")).unwrap();
    place.says("it is a device, expected a regular file");
}

#[test]
fn what_cannot_be_looked_at_is_not_absent() {
    let place = Place::new();
    place.weights("model.safetensors", &["a"]);
    let checkpoint = place.open().unwrap();
    // A link to itself stands for all that the system says besides "not there".
    for name in ["config.json", "additional_chat_templates", INDEX, "itself"] {
        symlink(name, place.path().join(name)).unwrap();
    }
    let refused = [
        checkpoint.config().unwrap_err(),
        checkpoint.small("additional_chat_templates", 1).unwrap_err(),
        checkpoint.sidecars().unwrap_err(),
        place.refused(),
        Checkpoint::open(&place.path().join("itself"), Io::Map).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.errno(), Some(libc::ELOOP), "{error}");
    }
}

#[test]
fn a_hundred_thousand_tensors() {
    let place = Place::new();
    let names: Vec<String> = (0..100_000)
        .map(|number| format!("model.layers.{number}.mlp.experts.{number}.down_proj.weight"))
        .collect();
    let mut map = Vec::new();
    let shards: Vec<String> =
        (0..100).map(|shard| format!("model-{shard:05}-of-00100.safetensors")).collect();
    for (names, shard) in names.chunks(1000).zip(&shards) {
        place.write(shard, weights(names));
        map.extend(names.iter().map(|name| (name.as_str(), shard.as_str())));
    }
    place.index(INDEX, &map);
    let start = Instant::now();
    assert_eq!(place.open().unwrap().tensors.len(), 100_000);
    // Every tensor in the wrong shard: told in part, counted in whole.
    let wrong: Vec<_> = map.iter().map(|(name, _)| (*name, shards[0].as_str())).collect();
    place.index(INDEX, &wrong);
    assert_eq!(place.refused().problems().len(), 1001);
    shards[1..].iter().for_each(|name| fs::remove_file(place.path().join(name)).unwrap());
    place.says("99000 things are wrong with its files, the first 1000 are told");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
