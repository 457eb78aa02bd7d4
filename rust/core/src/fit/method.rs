//! What a method says of itself, and the one function it offers: `fit`, which looks at a tensor and returns a kernel.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::fit::number::Number;
use crate::fit::parameters::{Parameter, Parameters, Per, Value};
use crate::fit::tensor::{Block, Tensor};

/// What a method works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The weights themselves.
    Weights,
    /// Branches less their base; the base is added back to what the kernel makes. Without a base it is the weights.
    Delta,
}

/// How much of a tensor decides about one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// The element alone.
    Element,
    /// Its row, the last dimension.
    Row,
    /// The whole tensor.
    Tensor,
}

/// What part a base takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// None: all models count alike.
    None,
    /// The recipe may name one, besides the branches; without one the models themselves are worked on.
    Optional,
    /// The recipe must name one, besides the branches.
    Required,
    /// One of the models is the base: the first one, unless the recipe names another.
    First,
}

/// The size of a tensor that a method is planned for, and of what works on it.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'e> {
    /// Its name.
    pub name: &'e str,
    /// Elements of the tensor.
    pub elements: u64,
    /// Elements of a row, the last dimension.
    pub row: u64,
    /// Elements that share their place in the first dimension.
    pub columns: u64,
    /// Branches.
    pub branches: u64,
    /// Bytes of a number in a kernel.
    pub number: u64,
    /// Workers that share the tensor.
    pub workers: u64,
}

impl Extent<'_> {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.elements / self.row.max(1)
    }
}

/// On which machines a method's bits are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// On all.
    Everywhere,
    /// On those of one kind of processor; a tensor is one worker's. For methods that stand on a library of linear algebra.
    Machine,
}

/// What a user should know before choosing a method.
#[derive(Debug)]
pub struct Guide {
    /// A second sentence, after what it does.
    pub detail: &'static str,
    /// When to use it.
    pub when: &'static str,
    /// When not.
    pub avoid: &'static str,
    /// The parameters of its worked example, as JSON.
    pub example: &'static str,
}

/// All that a method says of itself: the plan's checks, the command line's help and the documentation read it.
#[derive(Debug)]
pub struct Spec {
    /// Its name in recipes.
    pub name: &'static str,
    /// Other names it answers to.
    pub aliases: &'static [&'static str],
    /// What it does, in one sentence.
    pub sentence: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it computes, as plain text.
    pub formula: &'static str,
    /// When to use it.
    pub guide: Guide,
    /// What it works on.
    pub space: Space,
    /// How much decides about one element.
    pub grain: Grain,
    /// What part a base takes.
    pub base: Base,
    /// How few branches there may be, the base not counted.
    pub fewest: usize,
    /// How many there may be, the base not counted; `None`: any number.
    pub most: Option<usize>,
    /// Whether more branches than `most` are folded from the right, each merge being the branch of the next.
    pub folds: bool,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Where it differs from mergekit's method of that name.
    pub differences: &'static [&'static str],
    /// What the parameters must fulfil together; the error names the parameter.
    pub check: fn(&Parameters) -> Result<()>,
    /// The share of each branch that a cut over the whole model is to keep; none where it needs no such cut.
    pub cuts: fn(&Parameters) -> Option<Vec<f64>>,
    /// Whether every branch comes with the Gram matrices of the inputs that its tensors see.
    pub grams: bool,
    /// How often every element is read, for a tensor of so many elements: the sweeps of `fit`, and one for the kernel.
    pub passes: fn(&Parameters, u64) -> u64,
    /// What its fit takes of memory, in bytes, beside what is read and what a worker computes in.
    pub memory: fn(&Parameters, &Extent<'_>) -> u64,
    /// On which machines its bits are the same.
    pub bits: Bits,
}

/// What most methods say of what they need not say themselves: any number of branches, every element read once, no memory.
pub const USUAL: Spec = Spec {
    name: "",
    aliases: &[],
    sentence: "",
    paper: "",
    formula: "",
    guide: Guide { detail: "", when: "", avoid: "", example: "{}" },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::None,
    fewest: 1,
    most: None,
    folds: false,
    parameters: &[],
    differences: &[],
    check: |_| Ok(()),
    cuts: |_| None,
    grams: false,
    passes: |_, _| 1,
    memory: |_, _| 0,
    bits: Bits::Everywhere,
};

impl Spec {
    /// The parameter of that name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// The spec as front ends and the documentation read it.
    #[must_use]
    pub fn describe(&self) -> serde_json::Value {
        let word = |known: &dyn std::fmt::Debug| format!("{known:?}").to_lowercase();
        serde_json::json!({
            "name": self.name, "aliases": self.aliases, "sentence": self.sentence, "paper": self.paper,
            "formula": self.formula, "space": word(&self.space), "grain": word(&self.grain),
            "base": word(&self.base), "branches": [self.fewest, self.most], "folds": self.folds,
            "bits": word(&self.bits), "grams": self.grams, "differences": self.differences,
            "detail": self.guide.detail, "when": self.guide.when, "avoid": self.guide.avoid,
            "example": serde_json::from_str::<serde_json::Value>(self.guide.example).unwrap_or_default(),
            "cost": self.cost(),
            "parameters": self.parameters.iter().map(Parameter::describe).collect::<Vec<_>>(),
        })
    }

