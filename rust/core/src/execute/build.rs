//! Expressions of the plan become what methods work on, and fitted nodes.

use std::borrow::Cow;

use crate::error::Result;
use crate::fit::method::{Fitted, Space};
use crate::fit::node::Node;
use crate::fit::parameters::Parameters;
use crate::fit::random::Stream;
use crate::fit::survey::Answer;
use crate::fit::tensor::{Context, Leaf, Operand, Tensor};
use crate::parallel::{Progress, Team};
use crate::plan::expression::{Expression, Merge};
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
        let plan = self.plan;
        let mut operands = Vec::with_capacity(merge.operands.len());
        for (position, operand) in merge.operands.iter().enumerate() {
            operands.push(match operand {
                Expression::Stored(at) => {
                    let (source, stored) = stored(plan, at.input, &at.tensor);
                    let label = &plan.labels[at.input];
                    Operand::Leaf(Leaf { source, stored, label, input: at.input })
                }
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
            context: Context { progress: self.progress, carry: plan.carry },
            operands,
        })
    }
}

/// A stored tensor of an input, and its file.
pub(super) fn stored<'p>(plan: &'p Plan, input: usize, tensor: &str) -> (&'p Source, &'p Stored) {
    let checkpoint = &plan.checkpoints[input];
    let stored = &checkpoint.tensors[tensor];
    (&checkpoint.files[stored.file], stored)
}
