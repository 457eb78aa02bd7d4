//! A recipe in full: every parameter written, labels instead of paths. It decides, with the inputs, every byte of a result.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    Allow, BESIDE, Extra, Missing, Model, ModelSource, Part, Recipe, Step, TokenSource, Tokenizer,
    TokenizerSource, settings,
};

impl Recipe {
    /// The recipe in full; `label` gives what a checkpoint is called.
    #[must_use]
    pub fn canonical(&self, label: &dyn Fn(&Path) -> String) -> Value {
        let mut said = part(&self.parts[0], label);
        if self.parts.iter().any(|part| part.module.is_some()) {
            let named = self.parts.iter().map(|one| {
                let mut said = part(one, label);
                said.retain(|key, _| ["models", "slices"].contains(&key.as_str()));
                (one.module.clone().unwrap_or_default(), said.into())
            });
            said.retain(|key, _| !["models", "slices"].contains(&key.as_str()));
            said.insert("modules".into(), Value::Object(named.collect()));
        }
        if let Some(dtype) = self.dtype {
            said.insert("out_dtype".into(), dtype.config_name().unwrap_or(dtype.name()).into());
        }
        if let Some(dtype) = self.round_intermediate {
            let name = dtype.config_name().unwrap_or(dtype.name());
            said.insert("round_intermediate".into(), name.into());
        }
        if let Some(tokenizer) = &self.tokenizer {
            said.insert("tokenizer".into(), self::tokenizer(tokenizer, label));
        }
        if let Some(template) = &self.template {
            said.insert("chat_template".into(), template.word().into());
        }
        if !self.rename.is_empty() {
            let rename = self.rename.iter().map(|one| json!({ "from": one.from, "to": one.to }));
            said.insert("rename".into(), rename.collect());
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

fn tokenizer(said: &Tokenizer, label: &dyn Fn(&Path) -> String) -> Value {
    let source = match &said.source {
        TokenizerSource::Base => "base".into(),
        TokenizerSource::Union => "union".into(),
        TokenizerSource::Model(path) => label(path),
    };
    let tokens = said.tokens.iter().map(|one| {
        let source = match &one.source {
            TokenSource::Model(path) => label(path).into(),
            TokenSource::Token(path, token) => {
                json!({ "kind": "model_token", "model": label(path), "token": token })
            }
            TokenSource::Row(path, row) => {
                json!({ "kind": "model_token", "model": label(path), "token_id": row })
            }
            TokenSource::Zero => json!({ "kind": "zero" }),
        };
        (one.token.clone(), json!({ "source": source, "force": one.force }))
    });
    let mut told = json!({ "source": source });
    if !said.tokens.is_empty() {
        told["tokens"] = Value::Object(tokens.collect());
    }
    if let Some(multiple) = said.multiple {
        told["pad_to_multiple_of"] = multiple.into();
    }
    told
}

/// What is said of some tensors, slice by slice where it is said so.
fn part(part: &Part, label: &dyn Fn(&Path) -> String) -> Map<String, Value> {
    let mut said = step(&part.slices[0].step, label);
    if part.slices.iter().all(|slice| slice.layers.is_none()) {
        return said;
    }
    let slices = part.slices.iter().map(|slice| {
        let mut said = step(&slice.step, label);
        let mut sources = said.remove("models").unwrap_or_default();
        let models = slice.step.branches.iter().chain(&slice.step.base);
        if let (Some(base), Some(sources)) = (&slice.step.base, sources.as_array_mut()) {
            sources.push(json!({ "model": model(base, label) }));
        }
        for (model, source) in models.zip(sources.as_array_mut().into_iter().flatten()) {
            if let (Some(first), Some(layers)) = (model.first_layer, slice.layers) {
                source["layer_range"] = json!([first, first + layers]);
            }
        }
        said.retain(|key, _| key == "parameters");
        said.insert("sources".into(), sources);
        Value::Object(said)
    });
    let slices: Vec<Value> = slices.collect();
    said.retain(|key, _| !["models", "parameters"].contains(&key.as_str()));
    said.insert("slices".into(), slices.into());
    said
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
        let found = |name: &str| step.auto_weight.is_some() && name == "weight";
        let values = parameters.iter().filter(|(name, _)| !found(name));
        let values = values.map(|(name, said)| ((*name).to_owned(), settings::describe(said)));
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
        let values = step.parameters.global.iter();
        let values = values.map(|(name, said)| ((*name).to_owned(), settings::describe(said)));
        said.insert("parameters".into(), values.collect());
    }
    let rules = step.rules.iter().map(|rule| {
        let mut said = self::step(&rule.step, label);
        // A rule has its values once for all models.
        let first = rule.step.parameters.branches.first().into_iter().flatten();
        let values = first.chain(&rule.step.parameters.global);
        let values = values.map(|(name, said)| ((*name).to_owned(), settings::describe(said)));
        let values: Map<String, Value> = values.collect();
        said.retain(|key, _| key == "merge_method");
        said.insert("filter".into(), rule.filter.word().into());
        if !values.is_empty() {
            said.insert("parameters".into(), values.into());
        }
        Value::Object(said)
    });
    let rules: Vec<Value> = rules.collect();
    if !rules.is_empty() {
        said.insert("rules".into(), rules.into());
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
