//! A recipe in full: every parameter written, labels instead of paths. It decides, with the inputs, every byte of a result.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Allow, BESIDE, Extra, Missing, Model, ModelSource, Recipe, Step};

impl Recipe {
    /// The recipe in full; `label` gives what a checkpoint is called.
    #[must_use]
    pub fn canonical(&self, label: &dyn Fn(&Path) -> String) -> Value {
        let mut said = step(&self.root, label);
        if let Some(dtype) = self.dtype {
            said.insert("out_dtype".into(), dtype.config_name().unwrap_or(dtype.name()).into());
        }
        if let Some(dtype) = self.round_intermediate {
            let name = dtype.config_name().unwrap_or(dtype.name());
            said.insert("round_intermediate".into(), name.into());
        }
        said.insert("seed".into(), self.seed.into());
        Value::Object(said)
    }
}

impl Allow {
    /// The rules as a recipe writes them.
    #[must_use]
    pub fn describe(&self) -> Value {
        json!({
            "missing": self.missing.map(|missing| match missing { Missing::Base => "base", Missing::Skip => "skip" }),
            "extra": self.extra.map(|extra| match extra { Extra::Copy => "copy", Extra::Drop => "drop" }),
            "shape": self.shape_overlap.then_some("overlap"),
            "nan": self.nan_carry.then_some("carry"),
            "vocabulary": self.vocabulary_rows.then_some("rows"),
        })
    }
}

fn step(step: &Step, label: &dyn Fn(&Path) -> String) -> Map<String, Value> {
    let mut said = Map::new();
    said.insert("merge_method".into(), step.method.spec().name.into());
    if let Some(base) = &step.base {
        said.insert("base_model".into(), model(base, label));
    }
    let branches = step.branches.iter().zip(&step.parameters.branches).enumerate();
    let models = branches.map(|(number, (branch, parameters))| {
        let mut entry = Map::new();
        entry.insert("model".into(), model(branch, label));
        let said = |name: &&str| step.auto_weight.is_none() || *name != "weight";
        let values = parameters.iter().filter(|(name, _)| said(name));
        let values = values.map(|(name, value)| ((*name).to_owned(), value.describe()));
        let values: Map<String, Value> = values.collect();
        if !values.is_empty() {
            entry.insert("parameters".into(), values.into());
        }
        for (key, files) in BESIDE.into_iter().zip([&step.importance, &step.grams]) {
            if let Some(file) = files.get(number) {
                entry.insert(key.into(), label(file).into());
            }
        }
        Value::Object(entry)
    });
    said.insert("models".into(), models.collect());
    if !step.parameters.global.is_empty() {
        let values = step
            .parameters
            .global
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.describe()));
        said.insert("parameters".into(), values.collect());
    }
    if let Some(balance) = step.auto_weight {
        said.insert("auto_weight".into(), balance.word().into());
    }
    if let Some(lines) = step.lines {
        said.insert("lines".into(), json!({ "first": lines.first, "last": lines.last }));
    }
    said
}

fn model(model: &Model, label: &dyn Fn(&Path) -> String) -> Value {
    match &model.source {
        ModelSource::Checkpoint(path) => label(path).into(),
        ModelSource::Step(inner) => Value::Object(step(inner, label)),
    }
}
