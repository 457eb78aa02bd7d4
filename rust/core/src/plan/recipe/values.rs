//! The parameters of a merge: every declared one gets a value, everything else is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Said};

use super::settings::{Filter, Said as Settled, Setting, Settings};
use super::{Reading, inside, kind, show};
use crate::error::{Error, shown};
use crate::fit::method::AnyMethod;
use crate::fit::parameters::{Parameter, Per, Type, Value};
use crate::methods;

/// Parameters of mergekit's methods that do nothing: in any of them, or in some.
const DEAD: [&str; 2] = ["int8_mask", "residual_weight"];

/// Where values are said, and the values.
type Own<'v> = (String, Option<&'v Map<String, Said>>);

/// Where values for all models of a merge are said, and what is there.
pub(super) type Level<'v> = (String, Option<&'v Said>);

/// What is said for all models of a merge.
#[derive(Clone, Copy, Default)]
pub(super) struct Shared<'v> {
    /// The most specific first.
    pub(super) levels: &'v [Level<'v>],
    /// Whether their weights are found over the whole model.
    pub(super) found: bool,
}

/// Names and what is said of each.
type Values = BTreeMap<&'static str, Settled>;

impl Reading {
    /// All parameters of a merge whose branches have the values `own`, each with its place.
    pub(super) fn parameters(
        &mut self,
        method: &'static dyn AnyMethod,
        shared: &Shared<'_>,
        own: &[Own<'_>],
        fold: bool,
    ) -> Option<Settings> {
        let before = self.problems.len();
        let empty = Map::new();
        let mut levels: Vec<Own<'_>> = Vec::new();
        for (at, said) in shared.levels {
            match said {
                None | Some(Said::Null) => levels.push((at.clone(), None)),
                Some(Said::Object(map)) => levels.push((at.clone(), Some(map))),
                Some(other) => {
                    self.problem(at, Error::value("parameters", kind(other), "names and values"));
                }
            }
        }
        let common: Vec<Values> = levels
            .iter()
            .map(|(at, map)| self.read(method, map.unwrap_or(&empty), at, None))
            .collect();
        let owns: Vec<Values> = own
            .iter()
            .map(|(at, map)| self.read(method, map.unwrap_or(&empty), at, Some(fold)))
            .collect();
        let mut global = Values::new();
        let mut branches = vec![Values::new(); own.len()];
        for parameter in method.spec().parameters {
            let name = parameter.name;
            let shared = common.iter().filter_map(|level| level.get(name)).flatten().cloned();
            let default = parameter.default.map(|value| Setting::new("", Filter::All, vec![value]));
            let last: Settled = shared.chain(default.map(Arc::new)).collect();
            if parameter.per == Per::Global {
                global.insert(name, last);
                continue;
            }
            for (branch, own) in branches.iter_mut().zip(&owns) {
                let own = own.get(name).into_iter().flatten();
                branch.insert(name, own.chain(&last).cloned().collect());
            }
        }
        let place = levels.last().map_or_else(String::new, |(at, _)| at.clone());
        if shared.found {
            self.no_weights(own, &levels, &place);
            let even = Arc::new(Setting::new("", Filter::All, vec![Value::Number(1.0)]));
            for branch in &mut branches {
                branch.insert("weight", vec![even.clone()]);
            }
        }
        let settings = Settings::new(global, branches);
        self.missing(method, &settings, own, &place, before);
        if self.problems.len() > before {
            return None;
        }
        if let Some(Err(error)) = settings.plain().map(|plain| (method.spec().check)(&plain)) {
            let at = shared_place(own, &levels, &place);
            self.problem(&at, error);
            return None;
        }
        Some(settings)
    }

    /// Refuses weights that are said and found.
    fn no_weights(&mut self, own: &[Own<'_>], shared: &[Own<'_>], place: &str) {
        let at = shared_place(own, shared, place);
        if at.ends_with("weight") {
            let what = "`weight` is said, and `auto_weight` would find it";
            self.problem(&at, Error::recipe_with_hint(what, "leave one of the two out"));
        }
    }

    /// The values in one place. `of_model` is none for those of the whole merge, else whether the merge is folded.
    pub(super) fn read(
        &mut self,
        method: &'static dyn AnyMethod,
        map: &Map<String, Said>,
        at: &str,
        of_model: Option<bool>,
    ) -> Values {
        let mut values = Values::new();
        for (key, said) in map {
            let place = inside(at, key);
            let Some(parameter) = method.spec().parameter(key) else {
                self.unknown_parameter(method, key, &place);
                continue;
            };
            if of_model.is_some() && parameter.per == Per::Global {
                let what = format!("`{key}` is one for the whole merge, not a model's");
                self.problem(
                    &place,
                    Error::recipe_with_hint(what, "set it under the merge's `parameters`"),
                );
                continue;
            }
            if of_model == Some(true) {
                let what = format!("`{key}` is set for one model of a merge that is folded");
                self.problem(
                    &place,
                    Error::recipe_with_hint(what, "nest the merges in the recipe"),
                );
                continue;
            }
            let settled = self.settled(parameter, said, &place);
            values.insert(parameter.name, settled);
        }
        values
    }

    fn unknown_parameter(&mut self, method: &'static dyn AnyMethod, key: &str, place: &str) {
        let spec = method.spec();
        if DEAD.contains(&key) {
            self.warnings.push(format!("`{}` does nothing here, as in mergekit", shown(place)));
            return;
        }
        if methods::all().iter().any(|other| other.spec().parameter(key).is_some()) {
            let (place, name) = (shown(place), spec.name);
            self.warnings.push(format!("`{place}` does nothing: it is no parameter of `{name}`"));
            return;
        }
        let known = spec.parameters.iter().map(|parameter| parameter.name);
        let mut error = Error::unknown("parameter", key, known);
        if spec.parameters.is_empty() {
            error = Error::recipe(format!(
                "`{}` takes no parameters, found `{}`",
                spec.name,
                shown(key)
            ));
        }
        self.problem(place, error);
    }

    /// What is said of a parameter: a value, a list of values that change over the layers, or a list of such for tensors
    /// that filters match.
    fn settled(&mut self, parameter: &Parameter, said: &Said, place: &str) -> Settled {
        let entries = match said {
            Said::Array(entries) if entries.iter().any(Said::is_object) => entries,
            _ => return self.setting(parameter, said, place).into_iter().collect(),
        };
        let setting =
            |(i, entry): (usize, &Said)| self.setting(parameter, entry, &format!("{place}[{i}]"));
        entries.iter().enumerate().filter_map(setting).collect()
    }

    /// A value, alone or with its filter.
    fn setting(&mut self, parameter: &Parameter, said: &Said, place: &str) -> Option<Arc<Setting>> {
        let (filter, said) = match said {
            Said::Object(map) => {
                for key in map.keys().filter(|key| !["filter", "value"].contains(&key.as_str())) {
                    self.problem(
                        &inside(place, key),
                        Error::unknown("key", key, ["filter", "value"]),
                    );
                }
                let Some(value) = map.get("value") else {
                    self.problem(place, Error::recipe("`value` is missing"));
                    return None;
                };
                let said = map.get("filter").filter(|said| !said.is_null());
                (said.map_or(Some(Filter::All), |said| self.filter(Some(said), place)), value)
            }
            other => (Some(Filter::All), other),
        };
        let values = match said {
            Said::Array(values) if values.is_empty() => {
                self.problem(place, Error::value(parameter.name, "[]", expected(parameter.kind)));
                return None;
            }
            Said::Array(values) => {
                values.iter().map(|value| self.value(parameter, value, place)).collect()
            }
            one => self.value(parameter, one, place).map(|value| vec![value]),
        };
        Some(Arc::new(Setting::new(place, filter?, values?)))
    }

    /// Which tensors are meant.
    pub(super) fn filter(&mut self, said: Option<&Said>, at: &str) -> Option<Filter> {
        let place = inside(at, "filter");
        let Some(text) = said.and_then(Said::as_str).filter(|text| !text.is_empty()) else {
            let found = said.map_or_else(|| "nothing".into(), show);
            self.problem(&place, Error::value("filter", found, "a part of tensors' names, or `*`"));
            return None;
        };
        Filter::parse(text).map_err(|error| self.problem(&place, error)).ok()
    }

    fn value(&mut self, parameter: &Parameter, said: &Said, place: &str) -> Option<Value> {
        let found = match parameter.kind {
            Type::Number { low, high } => {
                number(said).filter(|number| (low..=high).contains(number)).map(Value::Number)
            }
            Type::Whole { low, high } => {
                let whole = number(said).filter(|number| number.fract() == 0.0);
                whole.filter(|number| (low..=high).contains(number)).map(Value::Number)
            }
            Type::Flag => flag(said).map(Value::Flag),
            Type::Choice(words) => word(said, words),
            Type::FlagOrChoice(words) => flag(said).map(Value::Flag).or_else(|| word(said, words)),
        };
        if found.is_none() {
            self.problem(place, Error::value(parameter.name, show(said), expected(parameter.kind)));
        }
        found
    }

    fn missing(
        &mut self,
        method: &'static dyn AnyMethod,
        settings: &Settings,
        own: &[Own<'_>],
        place: &str,
        before: usize,
    ) {
        for parameter in
            method.spec().parameters.iter().filter(|parameter| parameter.default.is_none())
        {
            let name = parameter.name;
            // A value that was said and is wrong has been told.
            let part = format!(".{name}");
            let told = self.problems[before..]
                .iter()
                .any(|error| error.at.as_deref().is_some_and(|at| at.contains(&part)));
            let lacks = |said: &Values| said.get(name).is_none_or(Vec::is_empty);
            let lacking: Vec<&str> = match parameter.per {
                Per::Global if lacks(&settings.global) => vec![place],
                Per::Global => Vec::new(),
                Per::Model => {
                    let branches = settings.branches.iter().zip(own);
                    let lacking = branches.filter(|(branch, _)| lacks(branch));
                    lacking.map(|(_, (at, _))| at.as_str()).collect()
                }
            };
            if told || lacking.is_empty() {
                continue;
            }
            let what = format!("`{}` needs `{name}`: {}", method.spec().name, parameter.help);
            let of = if parameter.per == Per::Model {
                "for each model, or once for all"
            } else {
                "once"
            };
            let hint = format!("set it under `parameters`, {of} (`-p {name}=VALUE`)");
            let at = lacking[0].strip_suffix(".parameters").unwrap_or(lacking[0]).to_owned();
            self.problem(&at, Error::recipe_with_hint(what, hint));
        }
    }
}

/// Where the weights of a merge were said.
fn shared_place(own: &[Own<'_>], shared: &[Own<'_>], place: &str) -> String {
    let says = |(_, map): &&Own<'_>| map.is_some_and(|map| map.contains_key("weight"));
    let first = own.iter().chain(shared).find(says);
    first.map_or_else(|| place.to_owned(), |(at, _)| inside(at, "weight"))
}

/// A finite number, also one written as a text.
fn number(said: &Said) -> Option<f64> {
    let number = match said {
        Said::Number(number) => number.as_f64(),
        Said::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

fn flag(said: &Said) -> Option<bool> {
    match said {
        Said::Bool(flag) => Some(*flag),
        // As searches over recipes write them.
        Said::Number(number) => {
            [0.0, 1.0].iter().position(|one| number.as_f64() == Some(*one)).map(|one| one == 1)
        }
        Said::String(text) => text.to_lowercase().parse().ok(),
        _ => None,
    }
}

fn word(said: &Said, words: &[&'static str]) -> Option<Value> {
    let said = said.as_str()?;
    words.iter().find(|word| **word == said).map(|word| Value::Choice(word))
}

fn expected(kind: Type) -> String {
    let list = |words: &[&str]| {
        words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
    };
    match kind {
        Type::Number { low, high } if low == f64::MIN && high == f64::MAX => {
            "a finite number".into()
        }
        Type::Number { low, high: f64::MAX } => format!("a number from {low} on"),
        Type::Number { low, high } => format!("a number from {low} to {high}"),
        Type::Whole { low, high } => format!("a whole number from {low} to {high}"),
        Type::Flag => "true or false".into(),
        Type::Choice(words) => list(words),
        Type::FlagOrChoice(words) => format!("true, false or {}", list(words)),
    }
}
