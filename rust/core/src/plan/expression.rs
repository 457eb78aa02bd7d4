//! What one output tensor is made of: a small tree whose leaves are stored tensors and whose nodes are merges.

use std::sync::Arc;

use crate::fit::method::{AnyMethod, Bits};
use crate::fit::parameters::Parameters;
use crate::fit::tensor::Pick;
use crate::read::dtype::Dtype;

/// Where the elements of one operand come from.
#[derive(Debug)]
pub enum Expression {
    /// A stored tensor.
    Stored(StoredAt),
    /// What is made of stored tensors where it is read.
    View(Box<View>),
    /// A merge.
    Merge(Box<Merge>),
}

/// A tensor that no file holds as it is.
#[derive(Debug)]
pub enum View {
    /// Codes times scales.
    Scaled {
        /// The codes.
        codes: StoredAt,
        /// The scales, one for each block.
        scales: StoredAt,
        /// Rows and columns of a block.
        block: [u64; 2],
    },
    /// What an adapter makes of a weight.
    Adapted {
        /// The weight.
        of: Expression,
        /// What is added to it.
        product: Product,
    },
    /// Rows of tensors, in another order.
    Rows {
        /// The tensors.
        of: Vec<Expression>,
        /// Where each row comes from.
        picks: Arc<[Pick]>,
    },
}

/// The product of two thin matrices, as an adapter stores them.
#[derive(Debug)]
pub struct Product {
    /// The one with a row a row of the weight, and the one with a column a column.
    pub factors: [StoredAt; 2],
    /// Whether both are stored with rows and columns exchanged.
    pub turned: bool,
    /// What it is multiplied with.
    pub scale: f64,
    /// The norms of the rows of the sum, where they are said.
    pub magnitudes: Option<StoredAt>,
}

impl View {
    /// The views and stored tensors that it is made of.
    #[must_use]
    pub fn parts(&self) -> Vec<&Expression> {
        match self {
            Self::Scaled { .. } => Vec::new(),
            Self::Adapted { of, .. } => vec![of],
            Self::Rows { of, .. } => of.iter().collect(),
        }
    }

    /// The stored tensors that belong to it alone.
    fn own(&self) -> Vec<&StoredAt> {
        match self {
            Self::Scaled { codes, scales, .. } => vec![codes, scales],
            Self::Adapted { product, .. } => {
                product.factors.iter().chain(&product.magnitudes).collect()
            }
            Self::Rows { .. } => Vec::new(),
        }
    }
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
    /// Calls `see` with every stored tensor, in a fixed order.
    pub fn each_stored<'e>(&'e self, see: &mut impl FnMut(&'e StoredAt)) {
        match self {
            Self::Stored(at) => see(at),
            Self::View(view) => {
                view.parts().into_iter().for_each(|part| part.each_stored(see));
                view.own().into_iter().for_each(see);
            }
            Self::Merge(merge) => {
                merge.operands.iter().for_each(|operand| operand.each_stored(see));
                merge.importance.iter().chain(&merge.grams).for_each(see);
            }
        }
    }

    /// Calls `see` with every stored tensor and how often its elements are read for a tensor of so many elements.
    pub fn leaves(&self, elements: u64, see: &mut impl FnMut(&StoredAt, u64)) {
        self.walk(elements, 1, see);
    }

    fn walk(&self, elements: u64, times: u64, see: &mut impl FnMut(&StoredAt, u64)) {
        match self {
            Self::Stored(at) => see(at, times),
            Self::View(view) => {
                view.own().into_iter().for_each(|at| see(at, times));
                view.parts().into_iter().for_each(|part| part.walk(elements, times, see));
            }
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

    /// What views of it hold in memory while it is worked on, as numbers of so many bytes; `elements` tells how many a stored
    /// tensor has.
    pub fn held(&self, number: u64, elements: &dyn Fn(&StoredAt) -> u64) -> u64 {
        let all = |parts: &mut dyn Iterator<Item = &Self>| {
            parts.map(|part| part.held(number, elements)).sum::<u64>()
        };
        match self {
            Self::Stored(_) => 0,
            Self::Merge(merge) => all(&mut merge.operands.iter()),
            Self::View(view) => {
                let parts = view.parts();
                let own = match &**view {
                    View::Scaled { scales, .. } => elements(scales) * number,
                    View::Adapted { product, .. } => {
                        let thin = product.factors.iter().map(elements).sum::<u64>();
                        let magnitudes = product.magnitudes.as_ref().map_or(0, elements);
                        // Turning a factor takes as much again; a norm a row stands beside the magnitudes.
                        thin * number * 2 + magnitudes * (number + 16)
                    }
                    // The picks, and a sum of rows.
                    View::Rows { picks, .. } => {
                        (picks.len() * size_of::<Pick>()) as u64 + (1 << 20)
                    }
                };
                own + all(&mut parts.into_iter())
            }
        }
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
            Self::Stored(_) | Self::View(_) => 1,
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
