//! What one output tensor is made of: a small tree whose leaves are stored tensors and whose nodes are merges.

use std::sync::Arc;

use crate::fit::method::{AnyMethod, Bits};
use crate::fit::parameters::Parameters;
use crate::read::dtype::Dtype;

/// Where the elements of one operand come from.
#[derive(Debug)]
pub enum Expression {
    /// A stored tensor.
    Stored(StoredAt),
    /// A merge.
    Merge(Box<Merge>),
}

/// A stored tensor of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// Which input.
    pub input: usize,
    /// The tensor's name there.
    pub tensor: Arc<str>,
}

/// A merge of operands.
#[derive(Debug)]
pub struct Merge {
    /// Its method.
    pub method: &'static dyn AnyMethod,
    /// The parameters of the branches that are present.
    pub parameters: Arc<Parameters>,
    /// Whether the first operand is a base.
    pub has_base: bool,
    /// The operands, the base first.
    pub operands: Vec<Expression>,
    /// The importances of the branches' elements: none, or one tensor a branch.
    pub importance: Vec<StoredAt>,
    /// The Gram matrices of what the branches' tensors are multiplied with: none, or one a branch.
    pub grams: Vec<StoredAt>,
    /// Which branches of the recipe are present: their random numbers are theirs whoever else is.
    pub branches: Vec<usize>,
    /// The seed of random numbers.
    pub seed: u64,
    /// What its change of the base is multiplied with.
    pub factor: f64,
    /// What the result is rounded to, as if it had been written.
    pub rounding: Option<Dtype>,
    /// Which of the plan's surveys it needs.
    pub surveys: Vec<usize>,
    /// How often they read its operands.
    pub survey_sweeps: u64,
}

impl Expression {
    /// Calls `see` with every stored tensor and how often its elements are read for a tensor of so many elements.
    pub fn leaves(&self, elements: u64, see: &mut impl FnMut(&StoredAt, u64)) {
        self.walk(elements, 1, see);
    }

    fn walk(&self, elements: u64, times: u64, see: &mut impl FnMut(&StoredAt, u64)) {
        match self {
            Self::Stored(at) => see(at, times),
            Self::Merge(merge) => {
                let passes = (merge.method.spec().passes)(&merge.parameters, elements);
                // Each sweep of an outer fit evaluates the inner kernel; the inner fit runs once.
                let sweeps = passes.saturating_sub(1).saturating_add(merge.survey_sweeps);
                let times = times.saturating_add(sweeps);
                for operand in &merge.operands {
                    operand.walk(elements, times, see);
                }
                merge.importance.iter().for_each(|at| see(at, times));
                merge.grams.iter().for_each(|at| see(at, 1));
            }
        }
    }

    /// The merge, this one or one inside it, that needs a survey.
    #[must_use]
    pub fn surveyed(&self, survey: usize) -> Option<(&Merge, Vec<usize>)> {
        let Self::Merge(merge) = self else { return None };
        if merge.surveys.contains(&survey) {
            return Some((merge, Vec::new()));
        }
        merge.operands.iter().enumerate().find_map(|(position, operand)| {
            let (merge, mut place) = operand.surveyed(survey)?;
            place.insert(0, position);
            Some((merge, place))
        })
    }

    /// On which machines its bits are the same.
    #[must_use]
    pub fn bits(&self) -> Bits {
        match self {
            Self::Merge(merge) if merge.method.spec().bits == Bits::Machine => Bits::Machine,
            Self::Merge(merge) if merge.operands.iter().any(|one| one.bits() == Bits::Machine) => {
                Bits::Machine
            }
            _ => Bits::Everywhere,
        }
    }

    /// How many operands it and the merges inside it have.
    #[must_use]
    pub fn operands(&self) -> u64 {
        match self {
            Self::Stored(_) => 1,
            Self::Merge(merge) => {
                (merge.operands.len() + 2 * merge.importance.len()) as u64
                    + merge
                        .operands
                        .iter()
                        .filter(|one| matches!(one, Self::Merge(_)))
                        .map(Self::operands)
                        .sum::<u64>()
            }
        }
    }
}
