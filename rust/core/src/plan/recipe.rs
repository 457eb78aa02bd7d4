//! What the user said: mergekit's recipe language, read strictly, every problem told at once with its place.
//!
//! No file is touched here. Words first (this file: keys of the whole; `parts`: slices and modules; `step`: one merge; `models`,
//! `rules`, `values`: what it is made of; `settings`: values for some tensors), decisions after (`plan`).

mod canonical;
mod models;
mod parts;
mod root;
mod rules;
pub mod settings;
mod step;
mod tokenizer;
mod values;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, shown};
use crate::fit::method::AnyMethod;
use crate::fit::survey::{Balance, Question};
use crate::methods;
use crate::plan::recipe::settings::{Filter, Settings};
use crate::read::dtype::Dtype;

/// What a recipe says.
#[derive(Debug)]
pub struct Recipe {
    /// What is said of all tensors, or of those of each module.
    pub parts: Vec<Part>,
    /// The result's dtype, where one is asked for.
    pub dtype: Option<Dtype>,
    /// The seed of all random numbers.
    pub seed: u64,
    /// What is let through.
    pub allow: Allow,
    /// The result's tokens; those of the base, or the first model, where nothing is said.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template of the result; the tokenizer's own, where nothing is said.
    pub template: Option<Template>,
    /// Prefixes of tensors' names that are exchanged for others.
    pub rename: Vec<Rename>,
    /// What is asked of the whole model before any tensor is fitted, those of inner merges first.
    pub surveys: Vec<Question>,
    /// What inner merges are rounded to, as if they had been written.
    pub round_intermediate: Option<Dtype>,
    /// What was said and does nothing.
    pub warnings: Vec<String>,
}

/// A prefix of tensors' names, and what stands in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Its place in the recipe.
    pub at: String,
    /// The prefix.
    pub from: String,
    /// What stands in its place.
    pub to: String,
}

/// The tokens of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    /// Whose they are.
    pub source: TokenizerSource,
    /// What is said of single ones.
    pub tokens: Vec<Token>,
    /// A number of which the number of rows is a multiple.
    pub multiple: Option<u64>,
}

/// A chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// The one that most models have.
    Commonest,
    /// One that is known by its name.
    Known(&'static str),
    /// Itself, in Jinja.
    Text(String),
}

/// Where the row of a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its place in the recipe.
    pub at: String,
    /// Its text.
    pub token: String,
    /// Where its row comes from in models that lack it.
    pub source: TokenSource,
    /// Whether it comes from there in all models.
    pub force: bool,
}

/// A row for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// That of a model.
    Model(PathBuf),
    /// That of another token of a model.
    Token(PathBuf, String),
    /// A row of a model.
    Row(PathBuf, u64),
    /// Zeros.
    Zero,
}

/// Whose tokens a result has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The base's, or the first model's.
    Base,
    /// One with the tokens of all.
    Union,
    /// A model's.
    Model(PathBuf),
}

/// What is said of some of a model's tensors.
#[derive(Debug)]
pub struct Part {
    /// The module whose tensors they are; none for all of them.
    pub module: Option<String>,
    /// The merges that make its layers, one after the other.
    pub slices: Vec<Slice>,
}

/// Some layers of the result.
#[derive(Debug)]
pub struct Slice {
    /// The merge that makes them.
    pub step: Step,
    /// How many they are; none for all that the models have.
    pub layers: Option<u64>,
}

/// Another merge for some tensors.
#[derive(Debug)]
pub struct Rule {
    /// Its place in the recipe.
    pub at: String,
    /// Which tensors.
    pub filter: Filter,
    /// The merge.
    pub step: Step,
}

/// One merge.
#[derive(Debug)]
pub struct Step {
    /// Its place in the recipe; empty for the outermost.
    pub at: String,
    /// Its method.
    pub method: &'static dyn AnyMethod,
    /// Its base, where it has one.
    pub base: Option<Model>,
    /// Its branches; the base is not among them.
    pub branches: Vec<Model>,
    /// Of a merge without a base, the branch that gives config and tokenizer.
    pub donor: usize,
    /// Every parameter, with its values.
    pub parameters: Settings,
    /// Other merges for some tensors; the first that matches counts.
    pub rules: Vec<Rule>,
    /// How the change that it makes is scaled over the layers.
    pub lines: Option<Lines>,
    /// How the branches' weights follow from their norms, where they are not said.
    pub auto_weight: Option<Balance>,
    /// Which of the recipe's surveys it needs.
    pub surveys: Vec<usize>,
    /// The files with the importances of each branch's elements; none, or one a branch.
    pub importance: Vec<PathBuf>,
    /// The files with the Gram matrices of the inputs that each branch's tensors see; none, or one a branch.
    pub grams: Vec<PathBuf>,
}

