//! The parameters of a merge: every declared one gets a value, everything else is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Said};

use super::{Reading, inside, kind, not_yet, show};
use crate::error::{Error, shown};
use crate::fit::method::AnyMethod;
use crate::fit::parameters::{Parameter, Parameters, Per, Type, Value};

/// Parameters of mergekit's methods that do nothing: in any of them, or in some.
const DEAD: [&str; 2] = ["int8_mask", "residual_weight"];

type Own<'v> = (String, Option<&'v Map<String, Said>>);

impl Reading {
    /// All parameters of a merge whose branches have the values `own`, each with its place. What is said for all of them
    /// comes with whether their weights are found.
    pub(super) fn parameters(
        &mut self,
        method: &'static dyn AnyMethod,
        (shared, found): (Option<&Said>, bool),
        own: &[Own<'_>],
        at: &str,
        fold: bool,
    ) -> Option<Parameters> {
        let before = self.problems.len();
        let place = inside(at, "parameters");
        let empty = Map::new();
        let shared = match shared {
            None | Some(Said::Null) => &empty,
            Some(Said::Object(map)) => map,
            Some(other) => {
                self.problem(&place, Error::value("parameters", kind(other), "names and values"));
                return None;
            }
        };
        let common = self.read(method, shared, &place, None);
        let owns: Vec<BTreeMap<&'static str, Value>> = own
            .iter()
            .map(|(at, map)| self.read(method, map.unwrap_or(&empty), at, Some(fold)))
            .collect();
        let mut parameters = method.spec().defaults(own.len());
        if found {
            self.no_weights(own, shared, &place);
            for branch in &mut parameters.branches {
                branch.insert("weight", Value::Number(1.0));
            }
        }
        for (name, value) in &common {
            let per = method.spec().parameter(name).map(|parameter| parameter.per);
            match per {
                Some(Per::Model) => parameters.branches.iter_mut().for_each(|branch| {
                    branch.insert(name, *value);
                }),
                _ => drop(parameters.global.insert(name, *value)),
            }
        }
        for (branch, own) in parameters.branches.iter_mut().zip(owns) {
            branch.extend(own);
        }
        self.missing(method, &parameters, own, &place, before);
        if self.problems.len() > before {
            return None;
        }
        if let Err(error) = (method.spec().check)(&parameters) {
            let at = shared_place(own, shared, &place);
            self.problem(&at, error);
            return None;
        }
        Some(parameters)
    }

    /// Refuses weights that are said and found.
    fn no_weights(&mut self, own: &[Own<'_>], shared: &Map<String, Said>, place: &str) {
        let at = shared_place(own, shared, place);
        if at.ends_with("weight") {
            let what = "`weight` is said, and `auto_weight` would find it";
            self.problem(&at, Error::recipe_with_hint(what, "leave one of the two out"));
        }
    }

    /// The values in one place. `of_model` is none for those of the whole merge, else whether the merge is folded.
    fn read(
        &mut self,
        method: &'static dyn AnyMethod,
        map: &Map<String, Said>,
        at: &str,
        of_model: Option<bool>,
    ) -> BTreeMap<&'static str, Value> {
        let mut values = BTreeMap::new();
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
            if let Some(value) = self.value(parameter, said, &place) {
                values.insert(parameter.name, value);
            }
        }
        values
    }

    fn unknown_parameter(&mut self, method: &'static dyn AnyMethod, key: &str, place: &str) {
        let spec = method.spec();
        if DEAD.contains(&key)
            || spec.name == "task_arithmetic" && ["density", "rescale"].contains(&key)
        {
            self.warnings.push(format!("`{}` does nothing here, as in mergekit", shown(place)));
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

    fn value(&mut self, parameter: &Parameter, said: &Said, place: &str) -> Option<Value> {
        if said.is_array() || said.is_object() {
            let what = format!("a gradient or filter as `{}`", parameter.name);
            self.problem(place, not_yet(&what));
            return None;
        }
        let found = match parameter.kind {
            Type::Number { low, high } => {
                number(said).filter(|number| (low..=high).contains(number)).map(Value::Number)
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
        parameters: &Parameters,
        own: &[Own<'_>],
        place: &str,
        before: usize,
    ) {
        for parameter in
            method.spec().parameters.iter().filter(|parameter| parameter.default.is_none())
        {
            let name = parameter.name;
            // A value that was said and is wrong has been told.
            let told = self.problems[before..].iter().any(|error| {
                error.at.as_deref().is_some_and(|at| {
                    at.ends_with(&format!(".{name}")) || at == inside("parameters", name)
                })
            });
            let lacking: Vec<&str> = match parameter.per {
                Per::Global if parameters.global.contains_key(name) => Vec::new(),
                Per::Global => vec![place],
                Per::Model => {
                    let lack = parameters
                        .branches
                        .iter()
                        .zip(own)
                        .filter(|(branch, _)| !branch.contains_key(name));
                    lack.map(|(_, (at, _))| at.as_str()).collect()
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
fn shared_place(own: &[Own<'_>], shared: &Map<String, Said>, place: &str) -> String {
    let first = own.iter().find(|(_, map)| map.is_some_and(|map| map.contains_key("weight")));
    match first {
        Some((at, _)) => inside(at, "weight"),
        None if shared.contains_key("weight") => inside(place, "weight"),
        None => place.to_owned(),
    }
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
        Type::Number { low, high } => format!("a number from {low} to {high}"),
        Type::Flag => "true or false".into(),
        Type::Choice(words) => list(words),
        Type::FlagOrChoice(words) => format!("true, false or {}", list(words)),
    }
}
