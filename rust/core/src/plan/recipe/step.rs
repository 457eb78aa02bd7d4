//! One merge of a recipe: its method, its models, which of them is the base, and folds.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    BESIDE, DEEPEST, Lines, MOST_MODELS, Model, ModelSource, Reading, Step, inside, kind, not_yet,
    show,
};
use crate::error::{Error, shown};
use crate::fit::method::{AnyMethod, Base};
use crate::fit::parameters::Per;
use crate::fit::survey::{Balance, Question};
use crate::methods;

/// A model as it is listed.
struct Listed<'v> {
    model: Model,
    parameters: Option<&'v Map<String, Value>>,
    at: String,
    /// The files that say something of it, in the order of [`BESIDE`].
    beside: [Option<PathBuf>; 2],
}

/// The keys of a listed model.
const KEYS: [&str; 4] = ["model", "parameters", "importance", "grams"];

impl Reading {
    /// Reads a merge; none where it is too wrong to go on with.
    pub(super) fn step(
        &mut self,
        map: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Option<Step> {
        if depth > DEEPEST {
            self.problem(at, Error::recipe(format!("merges are nested more than {DEEPEST} deep")));
            return None;
        }
        self.keys(map, at, depth == 0);
        let method = self.method(map, at);
        let listed = self.models(map, at, depth);
        let base = self.base(map, at, depth);
        let method = method?;
        let (base, donor, listed) = self.place_base(method, base, listed?, at)?;
        let fold = self.count(method, &listed, at)?;
        let own: Vec<_> = listed.iter().map(|one| (one.at.clone(), one.parameters)).collect();
        let auto_weight = self.auto_weight(map, at, method, base.is_some());
        let said = (map.get("parameters"), auto_weight.is_some());
        let parameters = self.parameters(method, said, &own, at, fold)?;
        let [importance, grams] = [0, 1].map(|key| self.beside(&listed, key));
        let there = [!importance.is_empty(), !grams.is_empty()];
        self.check_beside(method, at, base.is_some(), there);
        if auto_weight.is_some() && !importance.is_empty() {
            let what =
                "`importance` weighs elements with the weights that `auto_weight` would find";
            self.problem(
                &inside(at, "auto_weight"),
                Error::recipe_with_hint(what, "use one of them"),
            );
        }
        let branches: Vec<Model> = listed.into_iter().map(|one| one.model).collect();
        let parameters = Arc::new(parameters);
        let lines = self.lines(map, at, base.is_some());
        let cuts = (method.spec().cuts)(&parameters).map(Question::Cuts);
        let asked = auto_weight.map(Question::Weights).into_iter().chain(cuts);
        let surveys = asked.map(|question| self.ask(question)).collect();
        let at = at.to_owned();
        let step = Step {
            at,
            method,
            base,
            branches,
            donor,
            parameters,
            lines,
            auto_weight,
            surveys,
            importance,
            grams,
        };
        Some(if fold { folded(step) } else { step })
    }

    fn method(&mut self, map: &Map<String, Value>, at: &str) -> Option<&'static dyn AnyMethod> {
        let place = inside(at, "merge_method");
        match map.get("merge_method") {
            Some(Value::String(name)) => {
                let found = methods::named(name);
                if found.is_none() {
                    let known = methods::all().iter().map(|method| method.spec().name);
                    self.problem(&place, Error::unknown("method", name, known));
                }
                found
            }
            Some(other) => {
                self.problem(&place, Error::value("merge_method", show(other), "a method's name"));
                None
            }
            None => {
                let what = "`merge_method` is missing";
                self.problem(at, Error::recipe_with_hint(what, "`branchmerge methods` lists them"));
                None
            }
        }
    }

