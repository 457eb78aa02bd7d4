//! One merge of a recipe: its method, its models, which of them is the base, and folds.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::models::{Listed, same};
use super::settings::Settings;
use super::values::{Level, Shared};
use super::{BESIDE, DEEPEST, Lines, Model, ModelSource, Reading, Step, inside, show};
use crate::error::{Error, shown};
use crate::fit::method::{AnyMethod, Base};
use crate::fit::parameters::Per;
use crate::fit::parameters::Value::Choice;
use crate::fit::survey::{Balance, Question};
use crate::methods;

/// Where the words of a merge stand.
pub(super) struct Frame<'v> {
    /// The mapping with its method, its base and its modifiers.
    pub(super) map: &'v Map<String, Value>,
    /// The place of that mapping.
    pub(super) at: String,
    /// Where its models are listed: the mapping, its place, and the key.
    pub(super) models: (&'v Map<String, Value>, String, &'static str),
    /// The parameters for all its models, each with its place, the most specific first.
    pub(super) shared: Vec<Level<'v>>,
    /// How deep it is nested.
    pub(super) depth: usize,
}

impl Reading {
    /// Reads a merge of whole models; none where it is too wrong to go on with.
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
        if depth > 0 {
            self.keys(map, at, false);
        }
        let shared = vec![(inside(at, "parameters"), map.get("parameters"))];
        self.merge(&Frame { map, at: at.into(), models: (map, at.into(), "models"), shared, depth })
    }

    /// Reads the merge of a frame.
    pub(super) fn merge(&mut self, frame: &Frame<'_>) -> Option<Step> {
        let (map, at) = (frame.map, &*frame.at);
        let method = self.method(map, at);
        let listed = self.models(frame);
        let base = self.base(frame);
        let listed = listed?;
        let (said, method) = (method?, Self::of_module(frame, method?, base.as_ref(), &listed));
        let copied = said.spec().name != method.spec().name;
        self.even(&listed, frame);
        let (base, donor, listed) = self.place_base(method, base, listed, at)?;
        if let (Some(base), true) = (&base, listed.is_empty()) {
            self.warnings.push(format!("no model is left besides the base `{}`", shown(&base.at)));
            // What is said of the merge does nothing, and is read all the same.
            let shared = Shared { levels: &frame.shared, found: false };
            self.parameters(method, &shared, &[], false);
            self.lines(map, at, true);
            let mut step = self.alone(frame, base.clone());
            if frame.depth == 0 {
                step.rules = self.rules(map, &step);
            }
            return Some(step);
        }
        let fold = self.count(method, &listed, frame)?;
        let own: Vec<_> = listed.iter().map(|one| (one.at.clone(), one.parameters)).collect();
        // A module that is copied has no weights, and changes no base.
        let auto_weight =
            if copied { None } else { self.auto_weight(map, at, method, base.is_some()) };
        let shared = Shared { levels: &frame.shared, found: auto_weight.is_some() };
        let parameters = self.parameters(method, &shared, &own, fold)?;
        let [importance, grams] = [0, 1].map(|key| self.beside(&listed, key));
        let there = [!importance.is_empty(), !grams.is_empty()];
        self.check_beside(method, at, base.is_some(), there);
        if auto_weight.is_some() && !importance.is_empty() {
            let what =
                "`importance` weighs elements with the weights that `auto_weight` would find";
            let error = Error::recipe_with_hint(what, "use one of them");
            self.problem(&inside(at, "auto_weight"), error);
        }
        let branches: Vec<Model> = listed.into_iter().map(|one| one.model).collect();
        let lines = if copied { None } else { self.lines(map, at, base.is_some()) };
        let cuts = self.cuts(method, &parameters, at);
        let asked = auto_weight.map(Question::Weights).into_iter().chain(cuts);
        let surveys = asked.map(|question| self.ask(question)).collect();
        let mut step = Step {
            at: at.to_owned(),
            method,
            base,
            branches,
            donor,
            parameters,
            rules: Vec::new(),
            lines,
            auto_weight,
            surveys,
            importance,
            grams,
        };
        if frame.depth == 0 {
            step.rules = self.rules(map, &step);
        }
        Some(if fold { folded(step) } else { step })
    }

    /// A model as it is, where a merge has nothing else.
    pub(super) fn alone(&mut self, frame: &Frame<'_>, model: Model) -> Step {
        let method = methods::passthrough();
        let parameters =
            self.parameters(method, &Shared::default(), &[(String::new(), None)], false);
        Step {
            at: frame.at.clone(),
            method,
            base: None,
            branches: vec![model],
            donor: 0,
            parameters: parameters.unwrap_or_default(),
            rules: Vec::new(),
            lines: None,
            auto_weight: None,
            surveys: Vec::new(),
            importance: Vec::new(),
            grams: Vec::new(),
        }
    }

    /// A module with one model is that model's, whatever the method of the others.
    fn of_module(
        frame: &Frame<'_>,
        method: &'static dyn AnyMethod,
        base: Option<&Model>,
        listed: &[Listed<'_>],
    ) -> &'static dyn AnyMethod {
        let alone = frame.depth == 0
            && frame.models.1.starts_with("modules.")
            && listed.len() == 1
            && base.is_none_or(|base| same(&listed[0].model, base));
        if alone { methods::passthrough() } else { method }
    }

    /// The question where branches are cut, for a method that cuts them over the whole model.
    pub(super) fn cuts(
        &mut self,
        method: &'static dyn AnyMethod,
        parameters: &Settings,
        at: &str,
    ) -> Option<Question> {
        if let Some(plain) = parameters.plain() {
            return (method.spec().cuts)(&plain).map(Question::Cuts);
        }
        let mut words = parameters.global.get("scope").into_iter().flatten();
        if words.any(|said| said.values.contains(&Choice("model"))) {
            let what = "`scope: model` cuts the whole model, and a parameter changes over it";
            let hint = "give plain values, or `scope: tensor`";
            self.problem(&inside(at, "parameters"), Error::recipe_with_hint(what, hint));
        }
        None
    }

    pub(super) fn method(
        &mut self,
        map: &Map<String, Value>,
        at: &str,
    ) -> Option<&'static dyn AnyMethod> {
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
                let hint = if map.contains_key("gate_mode") || map.contains_key("experts") {
                    "this recipe builds a mixture of experts, which is no merge"
                } else {
                    "`branchmerge methods` lists them"
                };
                self.problem(at, Error::recipe_with_hint(what, hint));
                None
            }
        }
    }

    /// Whether what stands beside the models is what the method takes.
    pub(super) fn check_beside(
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
    pub(super) fn ask(&mut self, question: Question) -> usize {
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

    /// The base: the one that is said nearest to the models.
    fn base(&mut self, frame: &Frame<'_>) -> Option<Model> {
        let near = (frame.models.0, frame.models.1.as_str());
        for (map, at) in [near, (frame.map, &frame.at)] {
            if let Some(said) = map.get("base_model").filter(|said| !said.is_null()) {
                return self.model(said, &inside(at, "base_model"), frame.depth);
            }
        }
        None
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
        // A base that is not listed is meant with the layers of the first model that is.
        let first_layer = same.or(listed.first().map(|_| 0)).map(|i| listed[i].model.first_layer);
        let base = base.map(|base| Model {
            first_layer: first_layer.flatten(),
            at: same.map_or(base.at, |i| listed[i].model.at.clone()),
            ..base
        });
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
                    self.read_base(method, &own);
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

    /// Reads what stands beside the base, of which nothing counts.
    fn read_base(&mut self, method: &'static dyn AnyMethod, own: &Listed<'_>) {
        if let Some(parameters) = own.parameters {
            self.read(method, parameters, &own.at, Some(false));
        }
        for (key, _) in BESIDE.iter().zip(&own.beside).filter(|(_, file)| file.is_some()) {
            let what = format!("`{key}` says something of a branch, and this is the base");
            self.problem(&own.model.at, Error::recipe_with_hint(what, "leave it out"));
        }
    }

    /// Refuses sources of a slice, the base among them, that differ in their number of layers.
    fn even(&mut self, listed: &[Listed<'_>], frame: &Frame<'_>) {
        let place = inside(&frame.models.1, frame.models.2);
        let lengths: Vec<u64> = listed.iter().filter_map(|one| one.layers).collect();
        let uneven = lengths.windows(2).any(|two| two[0] != two[1]);
        if uneven || !lengths.is_empty() && lengths.len() < listed.len() {
            let said = listed
                .iter()
                .map(|one| one.layers.map_or_else(|| "all".into(), |layers| layers.to_string()));
            let said = said.collect::<Vec<_>>().join(", ");
            let what = format!("the sources of a slice differ in their number of layers: {said}");
            let hint = "give each range a `- sources:` of its own";
            self.problem(&place, Error::recipe_with_hint(what, hint));
        }
    }

    /// Checks how many branches there are; tells whether they are folded.
    fn count(
        &mut self,
        method: &'static dyn AnyMethod,
        listed: &[Listed<'_>],
        frame: &Frame<'_>,
    ) -> Option<bool> {
        let spec = method.spec();
        let count = listed.len();
        let place = inside(&frame.models.1, frame.models.2);
        let many = spec.most.is_some_and(|most| count > most);
        let folds = spec.folds && frame.models.2 == "models";
        if count >= spec.fewest && (!many || folds) {
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
        self.problem(&place, Error::recipe(what));
        None
    }
}

/// base, [a, b, c] becomes base, [a, [b, c]]: each merge is the branch of the one before.
fn folded(mut step: Step) -> Step {
    let Some(mut inner) = step.branches.pop() else { return step };
    let of = |base: Option<Model>, branch: Model| Step {
        at: step.at.clone(),
        method: step.method,
        base,
        branches: vec![branch],
        donor: 0,
        parameters: step.parameters.only(&[0]),
        rules: Vec::new(),
        lines: step.lines,
        auto_weight: None,
        surveys: Vec::new(),
        importance: Vec::new(),
        grams: Vec::new(),
    };
    while let Some(model) = step.branches.pop() {
        let at = inner.at.clone();
        let source = ModelSource::Step(Arc::new(of(Some(model), inner)));
        inner = Model { at, source, first_layer: None };
    }
    let outermost = of(step.base.clone(), inner);
    Step { rules: std::mem::take(&mut step.rules), ..outermost }
}
