//! The models of a merge as they are listed: what each is, which of its layers are meant, what stands beside it.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::step::Frame;
use super::{BESIDE, MOST_MODELS, Model, ModelSource, Reading, inside, kind, show, whole};
use crate::error::Error;

/// A model as it is listed.
pub(super) struct Listed<'v> {
    pub(super) model: Model,
    pub(super) parameters: Option<&'v Map<String, Value>>,
    pub(super) at: String,
    /// The files that say something of it, in the order of [`BESIDE`].
    pub(super) beside: [Option<PathBuf>; 2],
    /// How many of its layers are meant; none for all.
    pub(super) layers: Option<u64>,
}

/// The keys of a listed model.
const KEYS: [&str; 4] = ["model", "parameters", "importance", "grams"];
/// The key of those that are listed in a slice.
const RANGE: &str = "layer_range";

impl Reading {
    pub(super) fn models<'v>(&mut self, frame: &Frame<'v>) -> Option<Vec<Listed<'v>>> {
        let (map, at, key) = &frame.models;
        let place = inside(at, key);
        let entries = match map.get(*key) {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            Some(Value::Array(_) | Value::Null) | None => {
                let what = format!("`{key}` lists no model");
                self.problem(if map.contains_key(*key) { &place } else { at }, Error::recipe(what));
                return None;
            }
            Some(other) => {
                let error = Error::value(*key, kind(other), "a list of `model: PATH` entries");
                self.problem(&place, error);
                return None;
            }
        };
        let mut listed = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            listed.push(self.entry(entry, &format!("{place}[{i}]"), frame));
        }
        listed.into_iter().collect()
    }

    fn entry<'v>(&mut self, entry: &'v Value, at: &str, frame: &Frame<'_>) -> Option<Listed<'v>> {
        let ranges = frame.models.2 == "sources";
        let Value::Object(map) = entry else {
            self.problem(
                at,
                Error::recipe(format!("a model is {}, expected `model: PATH`", kind(entry))),
            );
            return None;
        };
        let known = KEYS.into_iter().chain(ranges.then_some(RANGE));
        for key in map.keys().filter(|key| !known.clone().any(|known| known == key.as_str())) {
            self.problem(&inside(at, key), Error::unknown("key", key, known.clone()));
        }
        let range = self.range(map.get(RANGE).filter(|_| ranges), at);
        let beside = BESIDE.map(|key| self.file(map, key, at));
        let parameters = match map.get("parameters") {
            None | Some(Value::Null) => None,
            Some(Value::Object(parameters)) => Some(parameters),
            Some(other) => {
                let error = Error::value("parameters", kind(other), "names and values");
                self.problem(&inside(at, "parameters"), error);
                None
            }
        };
        let Some(said) = map.get("model") else {
            self.problem(at, Error::recipe("`model` is missing"));
            return None;
        };
        let mut model = self.model(said, &inside(at, "model"), frame.depth)?;
        model.first_layer = range.map(|[first, _]| first);
        let layers = range.map(|[first, end]| end - first);
        Some(Listed { model, parameters, at: inside(at, "parameters"), beside, layers })
    }

    /// A range of layers, where one is said.
    fn range(&mut self, said: Option<&Value>, at: &str) -> Option<[u64; 2]> {
        let said = said.filter(|said| !said.is_null())?;
        let ends: Vec<u64> = said.as_array().into_iter().flatten().filter_map(whole).collect();
        let count = said.as_array().map_or(0, Vec::len);
        match ends[..] {
            [first, end] if count == 2 && first < end => Some([first, end]),
            _ => {
                let expected = "[first, end], the end not included";
                self.problem(&inside(at, RANGE), Error::value(RANGE, show(said), expected));
                None
            }
        }
    }

    /// A file that a key names, where it is there.
    fn file(&mut self, map: &Map<String, Value>, key: &str, at: &str) -> Option<PathBuf> {
        let said = map.get(key).filter(|said| !said.is_null())?;
        let path = said.as_str().filter(|path| !path.is_empty() && !path.contains('\0'));
        if path.is_none() {
            self.problem(&inside(at, key), Error::value(key, show(said), "a safetensors file"));
        }
        path.map(PathBuf::from)
    }

    /// The files beside the branches that a key names: of all of them, or of none.
    pub(super) fn beside(&mut self, listed: &[Listed<'_>], key: usize) -> Vec<PathBuf> {
        let files: Vec<PathBuf> = listed.iter().filter_map(|one| one.beside[key].clone()).collect();
        let without = listed.iter().find(|one| one.beside[key].is_none());
        if let Some(without) = without.filter(|_| !files.is_empty()) {
            let name = BESIDE[key];
            let what = format!("`{name}` is said of other models and not of this one");
            let hint = format!("give `{name}: FILE` beside every model but the base");
            self.problem(&without.model.at, Error::recipe_with_hint(what, hint));
            return Vec::new();
        }
        files
    }

    pub(super) fn model(&mut self, said: &Value, at: &str, depth: usize) -> Option<Model> {
        self.models += 1;
        if self.models > MOST_MODELS {
            if self.models == MOST_MODELS + 1 {
                self.problem(at, Error::recipe(format!("more than {MOST_MODELS} models")));
            }
            return None;
        }
        let source = match said {
            Value::String(path) if !path.is_empty() && !path.contains('\0') => {
                ModelSource::Checkpoint(PathBuf::from(path))
            }
            Value::Object(map)
                if map.contains_key("model") && !map.contains_key("merge_method") =>
            {
                let what = "a model that is written as a mapping of mergekit's is not understood";
                let hint = "write `path+adapter`, or `org/name@revision`";
                self.problem(at, Error::recipe_with_hint(what, hint));
                return None;
            }
            Value::Object(map) => ModelSource::Step(Arc::new(self.step(map, at, depth + 1)?)),
            other => {
                self.problem(
                    at,
                    Error::value("model", show(other), "a path, or a recipe in its place"),
                );
                return None;
            }
        };
        Some(Model { at: at.to_owned(), source, first_layer: None })
    }

    pub(super) fn repeated(&mut self, listed: &[Listed<'_>]) {
        for (i, one) in listed.iter().enumerate() {
            let twice = |other: &&Listed<'_>| {
                same(&other.model, &one.model) && other.model.first_layer == one.model.first_layer
            };
            if let Some(first) = listed[..i].iter().find(twice) {
                let what = format!("the same model is listed twice, first at `{}`", first.model.at);
                self.problem(&one.model.at, Error::recipe(what));
            }
        }
    }

    /// How many layers the sources of a slice are meant with; none for all.
    pub(super) fn layers_of(map: &Map<String, Value>) -> Option<u64> {
        let first = map.get("sources")?.get(0)?.get(RANGE)?;
        whole(first.get(1)?)?.checked_sub(whole(first.get(0)?)?)
    }
}

/// Whether two models are the same checkpoint by their words.
pub(super) fn same(one: &Model, other: &Model) -> bool {
    match (&one.source, &other.source) {
        (ModelSource::Checkpoint(one), ModelSource::Checkpoint(other)) => one == other,
        _ => false,
    }
}
