use serde_json::json;

use super::*;

fn told(said: &Value) -> Vec<(String, String)> {
    let problems = Recipe::parse(said).err().unwrap_or_default();
    problems.iter().map(|error| (error.at.clone().unwrap_or_default(), error.to_string())).collect()
}

#[test]
fn every_problem_is_told_with_its_place() {
    let said = json!({
        "merge_method": "ties", "dype": "bfloat16", "base_model": "base", "allow": { "mising": "base" }, "seed": -1,
        "models": [
            { "model": "a", "parameters": { "densty": 0.5, "weight": 1 } },
            { "model": "b", "parameters": { "weight": "one", "lambda": 1 } },
        ],
        "parameters": { "density": 1.5, "normalize": "perhaps" },
    });
    let told = told(&said);
    let places: Vec<&str> = told.iter().map(|(at, _)| at.as_str()).collect();
    for place in [
        "dype",
        "allow.mising",
        "seed",
        "models[0].parameters.densty",
        "models[1].parameters.weight",
        "models[1].parameters.lambda",
        "parameters.density",
        "parameters.normalize",
    ] {
        assert!(places.contains(&place), "{place} in {told:?}");
    }
}

#[test]
fn three_models_of_arcee_are_folded_from_the_right() {
    let said = json!({
        "merge_method": "arcee", "base_model": "a",
        "models": [{ "model": "a" }, { "model": "b" }, { "model": "c" }],
    });
    let recipe = Recipe::parse(&said).expect("a recipe");
    let canonical = recipe.canonical(&|path| path.to_string_lossy().into_owned());
    let inner = &canonical["models"][0]["model"];
    assert_eq!((&canonical["base_model"], &inner["base_model"]), (&json!("a"), &json!("b")));
    assert_eq!(inner["models"][0]["model"], json!("c"));
}

#[test]
fn a_canonical_recipe_is_its_own() {
    let said = json!({
        "merge_method": "dare_ties", "base_model": "z", "seed": 7, "out_dtype": "fp16",
        "models": [
            { "model": "a", "parameters": { "weight": "0.5" } },
            { "model": { "merge_method": "linear", "models": [{ "model": "b" }], "parameters": { "weight": 2 } } },
        ],
        "parameters": { "weight": 1, "density": 0.25, "rescale": "density" },
    });
    assert_eq!(is_its_own(&said)["models"][0]["parameters"]["weight"], json!(0.5));
    is_its_own(&json!({
        "merge_method": "ties", "base_model": "z", "slices": [
            { "sources": [
                { "model": "a", "layer_range": [0, 3], "parameters": { "weight": [0, 0.5, 1] } },
                { "model": "z", "layer_range": [1, 4] },
            ] },
            { "sources": [{ "model": "b", "layer_range": [2, 4] }], "parameters": { "density": 0.5 } },
        ],
        "parameters": { "weight": [{ "filter": "mlp", "value": [0.1, 1] }, { "value": 0.25 }], "density": { "filter": "*", "value": 1 } },
        "rules": [{ "filter": "*.norm.*", "merge_method": "task_arithmetic", "parameters": { "weight": 0.5 } }],
    }));
    is_its_own(&json!({
        "merge_method": "slerp", "base_model": "a", "parameters": { "t": 0.5 }, "modules": {
            "default": { "models": [{ "model": "a" }, { "model": "b" }] },
            "vision_tower": { "models": [{ "model": "a" }] },
        },
    }));
}

fn is_its_own(said: &Value) -> Value {
    let same = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let once = Recipe::parse(said).expect("a recipe").canonical(&same);
    let twice = Recipe::parse(&once).expect("a recipe").canonical(&same);
    assert_eq!(once, twice);
    once
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (said, part) in [
        (json!([]), "expected keys"),
        (json!({}), "merge_method"),
        (json!({ "merge_method": "arce", "models": [{ "model": "a" }] }), "unknown method"),
        (json!({ "merge_method": "linear", "models": [{ "model": "a" }] }), "needs `weight`"),
        (json!({ "merge_method": "slerp", "models": [{ "model": "a" }] }), "needs a base"),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }, { "model": "a" }], "parameters": { "weight": 1 } }),
            "twice",
        ),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }], "parameters": { "weight": [] } }),
            "expected a finite number",
        ),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }], "parameters": { "weight": [{ "filter": "b[", "value": 1 }] } }),
            "expected a pattern",
        ),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }], "parameters": { "weight": { "filtr": "b", "value": 1 } } }),
            "unknown key",
        ),
        (
            json!({ "merge_method": "passthrough", "slices": [{ "sources": [{ "model": "a", "layer_range": [3, 3] }] }] }),
            "the end not included",
        ),
        (
            json!({ "merge_method": "passthrough", "slices": [{ "sources": [{ "model": "a" }] }, { "sources": [{ "model": "a" }] }] }),
            "`layer_range` is missing",
        ),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }], "parameters": { "weight": 1 }, "rules": [{ "merge_method": "linear" }] }),
            "expected a part of tensors' names",
        ),
        (
            json!({ "merge_method": "passthrough", "models": [{ "model": "a" }, { "model": "b" }] }),
            "takes 1 model",
        ),
        (
            json!({ "merge_method": "linear", "models": [{ "model": "a" }], "slices": [{}] }),
            "`models` and `slices` are given",
        ),
        (json!({ "merge_method": "linear", "models": [{ "model": "a\u{0}" }] }), "expected a path"),
    ] {
        let told = told(&said);
        assert!(told.iter().any(|(_, message)| message.contains(part)), "{part} in {told:?}");
    }
}