    /// What it costs with the parameters of its example, for a matrix of 4096 × 4096 bfloat16 elements and one worker:
    /// how often the branches are read, and the bytes of memory that its fit takes.
    fn cost(&self) -> serde_json::Value {
        let branches = self.fewest.max(2).min(self.most.unwrap_or(2));
        let mut parameters = self.defaults(branches);
        for parameter in self.parameters {
            let said = match (parameter.name, parameter.default) {
                ("density" | "select_topk", _) => Value::Number(0.5),
                (_, None) => Value::Number(0.5),
                _ => continue,
            };
            parameters.global.insert(parameter.name, said);
            for branch in &mut parameters.branches {
                branch.insert(parameter.name, said);
            }
        }
        let (row, number) = (4096, 4);
        let elements = row * row;
        let extent = Extent {
            name: "weight",
            elements,
            row,
            columns: row,
            branches: branches as u64,
            number,
            workers: 1,
        };
        let passes = (self.passes)(&parameters, elements);
        serde_json::json!({ "passes": passes, "memory": (self.memory)(&parameters, &extent) })
    }

    /// Whether the branches' importances can weigh their elements: deltas, or models of which it is a mean.
    #[must_use]
    pub fn weighs(&self, has_base: bool) -> bool {
        let mean = self.base == Base::None && self.grain == Grain::Element;
        match self.space {
            Space::Delta => has_base,
            Space::Weights => mean && self.parameter("weight").is_some(),
        }
    }

    /// Every parameter at its default, for so many branches; those that must be said are left out.
    #[must_use]
    pub fn defaults(&self, branches: usize) -> Parameters {
        let of = |per: Per| -> BTreeMap<&'static str, Value> {
            let chosen = self.parameters.iter().filter(|parameter| parameter.per == per);
            chosen.filter_map(|parameter| Some((parameter.name, parameter.default?))).collect()
        };
        let branches = vec![of(Per::Model); branches];
        Parameters { global: of(Per::Global), branches, cuts: Vec::new() }
    }
}

/// What a fitted method does to a block: fills the output, and returns how many elements it took from a branch (zero
/// where the method takes none).
pub type Kernel<R> = Box<dyn Fn(&Block<'_, R>, &mut [R]) -> u64 + Send + Sync>;

/// What a fit found, for the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Named numbers.
    pub numbers: Vec<(&'static str, f64)>,
    /// What a user should know about this tensor.
    pub warnings: Vec<String>,
    /// Whether the method takes elements, so that their share is worth telling.
    pub takes: bool,
}

/// A method fitted to a tensor.
pub struct Fit<R> {
    /// What it does to a block.
    pub kernel: Kernel<R>,
    /// What was found.
    pub figures: Figures,
}

impl<R> Fit<R> {
    /// A fit that has nothing to tell but its kernel.
    pub fn new(kernel: impl Fn(&Block<'_, R>, &mut [R]) + Send + Sync + 'static) -> Self {
        let kernel: Kernel<R> = Box::new(move |block, out| {
            kernel(block, out);
            0
        });
        Self { kernel, figures: Figures::default() }
    }
}

/// A merge method.
pub trait Method: Sync {
    /// What it says of itself.
    fn spec(&self) -> &'static Spec;
    /// Looks at a tensor as often as it likes, and returns what to do to each of its blocks.
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>>;
}

/// A method behind a pointer: [`Method`] with its two kinds of number written out.
pub trait AnyMethod: Sync {
    /// What it says of itself.
    fn spec(&self) -> &'static Spec;
    /// Fits in single precision.
    fn fit_f32(&self, tensor: &Tensor<'_, f32>, parameters: &Parameters) -> Result<Fit<f32>>;
    /// Fits in double precision.
    fn fit_f64(&self, tensor: &Tensor<'_, f64>, parameters: &Parameters) -> Result<Fit<f64>>;
}

impl std::fmt::Debug for dyn AnyMethod {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.spec().name)
    }
}

impl<M: Method> AnyMethod for M {
    fn spec(&self) -> &'static Spec {
        Method::spec(self)
    }
    fn fit_f32(&self, tensor: &Tensor<'_, f32>, parameters: &Parameters) -> Result<Fit<f32>> {
        self.fit(tensor, parameters)
    }
    fn fit_f64(&self, tensor: &Tensor<'_, f64>, parameters: &Parameters) -> Result<Fit<f64>> {
        self.fit(tensor, parameters)
    }
}

/// A number that a method behind a pointer can be fitted in.
pub trait Fitted: Number {
    /// Fits `method`.
    fn fit(
        method: &dyn AnyMethod,
        tensor: &Tensor<'_, Self>,
        parameters: &Parameters,
    ) -> Result<Fit<Self>>;
}

impl Fitted for f32 {
    fn fit(
        method: &dyn AnyMethod,
        tensor: &Tensor<'_, f32>,
        parameters: &Parameters,
    ) -> Result<Fit<f32>> {
        method.fit_f32(tensor, parameters)
    }
}

impl Fitted for f64 {
    fn fit(
        method: &dyn AnyMethod,
        tensor: &Tensor<'_, f64>,
        parameters: &Parameters,
    ) -> Result<Fit<f64>> {
        method.fit_f64(tensor, parameters)
    }
}
