//! Expressions of the plan become what methods work on, and fitted nodes.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::error::{Kind, Result};
use crate::fit::method::{Fitted, Space};
use crate::fit::node::Node;
use crate::fit::parameters::{Parameters, Per};
use crate::fit::random::Stream;
use crate::fit::survey::Answer;
use crate::fit::tensor::{
    Adapted, Context, Importance, Leaf, Operand, Rows, Scaled, Tensor, View, matrix,
};
use crate::parallel::{Progress, Team};
use crate::plan::expression::{self as plan, Expression, Merge, StoredAt};
use crate::plan::plan::{Job, Plan};
use crate::read::header::Stored;
use crate::read::source::Source;

/// Turns an expression of the plan into fitted nodes, from the leaves up.
pub(super) struct Build<'b> {
    pub(super) plan: &'b Plan,
    /// What surveys have found so far.
    pub(super) answers: &'b [Answer],
    pub(super) progress: &'b Progress,
    pub(super) job: &'b Job,
    pub(super) team: Team,
}

impl<'b> Build<'b> {
    /// A merge, fitted. `place` are the positions of the merges around it in theirs, from the outermost.
    pub(super) fn node<R: Fitted>(
        &self,
        merge: &'b Merge,
        place: &mut Vec<usize>,
    ) -> Result<Node<'b, R>> {
        let tensor = self.tensor(merge, place)?;
        let fit = R::fit(merge.method, &tensor, &self.parameters(merge))?;
        let (factor, rounding) = (merge.factor, merge.rounding);
        Ok(Node { tensor, kernel: fit.kernel, factor, rounding, figures: fit.figures })
    }

    /// What a merge works with: what was said, and what surveys have found.
    fn parameters(&self, merge: &'b Merge) -> Cow<'b, Parameters> {
        let mut parameters = Cow::Borrowed(&*merge.parameters);
        for answer in merge.surveys.iter().filter_map(|&survey| self.answers.get(survey)) {
            answer.apply(parameters.to_mut(), &merge.branches);
        }
        parameters
    }

    /// What a merge works on.
    pub(super) fn tensor<R: Fitted>(
        &self,
        merge: &'b Merge,
        place: &mut Vec<usize>,
    ) -> Result<Tensor<'b, R>> {
        let mut operands = Vec::with_capacity(merge.operands.len());
        for (position, operand) in merge.operands.iter().enumerate() {
            operands.push(match operand {
                Expression::Stored(at) => Operand::Leaf(self.leaf(at)),
                Expression::View(_) => Operand::View(self.view(operand)?),
                Expression::Merge(inner) => {
                    place.push(position);
                    let node = self.node(inner, place)?;
                    place.pop();
                    Operand::Node(Box::new(node))
                }
            });
        }
        let stream = |&branch: &usize| {
            place.push(branch);
            let stream = Stream::new(merge.seed, &self.job.name, place);
            place.pop();
            stream
        };
        let streams = merge.branches.iter().map(stream).collect();
        let space = if merge.has_base { merge.method.spec().space } else { Space::Weights };
        let elements = self.job.elements();
        Ok(Tensor {
            name: &self.job.name,
            elements,
            row_length: self.job.row(),
            columns: self.job.columns(),
            space,
            has_base: merge.has_base,
            streams,
            team: self.team,
            context: Context { progress: self.progress, carry: self.plan.carry },
            operands,
            importance: self.importance(merge),
            grams: merge.grams.iter().map(|at| self.leaf(at)).collect(),
        })
    }

    /// What no file holds as it is.
    fn view<R: Fitted>(&self, expression: &'b Expression) -> Result<View<'b, R>> {
        let view = match expression {
            Expression::Stored(at) => return Ok(View::Stored(self.leaf(at))),
            Expression::View(view) => view,
            Expression::Merge(_) => {
                let what = "a view is made of a merge".into();
                return Err(Kind::Internal { what }.into());
            }
        };
        Ok(match &**view {
            plan::View::Scaled { codes, scales, block } => View::Scaled(Scaled {
                codes: self.leaf(codes),
                scales: matrix(&self.leaf(scales), false)?,
                block: *block,
            }),
            plan::View::Adapted { of, product } => {
                let [left, right] = product.factors.each_ref().map(|at| self.leaf(at));
                let magnitudes = product.magnitudes.as_ref().map(|at| self.leaf(at));
                let magnitudes = magnitudes.map(|leaf| matrix(&leaf, false)).transpose()?;
                let magnitudes = magnitudes.unwrap_or_default();
                let columns = self.job.row();
                let right: Vec<R> = matrix(&right, product.turned)?;
                View::Adapted(Box::new(Adapted {
                    of: self.view(of)?,
                    left: matrix(&left, product.turned)?,
                    rank: right.len() / columns as usize,
                    right,
                    columns,
                    scale: product.scale,
                    norms: magnitudes.iter().map(|_| OnceLock::new()).collect(),
                    magnitudes,
                }))
            }
            plan::View::Rows { of, picks } => View::Rows(Rows {
                of: of.iter().map(|part| self.view(part)).collect::<Result<_>>()?,
                picks,
                columns: self.job.columns(),
                sums: OnceLock::new(),
            }),
        })
    }

    fn leaf(&self, at: &StoredAt) -> Leaf<'b> {
        let (source, stored) = stored(self.plan, at.input, &at.tensor);
        Leaf { source, stored, label: &self.plan.labels[at.input], input: at.input }
    }

    /// The importances of the branches' elements, each with the share that its branch has in their mean.
    fn importance(&self, merge: &Merge) -> Option<Importance<'b>> {
        let weights = match merge.method.spec().parameter("weight") {
            Some(weight) if weight.per == Per::Model => merge.parameters.numbers("weight"),
            _ => vec![1.0; merge.importance.len()],
        };
        let leaves: Vec<_> = merge.importance.iter().map(|at| self.leaf(at)).collect();
        (!leaves.is_empty()).then(|| Importance::new(leaves, &weights))
    }
}

/// A stored tensor of an input, and its file.
pub(super) fn stored<'p>(plan: &'p Plan, input: usize, tensor: &str) -> (&'p Source, &'p Stored) {
    let checkpoint = &plan.checkpoints[input];
    let stored = checkpoint.stored(tensor);
    (&checkpoint.files[stored.file], stored)
}
