//! Questions about the whole model: every tensor is looked at until each has its answer.

use std::cmp::Reverse;

use super::build::Build;
use crate::error::{Error, Kind, Result};
use crate::fit::method::Fitted;
use crate::fit::survey::{Answer, Survey};
use crate::parallel::{Phase, Progress, Team};
use crate::plan::expression::{Expression, Merge};
use crate::plan::plan::{Job, Plan, Work};

/// The answers to a plan's questions, in their order: those of inner merges come first, and outer ones build on them.
pub(super) fn answer_all(plan: &Plan, team: Team, progress: &Progress) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for (number, question) in plan.surveys.iter().enumerate() {
        let asked = Asked::of(plan, number);
        let mut survey = Survey::new(question, asked.branches, asked.double);
        for _ in 0..question.sweeps() {
            asked.round(plan, &answers, &survey, team, progress)?;
            if let Some(answer) = survey.answer() {
                answers.push(answer);
                break;
            }
        }
    }
    if answers.len() == plan.surveys.len() {
        return Ok(answers);
    }
    Err(Error::from(Kind::Internal { what: "a question about the model has no answer".into() }))
}

/// Where a question is asked.
struct Asked<'p> {
    number: usize,
    /// The jobs with a merge that needs the answer, the largest first.
    jobs: Vec<usize>,
    branches: usize,
    double: bool,
    all: u64,
    plan: &'p Plan,
}

impl<'p> Asked<'p> {
    fn of(plan: &'p Plan, number: usize) -> Self {
        let mut asked = Self { number, jobs: Vec::new(), branches: 0, double: false, all: 0, plan };
        for (at, job) in plan.jobs.iter().enumerate() {
            let Some((merge, _, double)) = asked.merge(job) else { continue };
            let branches = merge.branches.iter().max().map_or(0, |last| last + 1);
            asked.branches = asked.branches.max(branches);
            asked.double |= double;
            asked.jobs.push(at);
            asked.all += job.elements();
        }
        asked.jobs.sort_by_key(|&at| Reverse(plan.jobs[at].elements()));
        asked
    }

    /// The merge of a job that needs the answer, the positions of those around it, and whether it is in double precision.
    fn merge(&self, job: &'p Job) -> Option<(&'p Merge, Vec<usize>, bool)> {
        let Work::Merge { expression, double } = &job.what else { return None };
        let expression: &Expression = expression;
        expression.surveyed(self.number).map(|(merge, place)| (merge, place, *double))
    }

    /// Shows every tensor once: large ones to all workers together, the others to one each.
    fn round(
        &self,
        plan: &Plan,
        answers: &[Answer],
        survey: &Survey,
        team: Team,
        progress: &Progress,
    ) -> Result<()> {
        let bytes = |at: &usize| plan.layout.tensors[*at].bytes;
        progress.begin(Phase::Surveying, self.jobs.iter().map(bytes).sum(), self.jobs.len() as u64);
        let look = |at: usize, team: Team| {
            let job = &self.plan.jobs[at];
            let Some((merge, mut place, double)) = self.merge(job) else { return Ok(()) };
            let build = Build { plan: self.plan, answers, progress, job, team };
            let looked = if double {
                look::<f64>(&build, merge, &mut place, at, survey)
            } else {
                look::<f32>(&build, merge, &mut place, at, survey)
            };
            progress.add_bytes(bytes(&at));
            progress.add_tensor();
            looked.map_err(|error| error.tensor(&*job.name))
        };
        let shared = |at: &usize| self.plan.jobs[*at].shared(self.all, team.threads());
        let (giants, rest): (Vec<usize>, Vec<usize>) = self.jobs.iter().partition(|at| shared(at));
        giants.into_iter().try_for_each(|at| look(at, team))?;
        team.run(rest.len(), |index| look(rest[index], Team::solo())).map(drop)
    }
}

fn look<R: Fitted>(
    build: &Build<'_>,
    merge: &Merge,
    place: &mut Vec<usize>,
    at: usize,
    survey: &Survey,
) -> Result<()> {
    survey.look(at, &build.tensor::<R>(merge, place)?, &merge.branches)
}
