//! Recipes of words that recipes know, in any order and depth: what is taken says itself again, all else is told.

use std::path::Path;

use branchmerge_core::plan::recipe::{Recipe, checkpoints_said};
use serde_json::{Map, Value, json};

use crate::random::Random;
use crate::{in_halves, mutations, shows};

#[derive(Default)]
struct Ends {
    right: u64,
    wrong: u64,
}

#[test]
fn what_is_taken_says_itself_again() {
    let (cases, [even, odd]) = in_halves(10, one);
    if cases >= 10_000 {
        assert!(even.right + odd.right > cases / 50 && even.wrong + odd.wrong > cases / 5);
    }
}

fn one(mut random: Random, ends: &mut Ends) {
    let mut said = step(&mut random, 3);
    for (key, once) in [("dtype", 3), ("seed", 3), ("allow", 4), ("out_dtype", 9), ("slices", 60)] {
        if random.once_in(once) {
            let value = value(&mut random, key);
            said.insert(key.into(), value);
        }
    }
    if random.once_in(4) {
        in_parts(&mut random, &mut said);
    }
    if random.once_in(6) {
        let filter = random.of(&["mlp", "*.norm.*", "[", ""]);
        let method = random.of(&["linear", "ties", "passthrough", "arcee", "x"]);
        let rule = json!({ "filter": filter, "merge_method": method, "parameters": parameters(&mut random) });
        said.insert("rules".into(), json!([rule]));
    }
    let said = Value::Object(said);
    let _ = checkpoints_said(&said);
    let same = |path: &Path| path.to_string_lossy().into_owned();
    match Recipe::parse(&said) {
        Ok(recipe) => {
            let canonical = recipe.canonical(&same);
            let again = Recipe::parse(&canonical).map(|recipe| recipe.canonical(&same));
            assert_eq!(again.ok(), Some(canonical));
            ends.right += 1;
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(shows);
            ends.wrong += 1;
        }
    }
}

fn step(random: &mut Random, depth: usize) -> Map<String, Value> {
    let mut said = Map::new();
    let methods =
        ["linear", "task_arithmetic", "ties", "dare_ties", "arcee", "slerp", "passthrough", "x"];
    said.insert("merge_method".into(), json!(random.of(&methods)));
    let models = 1 + random.below(3);
    let models: Vec<Value> = (0..models).map(|number| model(random, number, depth)).collect();
    said.insert("models".into(), models.into());
    if !random.once_in(3) {
        let base = if random.once_in(9) { value(random, "model") } else { json!("base") };
        said.insert("base_model".into(), base);
    }
    if !random.once_in(3) {
        said.insert("parameters".into(), parameters(random));
    }
    if random.once_in(30) {
        said.remove(random.of(&["merge_method", "models"]));
    }
    said
}

/// The models of a merge slice by slice, or in modules.
fn in_parts(random: &mut Random, said: &mut Map<String, Value>) {
    let mut models = said.remove("models").unwrap_or_default();
    for model in models.as_array_mut().into_iter().flatten() {
        if !random.once_in(9) {
            let first = random.below(4);
            model["layer_range"] = json!([first, first + random.below(3)]);
        }
    }
    let slice = json!({ "sources": models, "parameters": parameters(random) });
    let slices = Value::Array(vec![slice; 1 + random.below(2)]);
    if random.once_in(2) {
        said.insert("slices".into(), slices);
    } else {
        let rest = json!({ "models": [{ "model": "base" }] });
        said.insert("modules".into(), json!({ "default": { "slices": slices }, "tower": rest }));
    }
}

fn model(random: &mut Random, number: usize, depth: usize) -> Value {
    let source = if depth > 0 && random.once_in(12) {
        Value::Object(step(random, depth - 1))
    } else if random.once_in(20) {
        value(random, "model")
    } else {
        json!(format!("m{depth}{number}"))
    };
    let mut said = json!({ "model": source });
    if random.once_in(2) {
        said["parameters"] = parameters(random);
    }
    said
}

fn parameters(random: &mut Random) -> Value {
    let names = ["weight", "density", "lambda", "t", "normalize", "rescale", "epsilon", "densty"];
    let pair = |random: &mut Random| {
        let name = if random.once_in(2) { "weight" } else { random.of(&names) };
        (name.to_owned(), value(random, name))
    };
    Value::Object((0..random.below(3)).map(|_| pair(random)).collect())
}

/// What may stand at a key, and now and then what may not.
fn value(random: &mut Random, key: &str) -> Value {
    let odd = mutations::odd(random);
    match (random.below(8), key) {
        (0, _) => serde_json::from_slice(&odd).unwrap_or(json!([0.5, 1])),
        (1, _) => json!(String::from_utf8_lossy(&odd)),
        (2, _) => json!([{ "filter": "mlp", "value": 0.5 }, { "value": 1 }]),
        (_, "allow") => json!({ random.of(&["missing", "extra", "nan", "x"]): "base" }),
        (_, "dtype" | "out_dtype") => json!(random.of(&["bfloat16", "float32", "fp16", "int8"])),
        (_, "seed") => json!(random.number()),
        (_, "model") => json!(random.of(&["", "a\0", "a+b", "../a", "org/name", "\u{202e}a"])),
        (_, "normalize") => json!(random.once_in(2)),
        _ => json!(random.below(11) as f64 / 10.0),
    }
}
