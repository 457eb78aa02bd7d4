//! Tiny checkpoints for the tests of planning: headers with nothing but zeros behind them.

use std::fs::{self, File};
use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::layout::lay_out;
use super::plan::Plan;
use super::{Options, plan};
use crate::error::Error;
use crate::read::dtype::Dtype;

/// A tensor of a checkpoint: name, dtype, shape.
pub(super) type Asked<'n> = (&'n str, Dtype, &'n [u64]);

/// What most checkpoints of these tests hold.
pub(super) const USUAL: [Asked<'static>; 3] = [
    ("model.embed_tokens.weight", Dtype::BF16, &[6, 4]),
    ("model.layers.0.weight", Dtype::BF16, &[3, 4]),
    ("lm_head.weight", Dtype::BF16, &[6, 4]),
];

/// A directory with checkpoints; names are relative to it.
pub(super) struct Room(TempDir);

impl Room {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// A room with the usual checkpoints of these names.
    pub(super) fn with(names: &[&str]) -> Self {
        let room = Self::new();
        names.iter().for_each(|name| room.checkpoint(name, &USUAL));
        room
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    pub(super) fn checkpoint(&self, name: &str, tensors: &[Asked<'_>]) {
        let asked: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape)| ((*name).to_owned(), *dtype, shape.to_vec()))
            .collect();
        let layout = lay_out(&asked, u64::MAX).expect("a layout");
        let directory = self.0.path().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let mut file = File::create(directory.join("model.safetensors")).expect("a file");
        file.write_all(&layout.files[0].header).expect("a header");
        file.set_len(layout.files[0].bytes).expect("room");
        self.small(name, "config.json", r#"{ "torch_dtype": "bfloat16" }"#);
    }

    pub(super) fn small(&self, name: &str, file: &str, text: &str) {
        fs::write(self.0.path().join(name).join(file), text).expect("a small file");
    }

    /// The plan of a recipe whose models are named as in this room, or every problem.
    pub(super) fn plan(&self, said: &Value) -> Result<Plan, Vec<Error>> {
        self.plan_with(said, &json!({}))
    }

    pub(super) fn plan_with(&self, said: &Value, options: &Value) -> Result<Plan, Vec<Error>> {
        let options = Options::parse(options).expect("options");
        let outline = plan(&self.placed(said), &options);
        match outline.plan {
            Some(plan) if outline.problems.is_empty() => Ok(plan),
            _ => Err(outline.problems),
        }
    }

    /// Every problem of a recipe, as a user reads it, with its hint.
    pub(super) fn problems(&self, said: &Value) -> Vec<String> {
        let problems = self.plan(said).err().unwrap_or_default();
        let told = problems.iter().flat_map(Error::problems);
        told.map(|one| format!("{one} ({})", one.hint().unwrap_or_default())).collect()
    }

    /// A recipe with its models' names as paths in this room.
    fn placed(&self, said: &Value) -> Value {
        match said {
            Value::Array(list) => list.iter().map(|one| self.placed(one)).collect(),
            Value::Object(map) => {
                let entry = |(key, value): (&String, &Value)| {
                    let names = ["model", "base_model"].contains(&key.as_str());
                    let placed = match value {
                        Value::String(name) if names => self.path(name).into(),
                        other => self.placed(other),
                    };
                    (key.clone(), placed)
                };
                Value::Object(map.iter().map(entry).collect())
            }
            other => other.clone(),
        }
    }
}

/// A merge of `branches` on `base` by weights of 1.
pub(super) fn task_arithmetic(base: &str, branches: &[&str]) -> Value {
    let models: Vec<Value> = branches.iter().map(|name| json!({ "model": name })).collect();
    json!({
        "merge_method": "task_arithmetic", "base_model": base, "models": models,
        "parameters": { "weight": 1 },
    })
}

/// The same merge with rules that let something through.
pub(super) fn allowing(mut said: Value, allow: Value) -> Value {
    said["allow"] = allow;
    said
}

/// That one problem, and no other, has all these parts.
#[track_caller]
pub(super) fn assert_told(problems: &[String], parts: &[&str]) {
    assert_eq!(problems.len(), 1, "{problems:#?}");
    for part in parts {
        assert!(problems[0].contains(part), "`{part}` in {problems:#?}");
    }
}