/// Factors of a merge's change of its base: even steps from the first layer to the last. What is in no layer stays as it is.
///
/// Layer scaling (`LiNeS`): Wang et al., arXiv 2410.17146.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lines {
    /// Of the first layer.
    pub first: f64,
    /// Of the last.
    pub last: f64,
}

impl Lines {
    /// The factor of a layer of so many.
    #[must_use]
    pub fn at(self, layer: u64, layers: u64) -> f64 {
        let steps = layers.saturating_sub(1).max(1) as f64;
        self.first + (self.last - self.first) * (layer as f64 / steps)
    }
}

/// What a merge is made of.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its place in the recipe.
    pub at: String,
    /// A checkpoint, or another merge.
    pub source: ModelSource,
    /// The first of its layers that is meant; none for all.
    pub first_layer: Option<u64>,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A directory or a file.
    Checkpoint(PathBuf),
    /// A merge in its place.
    Step(Arc<Step>),
}

/// What is let through that would be refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// A tensor that a branch lacks.
    pub missing: Option<Missing>,
    /// A tensor that only a branch has.
    pub extra: Option<Extra>,
    /// Embeddings with other numbers of rows.
    pub shape_overlap: bool,
    /// NaN and infinity.
    pub nan_carry: bool,
    /// Tokenizers of as many rows with other tokens.
    pub vocabulary_rows: bool,
}

/// What a tensor is that a branch lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The base's.
    Base,
    /// Nothing: the branch takes no part.
    Skip,
}

/// What becomes of a tensor that only a branch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// It is copied.
    Copy,
    /// It is left out.
    Drop,
}

/// Keys of a merge wherever it stands.
const STEP_KEYS: [&str; 6] =
    ["merge_method", "models", "base_model", "parameters", "lines", "auto_weight"];
/// Keys that say the same of some layers or modules.
const PART_KEYS: [&str; 2] = ["slices", "modules"];
/// Keys of the outermost merge alone.
const ROOT_KEYS: [&str; 10] = [
    "rename",
    "dtype",
    "out_dtype",
    "seed",
    "allow",
    "round_intermediate",
    "rules",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
];
/// Keys that do nothing in mergekit either.
const DEAD: [&str; 5] =
    ["int8_mask", "residual_weight", "normalize", "name", "allow_negative_weights"];
/// The deepest nesting of merges.
const DEEPEST: usize = 32;
/// The most models in all.
const MOST_MODELS: usize = 1000;

/// What is gathered while a recipe is read.
#[derive(Default)]
struct Reading {
    problems: Vec<Error>,
    warnings: Vec<String>,
    surveys: Vec<Question>,
    models: usize,
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn parse(said: &Value) -> std::result::Result<Self, Vec<Error>> {
        let mut reading = Reading::default();
        let Value::Object(map) = said else {
            return Err(vec![Error::recipe(format!(
                "the recipe is {}, expected keys and values",
                kind(said)
            ))]);
        };
        let parts = reading.parts(map);
        let dtype = reading.dtype(map, "dtype");
        let dtype = reading.dtype(map, "out_dtype").or(dtype);
        let seed = reading.seed(map);
        let allow = reading.allow(map);
        let tokenizer = reading.tokenizer(map);
        let template = reading.template(map);
        let rename = reading.renames(map);
        let round_intermediate = reading.dtype(map, "round_intermediate");
        let Reading { mut problems, mut warnings, surveys, .. } = reading;
        match parts {
            Some(parts) if problems.is_empty() => {
                let mut told = BTreeSet::new();
                warnings.retain(|warning| told.insert(warning.clone()));
                Ok(Self {
                    parts,
                    dtype,
                    seed,
                    allow,
                    tokenizer,
                    template,
                    rename,
                    surveys,
                    round_intermediate,
                    warnings,
                })
            }
            _ => {
                // What all slices share is read for each of them.
                let mut told = BTreeSet::new();
                problems.retain(|problem| told.insert((problem.at.clone(), problem.to_string())));
                Err(problems)
            }
        }
    }

    /// The merge that the others take after: the first one's base gives config and tokenizer.
    #[must_use]
    pub fn root(&self) -> &Step {
        &self.parts[0].slices[0].step
    }
}

/// A checkpoint or another file that a recipe names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its place in the recipe.
    pub at: String,
    /// The file or directory.
    pub path: PathBuf,
    /// Whether it is a model; else it says something of one.
    pub model: bool,
}

