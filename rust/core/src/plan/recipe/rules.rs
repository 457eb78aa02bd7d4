//! Rules of a recipe: other merges of its models, for some tensors.

use serde_json::{Map, Value};

use super::values::Shared;
use super::{Model, Reading, Rule, Step, inside, kind};
use crate::error::Error;
use crate::fit::method::{AnyMethod, Base};

impl Reading {
    /// Other merges of the same models for some tensors.
    pub(super) fn rules(&mut self, map: &Map<String, Value>, step: &Step) -> Vec<Rule> {
        let said = match map.get("rules") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(said)) => said,
            Some(other) => {
                let expected = "a list of `{filter: …, merge_method: …}`";
                self.problem("rules", Error::value("rules", kind(other), expected));
                return Vec::new();
            }
        };
        let rule = |(i, said): (usize, &Value)| self.rule(said, &format!("rules[{i}]"), step);
        said.iter().enumerate().filter_map(rule).collect()
    }

    fn rule(&mut self, said: &Value, at: &str, step: &Step) -> Option<Rule> {
        const KEYS: [&str; 3] = ["filter", "merge_method", "parameters"];
        let Value::Object(map) = said else {
            let expected = "`{filter: …, merge_method: …}`";
            self.problem(at, Error::value("rules", kind(said), expected));
            return None;
        };
        for key in map.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.problem(&inside(at, key), Error::unknown("key", key, KEYS));
        }
        let filter = self.filter(map.get("filter"), at);
        let method = self.method(map, at)?;
        let (base, branches) = self.models_of_rule(method, at, step)?;
        // Files beside the models are for the merge around it.
        self.check_beside(method, at, base.is_some(), [false, false]);
        let spec = method.spec();
        if branches.len() < spec.fewest || spec.most.is_some_and(|most| branches.len() > most) {
            let what = format!("`{}` does not take {} models", spec.name, branches.len());
            self.problem(at, Error::recipe(what));
            return None;
        }
        let levels = [(inside(at, "parameters"), map.get("parameters"))];
        let own = vec![(at.to_owned(), None); branches.len()];
        let parameters =
            self.parameters(method, &Shared { levels: &levels, found: false }, &own, false)?;
        let cuts = self.cuts(method, &parameters, at);
        let surveys = cuts.into_iter().map(|question| self.ask(question)).collect();
        let step = Step {
            at: at.to_owned(),
            method,
            base,
            branches,
            donor: 0,
            parameters,
            rules: Vec::new(),
            lines: None,
            auto_weight: None,
            surveys,
            importance: Vec::new(),
            grams: Vec::new(),
        };
        Some(Rule { at: inside(at, "filter"), filter: filter?, step })
    }

    /// The base and the branches of a rule's merge: those of the merge around it, as its method takes them.
    fn models_of_rule(
        &mut self,
        method: &'static dyn AnyMethod,
        at: &str,
        step: &Step,
    ) -> Option<(Option<Model>, Vec<Model>)> {
        let spec = method.spec();
        let (base, branches) = (step.base.clone(), step.branches.clone());
        match spec.base {
            Base::None if spec.most == Some(1) => {
                // What is to pass through is the base's, or the first model's.
                Some((None, vec![base.unwrap_or_else(|| branches[step.donor].clone())]))
            }
            Base::None => Some((None, branches)),
            Base::Optional => Some((base, branches)),
            Base::Required | Base::First if base.is_some() => Some((base, branches)),
            _ => {
                let outer = step.method.spec().name;
                let what =
                    format!("`{}` needs a base, and `{outer}` around it has none", spec.name);
                let hint = "a rule has the base of the merge around it";
                self.problem(at, Error::recipe_with_hint(what, hint));
                None
            }
        }
    }
}
