//! The values of a merge's parameters: for all tensors, for those that a filter matches, or changing over the layers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::fit::parameters::{Parameters, Value};
use crate::parallel::lock;

/// Which tensors are meant, by their names.
#[derive(Clone, Debug)]
pub enum Filter {
    /// All.
    All,
    /// Those with such a part in their names.
    Part(String),
    /// Those whose whole name the pattern matches.
    Glob(GlobMatcher),
}

impl Filter {
    /// A filter as a recipe writes it: a part of names, `*` for all, a pattern where it has a `*`, `?` or `[` in it.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn parse(said: &str) -> Result<Self> {
        if said == "*" {
            return Ok(Self::All);
        }
        if !said.contains(['*', '?', '[']) {
            return Ok(Self::Part(said.into()));
        }
        let glob = GlobBuilder::new(said).build();
        let glob = glob.map_err(|error| Error::value("filter", error.to_string(), "a pattern"))?;
        Ok(Self::Glob(glob.compile_matcher()))
    }

    /// Whether it means a tensor of that name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Part(part) => name.contains(part.as_str()),
            Self::Glob(glob) => glob.is_match(name),
        }
    }

    /// As a recipe writes it.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Part(part) => part,
            Self::Glob(glob) => glob.glob().glob(),
        }
    }
}

/// A value for some tensors.
#[derive(Debug)]
pub struct Setting {
    /// Its place in the recipe.
    pub at: String,
    /// Which tensors.
    pub filter: Filter,
    /// One value, or several for even steps from the first layer to the last.
    pub values: Vec<Value>,
}

impl Setting {
    /// Values for the tensors that the filter matches, said at a place.
    #[must_use]
    pub fn new(at: &str, filter: Filter, values: Vec<Value>) -> Self {
        Self { at: at.into(), filter, values }
    }

    fn plain(&self) -> Option<Value> {
        let all = matches!(self.filter, Filter::All) && self.values.len() == 1;
        self.values.first().copied().filter(|_| all)
    }

    /// The value at a place between the first layer (0) and the last (1): numbers between two values are in between, of
    /// other values it is the one before.
    fn at(&self, place: f64) -> Value {
        let steps = self.values.len() - 1;
        let step = ((place * steps as f64) as usize).min(steps);
        let next = (step + 1).min(steps);
        match (self.values[step], self.values[next]) {
            (Value::Number(one), Value::Number(other)) => {
                let share = place * steps as f64 - step as f64;
                Value::Number(if share == 0.0 { one } else { one + share * (other - one) })
            }
            (value, _) => value,
        }
    }

    fn describe(&self) -> Json {
        let values: Vec<Json> = self.values.iter().map(|value| value.describe()).collect();
        let value = match &values[..] {
            [one] => one.clone(),
            _ => Json::Array(values),
        };
        match &self.filter {
            Filter::All => value,
            filter => json!({ "filter": filter.word(), "value": value }),
        }
    }
}

/// What is said of one parameter, the first that matches a tensor counts.
pub type Said = Vec<Arc<Setting>>;

/// Which setting was chosen of each parameter, and the bits of the place between the layers.
type Choice = (Vec<usize>, u64);

/// The values of all parameters of a merge.
#[derive(Debug, Default)]
pub struct Settings {
    /// Of those that the merge has one of.
    pub global: BTreeMap<&'static str, Said>,
    /// Of those of each branch.
    pub branches: Vec<BTreeMap<&'static str, Said>>,
    /// What was resolved, by the settings that were chosen and the place between the layers.
    resolved: Mutex<BTreeMap<Choice, Arc<Parameters>>>,
}

impl Settings {
    /// What is said of the parameters of a merge, and of each branch.
    #[must_use]
    pub fn new(
        global: BTreeMap<&'static str, Said>,
        branches: Vec<BTreeMap<&'static str, Said>>,
    ) -> Self {
        Self { global, branches, resolved: Mutex::default() }
    }

