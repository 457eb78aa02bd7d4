//! The parameters of methods: what a spec declares of each, and the values that a merge has of all.

use std::collections::BTreeMap;

/// The type of a parameter, with what it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    /// A finite number within the bounds, both included.
    Number {
        /// Least value.
        low: f64,
        /// Greatest value.
        high: f64,
    },
    /// A whole number within the bounds, both included.
    Whole {
        /// Least value.
        low: f64,
        /// Greatest value.
        high: f64,
    },
    /// True or false.
    Flag,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// True, false, or one of some words.
    FlagOrChoice(&'static [&'static str]),
}

/// Whom a parameter is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each branch has its own, the merge's `parameters` give what a branch leaves out.
    Model,
    /// The merge has one.
    Global,
}

/// A parameter of a method.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// The word in recipes.
    pub name: &'static str,
    /// What it may be.
    pub kind: Type,
    /// What it is where nothing is said; `None`: it must be said.
    pub default: Option<Value>,
    /// Whom it is set for.
    pub per: Per,
    /// One line for people.
    pub help: &'static str,
}

impl Parameter {
    /// The parameter as front ends and the documentation read it.
    #[must_use]
    pub fn describe(&self) -> serde_json::Value {
        let bound = |value: f64| (value.abs() < f64::MAX).then_some(value);
        let (kind, range, choices): (_, _, &[&str]) = match self.kind {
            Type::Number { low, high } => ("float", Some([bound(low), bound(high)]), &[]),
            Type::Whole { low, high } => ("integer", Some([bound(low), bound(high)]), &[]),
            Type::Flag => ("bool", None, &[]),
            Type::Choice(words) => ("choice", None, words),
            Type::FlagOrChoice(words) => ("bool_or_choice", None, words),
        };
        serde_json::json!({
            "name": self.name, "type": kind, "default": self.default.map(Value::describe), "range": range,
            "choices": choices, "help": self.help, "required": self.default.is_none(),
            "per": if self.per == Per::Model { "model" } else { "global" },
        })
    }
}

impl Value {
    /// The value as a recipe writes it.
    #[must_use]
    pub fn describe(self) -> serde_json::Value {
        match self {
            Self::Number(number) => number.into(),
            Self::Flag(flag) => flag.into(),
            Self::Choice(word) => word.into(),
        }
    }
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A finite number.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// A word.
    Choice(&'static str),
}

/// Every parameter of one merge, each with a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Those the merge has one of.
    pub global: BTreeMap<&'static str, Value>,
    /// Those of each branch, the base not counted.
    pub branches: Vec<BTreeMap<&'static str, Value>>,
    /// Where each branch is cut, found over the whole model; empty where each tensor is cut by itself.
    pub cuts: Vec<Cut>,
}

/// The least magnitude of a branch that is kept, over all tensors of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// All elements are kept.
    All,
    /// None is.
    None,
    /// Those above a magnitude, and of equal ones those whose number in the stream is not above `order`.
    At {
        /// The magnitude.
        magnitude: f64,
        /// The largest number in the stream.
        order: u32,
    },
}

/// Why a value that a spec declares must be there.
const DECLARED: &str = "a parameter that the spec declares has a value of its type";

impl Parameters {
    /// A number of the merge.
    #[must_use]
    pub fn number(&self, name: &str) -> f64 {
        number(self.global.get(name))
    }

    /// A flag of the merge.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.global.get(name) == Some(&Value::Flag(true))
    }

    /// A word of the merge; empty where the value is a flag.
    #[must_use]
    pub fn choice(&self, name: &str) -> &'static str {
        match self.global.get(name) {
            Some(Value::Choice(word)) => word,
            _ => "",
        }
    }

    /// A number of every branch.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        self.branches.iter().map(|branch| number(branch.get(name))).collect()
    }

    /// The same merge with only some of its branches.
    #[must_use]
    pub fn only(&self, present: &[usize]) -> Self {
        let branches = present.iter().filter_map(|&i| self.branches.get(i).cloned()).collect();
        let cuts = present.iter().filter_map(|&i| self.cuts.get(i).copied()).collect();
        Self { global: self.global.clone(), branches, cuts }
    }
}

fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Number(number)) => *number,
        _ => panic!("{DECLARED}"),
    }
}
