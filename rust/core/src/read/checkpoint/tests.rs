//! Every layout that checkpoints come in, and their small files.

mod hostile;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A directory to make a checkpoint in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path().join(name), content).unwrap();
        self
    }

    /// A weight file with these tensors, a byte each.
    fn weights(&self, name: &str, tensors: &[&str]) -> &Self {
        self.write(name, weights(tensors))
    }

    fn index(&self, name: &str, map: &[(&str, &str)]) -> &Self {
        let lines: Vec<String> =
            map.iter().map(|(tensor, shard)| format!("{tensor:?}:{shard:?}")).collect();
        self.write(
            name,
            format!("{{\"metadata\":{{\"total_size\":1}},\"weight_map\":{{{}}}}}", lines.join(",")),
        )
    }

    fn open(&self) -> Result<Checkpoint> {
        let [map, read] = [Io::Map, Io::Read].map(|io| Checkpoint::open(self.path(), io));
        if let (Ok(map), Ok(read)) = (&map, &read) {
            assert_eq!(map.tensors, read.tensors);
        }
        assert_eq!(
            map.as_ref().err().map(ToString::to_string),
            read.err().map(|error| error.to_string())
        );
        map
    }

    /// The names of the files and the tensors with the number of their file.
    fn opened(&self) -> (Vec<String>, Vec<(String, usize)>) {
        let checkpoint = self.open().unwrap();
        checkpoint.unchanged().unwrap();
        let names = checkpoint.files.iter().map(|file| file.path().file_name().unwrap());
        let tensors = checkpoint.tensors.iter().map(|(name, stored)| (name.clone(), stored.file));
        (names.map(|name| name.to_str().unwrap().to_owned()).collect(), tensors.collect())
    }

    fn refused(&self) -> Error {
        self.open().unwrap_err()
    }

    /// That it is refused with these words or, where it is none, this hint.
    fn says(&self, what: &str) {
        let error = self.refused();
        let said = format!("{error} {}", error.hint().unwrap_or_default());
        assert!(said.contains(what), "{said}");
        let all = error.problems().iter().all(|problem| problem.path.is_some());
        let named = error.path.is_some() || all;
        assert!(named, "a problem without a path: {error:?}");
    }
}