    /// The same values for all tensors, if that is what is said.
    #[must_use]
    pub fn plain(&self) -> Option<Parameters> {
        fn of(said: &BTreeMap<&'static str, Said>) -> Option<BTreeMap<&'static str, Value>> {
            said.iter().map(|(name, said)| Some((*name, said.first()?.plain()?))).collect()
        }
        let branches = self.branches.iter().map(of).collect::<Option<_>>()?;
        Some(Parameters { global: of(&self.global)?, branches, cuts: Vec::new() })
    }

    /// The values for a tensor at a place between the first layer (0) and the last (1).
    ///
    /// # Errors
    /// The name of a parameter of which nothing that is said matches the tensor.
    pub fn resolve(
        &self,
        tensor: &str,
        place: f64,
    ) -> std::result::Result<Arc<Parameters>, &'static str> {
        let mut chosen = Vec::new();
        for said in std::iter::once(&self.global).chain(&self.branches) {
            for (name, said) in said {
                let first = said.iter().position(|setting| setting.filter.matches(tensor));
                let first = first.ok_or(*name)?;
                chosen.push(first);
            }
        }
        let key = (chosen, place.to_bits());
        if let Some(known) = lock(&self.resolved).get(&key) {
            return Ok(known.clone());
        }
        let mut chosen = key.0.iter();
        let mut of = |said: &BTreeMap<&'static str, Said>| {
            let value = |(name, said): (&&'static str, &Said)| {
                (*name, said[chosen.next().copied().unwrap_or(0)].at(place))
            };
            said.iter().map(value).collect()
        };
        let global = of(&self.global);
        let branches = self.branches.iter().map(of).collect();
        let parameters = Arc::new(Parameters { global, branches, cuts: Vec::new() });
        lock(&self.resolved).insert(key, parameters.clone());
        Ok(parameters)
    }

    /// The same merge with only some of its branches.
    #[must_use]
    pub fn only(&self, present: &[usize]) -> Self {
        let branches = present.iter().filter_map(|&i| self.branches.get(i).cloned()).collect();
        Self::new(self.global.clone(), branches)
    }

    /// All filters, with the places where they were said.
    pub fn filters(&self) -> impl Iterator<Item = (&Filter, &str)> {
        let all = std::iter::once(&self.global).chain(&self.branches);
        let settings = all.flat_map(|said| said.values().flatten());
        settings.filter_map(|one| {
            (!matches!(one.filter, Filter::All)).then_some((&one.filter, one.at.as_str()))
        })
    }
}

/// What is said, as a recipe writes it.
#[must_use]
pub fn describe(said: &[Arc<Setting>]) -> Json {
    // What comes after a value for all tensors says nothing.
    let last = said.iter().position(|one| matches!(one.filter, Filter::All));
    let said = &said[..last.map_or(said.len(), |last| last + 1)];
    match said {
        [one] if matches!(one.filter, Filter::All) => one.describe(),
        _ => said
            .iter()
            .map(|one| match &one.filter {
                Filter::All => json!({ "value": one.describe() }),
                _ => one.describe(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Setting {
        let values = values.iter().map(|&value| Value::Number(value)).collect();
        Setting::new("t", Filter::All, values)
    }

    #[test]
    fn gradients_are_straight_between_their_values() {
        let setting = numbers(&[0.0, 0.5, 0.3]);
        let at = |place: f64| match setting.at(place) {
            Value::Number(number) => number,
            _ => f64::NAN,
        };
        assert_eq!([at(0.0), at(0.5), at(1.0)], [0.0, 0.5, 0.3]);
        assert!((at(0.25) - 0.25).abs() < 1e-15 && (at(0.75) - 0.4).abs() < 1e-15);
        let words = [Value::Flag(true), Value::Flag(false), Value::Flag(true)];
        let setting = Setting::new("t", Filter::All, words.into());
        assert_eq!(
            [0.0, 0.49, 0.5, 0.99, 1.0].map(|place| setting.at(place) == words[0]),
            [true, true, false, false, true]
        );
    }

    #[test]
    fn filters_are_parts_or_patterns() {
        let matches = |said: &str, name: &str| Filter::parse(said).expect("a filter").matches(name);
        assert!(matches("mlp", "model.layers.0.mlp.up_proj.weight"));
        assert!(!matches("mlp", "model.layers.0.self_attn.q_proj.weight"));
        assert!(matches("*", "anything"));
        assert!(matches("model.layers.*.mlp.*", "model.layers.0.mlp.up_proj.weight"));
        assert!(!matches("layers.*.mlp.*", "model.layers.0.mlp.up_proj.weight"));
        assert!(matches("*.layers.[0-3].*", "model.layers.2.mlp.up_proj.weight"));
        assert!(Filter::parse("a[").is_err());
    }
}