    fn models<'v>(
        &mut self,
        map: &'v Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Option<Vec<Listed<'v>>> {
        let place = inside(at, "models");
        let entries = match map.get("models") {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            Some(Value::Array(_) | Value::Null) | None => {
                let what = "`models` lists no model";
                self.problem(
                    if map.contains_key("models") { &place } else { at },
                    Error::recipe(what),
                );
                return None;
            }
            Some(other) => {
                let error = Error::value("models", kind(other), "a list of `model: PATH` entries");
                self.problem(&place, error);
                return None;
            }
        };
        let mut listed = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let place = format!("{place}[{i}]");
            listed.push(self.entry(entry, &place, depth));
        }
        listed.into_iter().collect()
    }

    fn entry<'v>(&mut self, entry: &'v Value, at: &str, depth: usize) -> Option<Listed<'v>> {
        let Value::Object(map) = entry else {
            self.problem(
                at,
                Error::recipe(format!("a model is {}, expected `model: PATH`", kind(entry))),
            );
            return None;
        };
        for key in map.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.problem(&inside(at, key), Error::unknown("key", key, KEYS));
        }
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
        let model = self.model(said, &inside(at, "model"), depth)?;
        Some(Listed { model, parameters, at: inside(at, "parameters"), beside })
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
    fn beside(&mut self, listed: &[Listed<'_>], key: usize) -> Vec<PathBuf> {
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

    /// Whether what stands beside the models is what the method takes.
    fn check_beside(
        &mut self,
        method: &'static dyn AnyMethod,
        at: &str,
        has_base: bool,
        [importance, grams]: [bool; 2],
    ) {
        let (spec, place) = (method.spec(), inside(at, "models"));
        if importance && !spec.weighs(has_base) {
            let what = format!("`{}` cannot weigh elements by `importance`", spec.name);
            let hint = "it goes with `linear`, and with methods on deltas where there is a base";
            self.problem(&place, Error::recipe_with_hint(what, hint));
        }
        if spec.grams && !grams {
            let what = format!("`{}` needs `grams` beside every model", spec.name);
            let hint = "`branchmerge grams MODEL -o FILE` collects them";
            self.problem(&place, Error::recipe_with_hint(what, hint));
        }
        if grams && !spec.grams {
            let what = format!("`{}` does nothing with `grams`", spec.name);
            self.problem(&place, Error::recipe_with_hint(what, "`regmean` and `lot` take them"));
        }
    }

    fn model(&mut self, said: &Value, at: &str, depth: usize) -> Option<Model> {
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
                self.problem(at, not_yet("a model written as a mapping of mergekit"));
                return None;
            }
            Value::Object(map) => ModelSource::Step(Box::new(self.step(map, at, depth + 1)?)),
            other => {
                self.problem(
                    at,
                    Error::value("model", show(other), "a path, or a recipe in its place"),
                );
                return None;
            }
        };
        Some(Model { at: at.to_owned(), source })
    }

    /// The factors over the layers, where a merge has some.
    fn lines(&mut self, map: &Map<String, Value>, at: &str, has_base: bool) -> Option<Lines> {
        let said = map.get("lines").filter(|said| !said.is_null())?;
        let place = inside(at, "lines");
        if !has_base {
            let what = "`lines` scales what a merge changes in its base, and this merge has none";
            self.problem(&place, Error::recipe(what));
            return None;
        }
        let end = |name: &str| said.get(name).and_then(Value::as_f64).filter(|end| end.is_finite());
        let only = said.as_object().is_some_and(|map| map.len() == 2);
        match (end("first"), end("last")) {
            (Some(first), Some(last)) if only => Some(Lines { first, last }),
            _ => {
                let expected =
                    "`{first: 0.5, last: 1.5}`, the factors of the first and of the last layer";
                self.problem(&place, Error::value("lines", show(said), expected));
                None
            }
        }
    }

    /// The number of a question to the whole model.
    fn ask(&mut self, question: Question) -> usize {
        self.surveys.push(question);
        self.surveys.len() - 1
    }

    /// How weights follow from norms, where a merge says so.
    fn auto_weight(
        &mut self,
        map: &Map<String, Value>,
        at: &str,
        method: &'static dyn AnyMethod,
        has_base: bool,
    ) -> Option<Balance> {
        let said = map.get("auto_weight").filter(|said| !said.is_null())?;
        let place = inside(at, "auto_weight");
        let found = Balance::WORDS.into_iter().find(|(word, _)| said == word);
        let Some((word, balance)) = found else {
            self.problem(&place, Error::value("auto_weight", show(said), "`nan` or `metagpt`"));
            return None;
        };
        let weight = method.spec().parameter("weight");
        if weight.is_none_or(|weight| weight.per != Per::Model) {
            let what = format!("`{}` has no `weight` that could be found", method.spec().name);
            self.problem(&place, Error::recipe(what));
            return None;
        }
        if balance == Balance::MetaGpt && !has_base {
            let what = format!("`{word}` weighs what the branches changed, and there is no base");
            self.problem(&place, Error::recipe_with_hint(what, "add `base_model: PATH`"));
            return None;
        }
        Some(balance)
    }

    fn base(&mut self, map: &Map<String, Value>, at: &str, depth: usize) -> Option<Model> {
        let said = map.get("base_model").filter(|said| !said.is_null())?;
        self.model(said, &inside(at, "base_model"), depth)
    }

    /// Decides which model is the base, and takes it out of the branches.
    fn place_base<'v>(
        &mut self,
        method: &'static dyn AnyMethod,
        base: Option<Model>,
        mut listed: Vec<Listed<'v>>,
        at: &str,
    ) -> Option<(Option<Model>, usize, Vec<Listed<'v>>)> {
        let name = method.spec().name;
        self.repeated(&listed);
        let same =
            base.as_ref().and_then(|base| listed.iter().position(|one| same(&one.model, base)));
        match (method.spec().base, base) {
            (Base::None | Base::Optional, None) => Some((None, 0, listed)),
            (Base::None, Some(base)) => {
                if same.is_none() {
                    let what =
                        format!("`{name}` has no base, and `base_model` is none of the models");
                    let hint = "list it among the models, or leave it out; it only gives config and tokenizer";
                    self.problem(&base.at, Error::recipe_with_hint(what, hint));
                }
                Some((None, same?, listed))
            }
            (_, Some(base)) => {
                if let Some(i) = same {
                    let own = listed.remove(i);
                    if own.parameters.is_some_and(|parameters| !parameters.is_empty()) {
                        self.warnings
                            .push(format!("`{}` does nothing: it is the base's", shown(&own.at)));
                    }
                }
                Some((Some(base), 0, listed))
            }
            (_, None) => {
                let what = format!("`{name}` needs a base, and `base_model` is missing");
                self.problem(at, Error::recipe_with_hint(what, "add `base_model: PATH`"));
                None
            }
        }
    }

    fn repeated(&mut self, listed: &[Listed<'_>]) {
        for (i, one) in listed.iter().enumerate() {
            if let Some(first) = listed[..i].iter().find(|other| same(&other.model, &one.model)) {
                let what = format!("the same model is listed twice, first at `{}`", first.model.at);
                self.problem(&one.model.at, Error::recipe(what));
            }
        }
    }

    /// Checks how many branches there are; tells whether they are folded.
    fn count(
        &mut self,
        method: &'static dyn AnyMethod,
        listed: &[Listed<'_>],
        at: &str,
    ) -> Option<bool> {
        let spec = method.spec();
        let count = listed.len();
        let many = spec.most.is_some_and(|most| count > most);
        if count >= spec.fewest && (!many || spec.folds) {
            return Some(many);
        }
        let expected = match spec.most {
            Some(most) if most == spec.fewest => format!("{most}"),
            Some(most) => format!("{} to {most}", spec.fewest),
            None => format!("at least {}", spec.fewest),
        };
        let besides = if spec.base == Base::None { "" } else { " besides the base" };
        let what = format!(
            "`{}` takes {expected} model{}{besides}, found {count}",
            spec.name,
            if expected == "1" { "" } else { "s" }
        );
        self.problem(&inside(at, "models"), Error::recipe(what));
        None
    }
}

/// Whether two models are the same checkpoint by their words.
fn same(one: &Model, other: &Model) -> bool {
    match (&one.source, &other.source) {
        (ModelSource::Checkpoint(one), ModelSource::Checkpoint(other)) => one == other,
        _ => false,
    }
}

/// base, [a, b, c] becomes base, [a, [b, c]]: each merge is the branch of the one before.
fn folded(mut step: Step) -> Step {
    let Some(mut inner) = step.branches.pop() else { return step };
    let parameters = Arc::new(step.parameters.only(&[0]));
    let of = |base: Option<Model>, branch: Model| Step {
        at: step.at.clone(),
        method: step.method,
        base,
        branches: vec![branch],
        donor: 0,
        parameters: parameters.clone(),
        lines: step.lines,
        auto_weight: None,
        surveys: Vec::new(),
        importance: Vec::new(),
        grams: Vec::new(),
    };
    while let Some(model) = step.branches.pop() {
        let at = inner.at.clone();
        inner = Model { at, source: ModelSource::Step(Box::new(of(Some(model), inner))) };
    }
    of(step.base.take(), inner)
}
