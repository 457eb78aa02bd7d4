//! The checkpoints, models and adapters that a recipe names, opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::plan::Options;
use crate::plan::adapters::Changes;
use crate::plan::quantised::Scale;
use crate::plan::recipe::Said;
use crate::read::adapter::Adapter;
use crate::read::checkpoint::Checkpoint;
use crate::read::header::Stored;

/// The checkpoints of a recipe, each opened once, and where each path of the recipe leads.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) labels: Vec<String>,
    pub(crate) by_path: BTreeMap<PathBuf, usize>,
    /// The models that the recipe names.
    pub(crate) models: Vec<Model>,
    /// Which of them each path of a model leads to.
    pub(crate) model_at: BTreeMap<PathBuf, usize>,
    /// Which of the checkpoints are adapters, and what those do.
    pub(crate) adapters: BTreeMap<usize, Adapter>,
    /// What adapters make of each model's tensors.
    pub(crate) changes: Vec<Changes>,
    /// What config.json of each model's checkpoint says.
    pub(crate) configs: BTreeMap<usize, Value>,
    /// The scales of weights that are codes, by checkpoint.
    pub(crate) scales: BTreeMap<usize, BTreeMap<String, Scale>>,
}

/// A model of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    /// Its checkpoint.
    pub(crate) input: usize,
    /// The adapters that go on top of it, in this order.
    pub(crate) adapters: Vec<usize>,
}

impl Inputs {
    /// The checkpoints that are models, or have adapters on top of them; the others say something of one.
    pub(crate) fn of_models(&self) -> BTreeSet<usize> {
        self.models.iter().map(|model| model.input).collect()
    }

    /// What a model is called.
    pub(crate) fn label(&self, model: usize) -> String {
        let model = &self.models[model];
        let parts = std::iter::once(model.input).chain(model.adapters.iter().copied());
        parts.map(|input| self.labels[input].as_str()).collect::<Vec<_>>().join("+")
    }

    /// The model that a path leads to, in whatever words.
    pub(crate) fn model_of(&self, path: &Path) -> Option<usize> {
        let known = self.model_at.get(path).copied();
        known.or_else(|| {
            let real = fs::canonicalize(path).ok()?;
            let is = |model: &Model| {
                model.adapters.is_empty() && self.checkpoints[model.input].directory == real
            };
            self.models.iter().position(is)
        })
    }

    /// That a path is none of the recipe's models.
    pub(crate) fn unknown_model(&self, path: &Path, words: &[&str]) -> Error {
        let known: Vec<String> = (0..self.models.len()).map(|model| self.label(model)).collect();
        let known = known.iter().map(String::as_str).chain(words.iter().copied());
        Error::unknown("model", &path.to_string_lossy(), known)
    }

    /// The tensors of a model's checkpoint.
    pub(crate) fn tensors_of(&self, model: usize) -> &BTreeMap<String, Stored> {
        &self.checkpoints[self.models[model].input].tensors
    }

    /// Remembers what a path of a model leads to.
    pub(super) fn name(&mut self, path: &Path, model: Model) {
        let known = self.models.iter().position(|known| *known == model);
        let number = known.unwrap_or_else(|| {
            self.models.push(model);
            self.models.len() - 1
        });
        self.model_at.insert(path.to_owned(), number);
    }
}

/// Opens all that a recipe names, each once.
pub(super) fn open_all(mentioned: &[Said], options: &Options, problems: &mut Vec<Error>) -> Inputs {
    let inputs = Inputs::default();
    let mut desk = Opening { options, inputs, by_real: BTreeMap::new(), problems };
    for Said { at, path, model } in mentioned {
        if *model {
            desk.model(path, at);
        } else if let Some(input) = desk.input(path, at, false) {
            desk.inputs.by_path.insert(path.clone(), input);
        }
    }
    desk.inputs
}

/// Checkpoints and adapters being opened.
struct Opening<'o> {
    options: &'o Options,
    inputs: Inputs,
    /// What each real path has become, as a checkpoint or as an adapter; none where it could not be opened.
    by_real: BTreeMap<(PathBuf, bool), Option<usize>>,
    problems: &'o mut Vec<Error>,
}

impl Opening<'_> {
    /// A model: what exists under the whole name, or `model+adapter`.
    fn model(&mut self, path: &Path, at: &str) -> Option<Model> {
        if let Some(&known) = self.inputs.model_at.get(path) {
            return Some(self.inputs.models[known].clone());
        }
        let model = if let Some((model, adapter)) = adapted(path) {
            let (model, adapter) = (self.model(&model, at), self.input(&adapter, at, true));
            let mut model = model?;
            model.adapters.push(adapter?);
            model
        } else {
            Model { input: self.input(path, at, false)?, adapters: Vec::new() }
        };
        self.inputs.name(path, model.clone());
        Some(model)
    }

    fn input(&mut self, path: &Path, at: &str, adapter: bool) -> Option<usize> {
        // Where the name leads nowhere, opening says so.
        let real = fs::canonicalize(path);
        let entry = real.as_ref().map_or_else(|_| path.to_owned(), Clone::clone);
        if let Some(known) = self.by_real.get(&(entry.clone(), adapter)) {
            return *known;
        }
        let opened = if adapter {
            Adapter::open(path, self.options.io).map(|(opened, adapter)| (opened, Some(adapter)))
        } else {
            Checkpoint::open(path, self.options.io).map(|opened| (opened, None))
        };
        let real = real.map_err(|error| Error::os("look at", path, error));
        let label = self.options.labels.get(path);
        let input = match opened.and_then(|opened| real.map(|_| opened)) {
            Ok((opened, adapter)) => {
                let inputs = &mut self.inputs;
                let number = inputs.checkpoints.len();
                inputs.labels.push(free_label(label.unwrap_or(&opened.label), &inputs.labels));
                inputs.checkpoints.push(opened);
                inputs.adapters.extend(adapter.map(|adapter| (number, adapter)));
                Some(number)
            }
            Err(error) => {
                let label = label.cloned().unwrap_or_else(|| path_label(path));
                self.problems.push(error.at(at).branch(label));
                None
            }
        };
        self.by_real.insert((entry, adapter), input);
        input
    }
}

/// The two parts of `model+adapter`, where nothing of that name is there.
fn adapted(path: &Path) -> Option<(PathBuf, PathBuf)> {
    if fs::symlink_metadata(path).is_ok() {
        return None;
    }
    let (model, adapter) = path.to_str()?.rsplit_once('+')?;
    (!model.is_empty() && !adapter.is_empty()).then(|| (model.into(), adapter.into()))
}

fn path_label(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy())
        .into_owned()
}

/// A label that no other input has: the second `final` is `final-2`.
fn free_label(label: &str, taken: &[String]) -> String {
    let numbered =
        |number: usize| if number == 1 { label.to_owned() } else { format!("{label}-{number}") };
    (1..).map(numbered).find(|label| !taken.contains(label)).unwrap_or_default()
}