/// The keys beside a model whose files say something of it.
pub const BESIDE: [&str; 2] = ["importance", "grams"];

/// What a recipe names, however wrong the rest of it is.
#[must_use]
pub fn checkpoints_said(said: &Value) -> Vec<Said> {
    fn named(said: &Value, at: &str, model: bool, found: &mut Vec<Said>) {
        let path = said.as_str().filter(|path| !path.is_empty() && !path.contains('\0'));
        if let Some(path) = path.filter(|_| found.len() < (1 + BESIDE.len()) * MOST_MODELS) {
            found.push(Said { at: at.to_owned(), path: PathBuf::from(path), model });
        }
    }
    fn walk_inside(said: &Value, at: &str, depth: usize, found: &mut Vec<Said>) {
        if said.is_object() {
            walk(said, at, depth, found);
        }
    }
    fn walk(said: &Value, at: &str, depth: usize, found: &mut Vec<Said>) {
        match said {
            Value::String(_) => named(said, at, true, found),
            Value::Object(map) if depth < DEEPEST => {
                if let Some(base) = map.get("base_model") {
                    walk(base, &inside(at, "base_model"), depth + 1, found);
                }
                for key in ["models", "sources"] {
                    let models = map.get(key).and_then(Value::as_array);
                    for (i, entry) in models.into_iter().flatten().enumerate() {
                        let place = inside(at, &format!("{key}[{i}]"));
                        if let Some(model) = entry.get("model") {
                            walk(model, &inside(&place, "model"), depth + 1, found);
                        }
                        for key in BESIDE {
                            if let Some(file) = entry.get(key) {
                                named(file, &inside(&place, key), false, found);
                            }
                        }
                    }
                }
                let slices = map.get("slices").and_then(Value::as_array);
                for (i, slice) in slices.into_iter().flatten().enumerate() {
                    walk_inside(slice, &inside(at, &format!("slices[{i}]")), depth + 1, found);
                }
                let modules = map.get("modules").and_then(Value::as_object);
                for (name, module) in modules.into_iter().flatten() {
                    walk_inside(module, &inside(at, &format!("modules.{name}")), depth + 1, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    if said.is_object() {
        walk(said, "", 0, &mut found);
    }
    found
}

impl Reading {
    fn problem(&mut self, at: &str, error: Error) {
        self.problems.push(if at.is_empty() { error } else { error.at(at) });
    }

    /// The keys that mean nothing here.
    fn keys(&mut self, map: &Map<String, Value>, at: &str, root: bool) {
        for key in map.keys() {
            let place = inside(at, key);
            let of_root = ROOT_KEYS.contains(&key.as_str()) || PART_KEYS.contains(&key.as_str());
            if STEP_KEYS.contains(&key.as_str()) || root && of_root {
                continue;
            }
            if ["dtype", "out_dtype"].contains(&key.as_str()) {
                let place = shown(&place);
                self.warnings.push(format!(
                    "`{place}` does nothing: what an inner merge makes is not written; \
                     `round_intermediate` rounds it as if it were"
                ));
            } else if of_root {
                let what = format!("`{key}` belongs to the outermost merge");
                self.problem(&place, Error::recipe(what));
            } else if DEAD.contains(&key.as_str()) {
                self.warnings
                    .push(format!("`{}` does nothing here, as in mergekit", shown(&place)));
            } else {
                let of_root = ROOT_KEYS.into_iter().chain(PART_KEYS).filter(|_| root);
                let known = STEP_KEYS.into_iter().chain(of_root);
                let method = map.get("merge_method").and_then(Value::as_str);
                let method = method.and_then(methods::named).map(AnyMethod::spec);
                let error = if method.is_some_and(|spec| spec.parameter(key).is_some()) {
                    let what = format!("unknown key `{}`", shown(key));
                    Error::recipe_with_hint(what, "it belongs under `parameters`")
                } else {
                    Error::unknown("key", key, known)
                };
                self.problem(&place, error);
            }
        }
    }
}

/// A place inside another.
fn inside(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// A whole number, also one that is written with a point.
fn whole(said: &Value) -> Option<u64> {
    let whole = |number: f64| {
        // All such numbers below 2^53 are exact.
        let fits = number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number);
        fits.then_some(number as u64)
    };
    said.as_u64().or_else(|| said.as_f64().and_then(whole))
}

/// A value as a message shows it.
fn show(value: &Value) -> String {
    format!("`{}`", shown(&value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
}

/// What kind of value it is.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests;
