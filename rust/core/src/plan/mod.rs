//! Everything decided about a merge before a tensor is read: what was said (`recipe`), what that names (`inputs`), whether the
//! models fit together (`names`, `compatibility`, `vocabulary`) and what their tensors stand for (`quantised`, `adapters`),
//! which tensors there will be (`outputs`, by their `layers`) and what each is made of (`expression`, `compose`, `beside`),
//! where every byte will lie (`layout`), which small files come along (`sidecars`, `config`, `template`, by `json_text`), and
//! what it takes (`reading`, `memory`).

mod adapters;
mod beside;
mod compatibility;
mod compose;
mod config;
mod describe;
pub mod expression;
#[cfg(test)]
mod fixture;
mod inputs;
mod json_text;
mod layers;
pub mod layout;
mod memory;
mod names;
mod outputs;
#[expect(clippy::module_inception, reason = "the room's main word")]
pub mod plan;
mod quantised;
mod reading;
pub mod recipe;
mod sidecars;
mod template;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

pub use describe::describe;

use crate::error::{Error, Result};
use crate::plan::inputs::{Inputs, Model, open_all};
use crate::plan::plan::Plan;
use crate::plan::recipe::Recipe;
use crate::read::checkpoint::Checkpoint;
use crate::read::source::Io;

/// Bytes of tensors in a shard, where nothing is said: as transformers has it.
const SHARD: u64 = 5_000_000_000;

/// How to run, apart from what to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the result goes.
    pub out: Option<PathBuf>,
    /// How many workers; all cores where nothing is said.
    pub threads: Option<usize>,
    /// The bound on private memory in bytes; most of what is free where nothing is said.
    pub memory: Option<u64>,
    /// How files are read.
    pub io: Io,
    /// Whether what stands in the output's place is replaced.
    pub overwrite: bool,
    /// Bytes of tensors in a shard.
    pub shard_size: u64,
    /// What inputs are called that are not called by the last component of their path, such as those of the hub.
    pub labels: BTreeMap<PathBuf, String>,
}

impl Options {
    /// Reads the options of a front end.
    ///
    /// # Errors
    /// A value of another type than its option's.
    pub fn parse(said: &Value) -> Result<Self> {
        let wrong =
            |name: &str| Error::value(name, said[name].to_string(), "another type of value");
        let number = |name: &str| match &said[name] {
            Value::Null => Ok(None),
            value => value.as_u64().map(Some).ok_or_else(|| wrong(name)),
        };
        let out = match &said["out"] {
            Value::Null => None,
            Value::String(out) if !out.is_empty() && !out.contains('\0') => {
                Some(PathBuf::from(out))
            }
            _ => return Err(wrong("out")),
        };
        let io = match said["io"].as_str() {
            None | Some("map") => Io::Map,
            Some("read") => Io::Read,
            Some(_) => return Err(wrong("io")),
        };
        let labels = said["labels"].as_object().into_iter().flatten();
        let labels = labels.map(|(path, label)| Some((path.into(), label.as_str()?.to_owned())));
        Ok(Self {
            out,
            threads: number("threads")?.map(|threads| threads as usize),
            memory: number("memory")?,
            io,
            overwrite: said["overwrite"].as_bool().unwrap_or(false),
            shard_size: number("shard_size")?.unwrap_or(SHARD),
            labels: labels.collect::<Option<_>>().ok_or_else(|| wrong("labels"))?,
        })
    }
}

/// Everything decided, or every problem.
#[derive(Debug, Default)]
pub struct Outline {
    /// All that is wrong.
    pub problems: Vec<Error>,
    /// The plan, where nothing is.
    pub plan: Option<Plan>,
    /// The checkpoints that the recipe names.
    pub checkpoints_said: Vec<PathBuf>,
}

/// Decides everything about a merge from headers alone.
#[must_use]
pub fn plan(said: &Value, options: &Options) -> Outline {
    let mentioned = recipe::checkpoints_said(said);
    let mut outline = Outline {
        checkpoints_said: mentioned.iter().map(|said| said.path.clone()).collect(),
        ..Outline::default()
    };
    let recipe = Recipe::parse(said).map_err(|problems| outline.problems.extend(problems)).ok();
    let inputs = open_all(&mentioned, options, &mut outline.problems);
    if let Some(recipe) = recipe.filter(|_| outline.problems.is_empty()) {
        match compose::plan(&recipe, inputs, options) {
            Ok(plan) => outline.plan = Some(plan),
            Err(problems) => outline.problems = problems,
        }
    }
    outline
}

/// Decides everything about a merge of checkpoints that a host lends; the recipe names them by their labels.
#[must_use]
pub fn plan_lent(said: &Value, lent: Vec<Checkpoint>, options: &Options) -> Outline {
    let labels: Vec<String> = lent.iter().map(|checkpoint| checkpoint.label.clone()).collect();
    let by_path = labels.iter().map(PathBuf::from).zip(0..).collect::<BTreeMap<_, _>>();
    let mut outline = Outline::default();
    let mut inputs = Inputs { checkpoints: lent, labels, by_path, ..Inputs::default() };
    for said in recipe::checkpoints_said(said) {
        match inputs.by_path.get(&said.path) {
            Some(&input) if said.model => {
                inputs.name(&said.path, Model { input, adapters: Vec::new() });
            }
            Some(_) => {}
            None => {
                let known = inputs.labels.iter().map(String::as_str);
                let error = Error::unknown("model", &said.path.to_string_lossy(), known);
                outline.problems.push(error.at(&said.at));
            }
        }
    }
    let recipe = Recipe::parse(said).map_err(|problems| outline.problems.extend(problems)).ok();
    if let Some(recipe) = recipe.filter(|_| outline.problems.is_empty()) {
        match compose::plan(&recipe, inputs, options) {
            Ok(plan) => outline.plan = Some(plan),
            Err(problems) => outline.problems = problems,
        }
    }
    outline
}