fn weights(tensors: &[impl AsRef<str>]) -> Vec<u8> {
    let entry = |(at, name): (usize, &_)| {
        let name: &str = AsRef::as_ref(name);
        format!(r#"{name:?}:{{"dtype":"U8","shape":[1],"data_offsets":[{at},{}]}}"#, at + 1)
    };
    let json =
        format!("{{{}}}", tensors.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    let length = (json.len() as u64).to_le_bytes();
    [&length[..], json.as_bytes(), &vec![7; tensors.len()]].concat()
}

#[test]
fn one_file() {
    let place = Place::new();
    place.weights("model.safetensors", &["b", "a"]).weights("consolidated.safetensors", &["other"]);
    place.write("config.json", "{}");
    let (files, tensors) = place.opened();
    assert_eq!(files, ["model.safetensors"]);
    assert_eq!(tensors, [("a".to_owned(), 0), ("b".to_owned(), 0)]);
    let checkpoint = place.open().unwrap();
    let real = fs::canonicalize(place.path()).unwrap();
    assert_eq!(checkpoint.label, real.file_name().unwrap().to_str().unwrap());
    assert_eq!(checkpoint.directory, real);
    assert!(checkpoint.config().unwrap().unwrap().is_object());
}

#[test]
fn a_file_that_was_named_itself() {
    let place = Place::new();
    place.weights("some.safetensors", &["a"]).write("config.json", "{}").write("a.gguf", "GGUF");
    let checkpoint = Checkpoint::open(&place.path().join("some.safetensors"), Io::Map).unwrap();
    assert_eq!((checkpoint.label.as_str(), checkpoint.tensors.len()), ("some.safetensors", 1));
    assert_eq!(checkpoint.config().unwrap(), None);
    assert!(checkpoint.sidecars().unwrap().is_empty());
    let refused = |name: &str| {
        Checkpoint::open(&place.path().join(name), Io::Map).unwrap_err().hint().unwrap()
    };
    assert!(refused("a.gguf").contains("name a directory with safetensors files"));
    assert!(refused("config.json").contains("name a directory with safetensors files"));
}

#[test]
fn shards_with_an_index() {
    let place = Place::new();
    place.weights("model-00002-of-00002.safetensors", &["c"]);
    place
        .weights("model-00001-of-00002.safetensors", &["a", "b"])
        .weights("consolidated.safetensors", &["a"]);
    let shards = [
        ("a", "model-00001-of-00002.safetensors"),
        ("b", "model-00001-of-00002.safetensors"),
        ("c", "model-00002-of-00002.safetensors"),
    ];
    place.index(INDEX, &shards);
    let (files, tensors) = place.opened();
    assert_eq!(files, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(tensors, [("a".to_owned(), 0), ("b".to_owned(), 0), ("c".to_owned(), 1)]);
}

#[test]
fn bare_files() {
    let place = Place::new();
    place.weights("b.safetensors", &["b"]).weights("a.safetensors", &["a"]);
    place.weights("adapter_model.safetensors", &["a"]);
    let (files, tensors) = place.opened();
    assert_eq!(files, ["a.safetensors", "b.safetensors"]);
    assert_eq!(tensors, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    place.weights("c.safetensors", &["b"]).says("tensor `b`: ");
    place.says("the tensor is in `b.safetensors` and in `c.safetensors`");
}

#[test]
fn numbered_files_without_an_index_must_be_whole() {
    let place = Place::new();
    place
        .weights("m-00001-of-00003.safetensors", &["a"])
        .weights("m-00003-of-00003.safetensors", &["c"]);
    place.says("2 of 3 files `m-…` are there, number 2 is not");
    place.weights("m-00002-of-00003.safetensors", &["b"]);
    assert_eq!(place.opened().0.len(), 3);
    let huge = Place::new();
    huge.weights("m-00001-of-18446744073709551615.safetensors", &["a"]).says("number 2 is not");
}

#[test]
fn a_cache_of_the_hub() {
    let place = Place::new();
    let blobs = place.path().join("models--org--name/blobs");
    let snapshot = place.path().join("models--org--name/snapshots/c0ffee");
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("1f"), weights(&["a"])).unwrap();
    fs::write(blobs.join("2f"), "{\"x\":1}").unwrap();
    symlink("../../blobs/1f", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/2f", snapshot.join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&snapshot, Io::Map).unwrap();
    assert_eq!((checkpoint.label.as_str(), checkpoint.tensors.len()), ("c0ffee", 1));
    assert_eq!(checkpoint.config().unwrap().unwrap()["x"], 1);
    assert_eq!(checkpoint.sidecars().unwrap(), ["config.json"]);
    let file = Checkpoint::open(&snapshot.join("model.safetensors"), Io::Map).unwrap();
    assert_eq!(
        (file.label.as_str(), file.directory),
        ("model.safetensors", fs::canonicalize(&snapshot).unwrap())
    );
    fs::remove_file(blobs.join("1f")).unwrap();
    let error = Checkpoint::open(&snapshot, Io::Map).unwrap_err().to_string();
    assert!(error.contains("model.safetensors`: open: No such file"), "{error}");
    fs::remove_file(blobs.join("2f")).unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("it is a link to"));
    assert!(checkpoint.sidecars().is_err());
}

#[test]
fn what_is_no_checkpoint() {
    let open = |path: &str| Checkpoint::open(Path::new(path), Io::Map).unwrap_err();
    for (path, hint) in [
        ("org-of-nobody/name", "only models are fetched from the hub"),
        ("./org-of-nobody/name", "relative to the working directory"),
        ("Cargo.toml/a", ""),
    ] {
        assert!(matches!(*open(path).kind, Kind::NoCheckpoint { .. }), "{path}");
        assert!(open(path).hint().unwrap().contains(hint), "{path}");
    }
    for (names, hint) in [
        (&["config.json"][..], "a checkpoint holds `model.safetensors`"),
        (&["pytorch_model.bin"], "`safe_serialization=True`"),
        (&["model.Q4_K.gguf"], "GGUF"),
        (&["adapter_model.safetensors", "adapter_config.json"], "it is an adapter"),
    ] {
        let place = Place::new();
        names.iter().for_each(|name| {
            place.write(name, "");
        });
        place.says(hint);
        assert!(matches!(*place.refused().kind, Kind::NoCheckpoint { .. }), "{names:?}");
    }
}

#[test]
fn small_files() {
    let place = Place::new();
    place.weights("model.safetensors", &["a"]);
    let checkpoint = place.open().unwrap();
    assert_eq!(checkpoint.config().unwrap(), None);
    assert_eq!(checkpoint.small("tokenizer.json", 4).unwrap(), None);
    place.write("tokenizer.json", "1234");
    assert_eq!(checkpoint.small("tokenizer.json", 4).unwrap().unwrap(), b"1234");
    assert!(
        checkpoint
            .small("tokenizer.json", 2)
            .unwrap_err()
            .to_string()
            .contains("it has 4 bytes, at most 2 are read")
    );
    for (text, what) in [("{\"a\":1,\"a\":1}", "stands twice"), ("\u{feff}{}", "byte order mark")] {
        place.write("config.json", text);
        let error = checkpoint.config().unwrap_err();
        assert!(error.to_string().contains(what) && error.path.is_some());
    }
    fs::File::create(place.path().join("config.json")).unwrap().set_len(CONFIG_CAP + 1).unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("at most 10000000 are read"));
}

#[test]
fn sidecars() {
    let place = Place::new();
    place.weights("model.safetensors", &["a"]).weights("other.safetensors", &["a"]);
    for name in [
        "README.md",
        "readme",
        "branchmerge.json",
        "branch.json",
        "mergekit_config.yml",
        "trainer_state.json",
        "training_args.bin",
        "optimizer.PT",
        "x.index.json",
        ".gitattributes",
        "a.gguf",
        "rng_state.pth",
    ] {
        place.write(name, "{}");
    }
    let kept = ["LICENSE", "chat_template.jinja", "config.json", "merges.txt", "tokenizer.model"];
    kept.iter().for_each(|name| {
        place.write(name, "{}");
    });
    fs::create_dir(place.path().join("onnx")).unwrap();
    fs::create_dir(place.path().join("additional_chat_templates")).unwrap();
    place
        .write("additional_chat_templates/tool.jinja", "")
        .write("additional_chat_templates/x.txt", "");
    let expected = [
        "LICENSE",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "tokenizer.model",
    ];
    let checkpoint = place.open().unwrap();
    assert_eq!(checkpoint.sidecars().unwrap(), expected);
    let refused = |what: &str| {
        let error = checkpoint.sidecars().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    place.write("a\nb.txt", "");
    refused("control characters");
    fs::remove_file(place.path().join("a\nb.txt")).unwrap();
    fs::File::create(place.path().join("big.txt")).unwrap().set_len(LARGEST_SMALL + 1).unwrap();
    refused("it has 100000001 bytes, at most 100000000 are read");
    fs::remove_file(place.path().join("big.txt")).unwrap();
    assert_eq!(checkpoint.sidecars().unwrap(), expected);
    fs::write(place.path().join(OsStr::from_bytes(b"\xff.txt")), "").unwrap();
    refused("the file name `\u{fffd}.txt` is not UTF-8");
    place.says("is not UTF-8");
}

#[test]
fn changes_are_seen() {
    let place = Place::new();
    place.weights("model.safetensors", &["a"]);
    let checkpoint = place.open().unwrap();
    checkpoint.unchanged().unwrap();
    place.weights("model.safetensors", &["a", "b"]);
    assert!(matches!(*checkpoint.unchanged().unwrap_err().kind, Kind::Changed { .. }));
}
