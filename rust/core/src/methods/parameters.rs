//! Parameters that several methods declare in the same words.

use crate::fit::prelude::*;

/// Any finite number.
pub(super) const ANY: Type = Type::Number { low: f64::MIN, high: f64::MAX };

/// The weight of a model.
pub(super) const WEIGHT: Parameter = Parameter {
    name: "weight",
    kind: ANY,
    default: None,
    per: Per::Model,
    help: "how much the model counts; used in full precision",
};

/// How much a model counts in a mean.
pub(super) const SHARE: Parameter = Parameter {
    name: "weight",
    kind: Type::Number { low: 0.0, high: f64::MAX },
    default: Some(Value::Number(1.0)),
    per: Per::Model,
    help: "how much the model counts; divided by the sum of all",
};

/// Refuses shares that are all 0.
pub(super) fn check_shares(parameters: &Parameters) -> Result<()> {
    if parameters.numbers("weight").iter().sum::<f64>() > 0.0 {
        return Ok(());
    }
    Err(Error::recipe_with_hint("all values of `weight` are 0", "set one of them above 0"))
}

/// The weight of a branch that counts like the others where nothing is said.
pub(super) const EVEN_WEIGHT: Parameter = Parameter { default: Some(Value::Number(1.0)), ..WEIGHT };

/// The share of a delta that is kept.
pub(super) const DENSITY: Parameter = Parameter {
    name: "density",
    kind: Type::Number { low: 0.0, high: 1.0 },
    default: Some(Value::Number(1.0)),
    per: Per::Model,
    help: "share of the delta's elements that is kept; 1 keeps all",
};

/// Over what a delta's largest elements are counted.
pub(super) const SCOPE: Parameter = Parameter {
    name: "scope",
    kind: Type::Choice(&["tensor", "model"]),
    default: Some(Value::Choice("tensor")),
    per: Per::Global,
    help: "whether density is a share of each tensor, or of the whole model",
};

/// The densities of a model that is cut as a whole, where they cut anything.
pub(super) fn model_cuts(parameters: &Parameters) -> Option<Vec<f64>> {
    let densities = parameters.numbers("density");
    let cuts = densities.iter().any(|&density| density > 0.0 && density < 1.0);
    (cuts && parameters.choice("scope") == "model").then_some(densities)
}

/// The sweeps that find the cuts of each tensor by itself.
pub(super) fn tensor_cuts(parameters: &Parameters) -> u64 {
    let densities = parameters.numbers("density");
    let cuts = densities.iter().any(|&density| density > 0.0 && density < 1.0);
    u64::from(cuts && parameters.choice("scope") != "model")
}

/// The factor of the merged delta.
pub(super) const LAMBDA: Parameter = Parameter {
    name: "lambda",
    kind: ANY,
    default: Some(Value::Number(1.0)),
    per: Per::Global,
    help: "factor of the merged delta",
};

/// Whether sums are divided by their weights.
pub(super) const fn normalize(default: bool) -> Parameter {
    Parameter {
        name: "normalize",
        kind: Type::Flag,
        default: Some(Value::Flag(default)),
        per: Per::Global,
        help: "divide by the sum of the weights that count",
    }
}

/// Whether what is kept of a delta grows to the norm of the whole.
pub(super) const fn rescale(default: bool) -> Parameter {
    Parameter {
        name: "rescale",
        kind: Type::Flag,
        default: Some(Value::Flag(default)),
        per: Per::Global,
        help: "grow what is kept of each delta to the L1 norm of the whole",
    }
}
