//! From a recipe and open checkpoints to the plan: what every output tensor is made of, and every reason why it cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::fit::method::Bits;
use crate::methods;
use crate::parallel::{Team, machine};
use crate::plan::expression::{Expression, Merge, StoredAt, View};
use crate::plan::inputs::Inputs;
use crate::plan::layout::lay_out;
use crate::plan::outputs::{Output, Place, first_model, leftmost};
use crate::plan::plan::{Allowed, Job, Plan, Work};
use crate::plan::recipe::{Extra, Missing, Model, ModelSource, Recipe, Step};
use crate::plan::vocabulary::{self, Mapped, Vocabulary};
use crate::plan::{
    Options, adapters, beside, compatibility, layers, memory, names, outputs, quantised, reading,
    sidecars, template,
};
use crate::read::dtype::Dtype;
use crate::read::header::Stored;

/// A plan being made.
pub(super) struct Composer<'c> {
    recipe: &'c Recipe,
    pub(super) inputs: &'c Inputs,
    donor: usize,
    /// The tokens of the result.
    vocabulary: Vocabulary,
    pub(super) problems: Vec<Error>,
    allowed: Vec<Allowed>,
    warnings: Vec<String>,
    /// How many layers the result has, by what stands before their numbers.
    layers: BTreeMap<String, u64>,
    /// Inputs that share nothing with the donor, or are not understood: told once.
    strangers: BTreeSet<usize>,
}

/// Makes the plan.
pub(super) fn plan(
    recipe: &Recipe,
    mut inputs: Inputs,
    options: &Options,
) -> Result<Plan, Vec<Error>> {
    let first = first_model(recipe.root(), &inputs);
    let donor = inputs.models[first].input;
    let (mut problems, mut warnings) = (Vec::new(), recipe.warnings.clone());
    names::rename(&mut inputs, &recipe.rename, &mut problems);
    names::unwrap(&mut inputs, donor, &mut warnings);
    let strangers = quantised::pair(&mut inputs, &mut problems, &mut warnings);
    adapters::pair(&mut inputs, recipe, &mut problems);
    let mut composer = Composer {
        recipe,
        inputs: &inputs,
        donor,
        vocabulary: Vocabulary::default(),
        problems,
        allowed: Vec::new(),
        warnings,
        layers: BTreeMap::new(),
        strangers,
    };
    composer.vocabulary =
        vocabulary::of(recipe, &inputs, first, &mut composer.problems, &mut composer.warnings);
    composer.check_inputs();
    let (outputs, order) = outputs::of(recipe, &inputs, &mut composer.problems);
    let jobs = composer.jobs(&outputs);
    let donor = &inputs.checkpoints[donor];
    let mut vocabulary = std::mem::take(&mut composer.vocabulary);
    let tokenizer = &inputs.checkpoints[vocabulary.home];
    if let Some(said) = &recipe.template {
        let files = (&mut vocabulary.files, &mut composer.warnings);
        let put = template::put(said, &inputs, tokenizer, files.0, files.1);
        composer.problems.extend(put.err());
    }
    let rows = vocabulary.mapped.as_ref().map(|mapped| mapped.of_model(first));
    let all = composer.problems.is_empty();
    let truth =
        sidecars::Truth { jobs: &jobs, all, order: order.as_ref(), vocabulary: &vocabulary, rows };
    let (wrong, told) = (&mut composer.problems, &mut composer.warnings);
    let sidecars = sidecars::of(donor, tokenizer, &truth, wrong, told);
    let Composer { mut problems, allowed, mut warnings, .. } = composer;
    let (read_bytes, passes, unread) = reading::of(&jobs, &inputs);
    if problems.is_empty() {
        beside::check_used(&inputs, &unread, &mut problems, &mut warnings);
    }
    let tensors: Vec<_> =
        jobs.iter().map(|job| (job.name.clone(), job.dtype, job.shape.clone())).collect();
    let layout = lay_out(&tensors, options.shard_size).map_err(|error| problems.push(error)).ok();
    let bound = options.memory.unwrap_or_else(memory::free);
    let threads = options.threads.unwrap_or_else(|| Team::all_cores().threads()).max(1);
    let fitted =
        memory::fit(&jobs, &recipe.surveys, &inputs.checkpoints, options.io, threads, bound);
    let fitted = fitted.map_err(|error| problems.push(error)).ok();
    let (Some(layout), Some((threads, private)), true) = (layout, fitted, problems.is_empty())
    else {
        return Err(problems);
    };
    let label = |path: &Path| match inputs.model_at.get(path) {
        Some(&model) => inputs.label(model),
        None => {
            inputs.by_path.get(path).map_or_else(String::new, |&one| inputs.labels[one].clone())
        }
    };
    let mut canonical = recipe.canonical(&label);
    if let Some(mapped) = &vocabulary.mapped {
        canonical["vocabulary"] = mapped.describe();
    }
    // Another kind of processor would give other bits: what is said so is compared like the rest of the recipe.
    if jobs.iter().any(|job| job.bits() == Bits::Machine) {
        canonical["machine"] = machine().into();
    }
    let small = sidecars::size(&sidecars).map_err(|error| vec![error])?;
    let write_bytes = layout.files.iter().map(|file| file.bytes).sum::<u64>() + small;
    Ok(Plan {
        jobs,
        layout,
        recipe: canonical,
        surveys: recipe.surveys.clone(),
        unread,
        out: options.out.clone(),
        overwrite: options.overwrite,
        io: options.io,
        threads,
        memory: bound,
        private,
        sidecars,
        allowed,
        warnings,
        carry: recipe.allow.nan_carry,
        method: recipe.root().method.spec().name.into(),
        base: recipe
            .root()
            .base
            .as_ref()
            .map(|base| inputs.labels[leftmost(base, &inputs)].clone()),
        read_bytes,
        write_bytes,
        passes,
        checkpoints: inputs.checkpoints,
        labels: inputs.labels,
    })
}

impl Composer<'_> {
    /// What concerns an input as a whole.
    fn check_inputs(&mut self) {
        for input in self.inputs.of_models() {
            if input != self.donor
                && let Some(error) = compatibility::stranger(self.inputs, input, self.donor)
            {
                self.strangers.insert(input);
                self.problems.push(error);
            }
            let mapped = self.vocabulary.mapped.is_some();
            if input == self.vocabulary.home || mapped {
                continue;
            }
            match vocabulary::compare(self.inputs, input, self.vocabulary.home) {
                Ok(Some(vocabulary::Found::Conflict(_))) if self.recipe.allow.vocabulary_rows => {
                    let branch = self.inputs.labels[input].clone();
                    self.allowed.push(Allowed { rule: "vocabulary", tensor: None, branch });
                }
                Ok(Some(vocabulary::Found::Conflict(error))) | Err(error) => {
                    self.problems.push(error);
                }
                Ok(Some(vocabulary::Found::Warning(text))) => self.warnings.push(text),
                Ok(None) => {}
            }
        }
    }

    /// One job an output tensor.
    fn jobs(&mut self, outputs: &[Output<'_>]) -> Vec<Job> {
        let inputs = self.inputs;
        let counts = layers::counts(outputs.iter().map(|output| &*output.name));
        self.layers = counts.into_iter().map(|(stem, count)| (stem.to_owned(), count)).collect();
        let mut jobs = Vec::new();
        for Output { name, step, place } in outputs {
            let stored = &inputs.checkpoints[place.reference.0].tensors[&*place.reference.1];
            if !stored.dtype.is_float() {
                jobs.extend(self.raw(name, step, place));
                continue;
            }
            let Some(expression) = self.step(step, name, place, None) else { continue };
            let double = self.double(&expression);
            let mut shape = stored.shape.clone();
            if let Some(mapped) = self.mapped(place) {
                shape[0] = mapped.rows;
            }
            jobs.push(Job {
                name: name.clone(),
                dtype: self
                    .recipe
                    .dtype
                    .unwrap_or_else(|| inputs.kept_as(place.reference.0, &place.reference.1)),
                shape,
                what: Work::Merge { expression: merged(expression), double },
            });
        }
        self.extras(&mut jobs);
        jobs
    }

    /// A tensor that no method computes with: all models must hold the same bytes.
    fn raw(&mut self, name: &Arc<str>, step: &Step, place: &Place) -> Option<Job> {
        let (input, tensor) = &place.reference;
        let stored = &self.inputs.checkpoints[*input].tensors[&**tensor];
        let mut sources = vec![StoredAt { input: *input, tensor: tensor.clone() }];
        let before = self.problems.len();
        self.raw_sources(step, place, &mut sources);
        (self.problems.len() == before).then(|| Job {
            name: name.clone(),
            dtype: stored.dtype,
            shape: stored.shape.clone(),
            what: Work::Copy { inputs: sources },
        })
    }

    fn raw_sources(&mut self, step: &Step, place: &Place, found: &mut Vec<StoredAt>) {
        for model in step.base.iter().chain(&step.branches) {
            match &model.source {
                ModelSource::Step(step) => self.raw_sources(step, &place.inside(model), found),
                ModelSource::Checkpoint(path) => {
                    let input = self.inputs.models[self.inputs.model_at[path]].input;
                    let at = StoredAt { input, tensor: place.in_model(model) };
                    if !found.contains(&at) && self.stored(&at, place) == Some(true) {
                        found.push(at);
                    }
                }
            }
        }
    }

    /// Whether an input has a tensor that fits: if not, none where a problem was noted, false where it may be missing.
    fn stored(&mut self, at: &StoredAt, place: &Place) -> Option<bool> {
        let (input, reference) = (at.input, (place.reference.0, &*place.reference.1));
        if self.strangers.contains(&input) {
            return None;
        }
        if !self.inputs.checkpoints[input].tensors.contains_key(&*at.tensor) {
            if self.recipe.allow.missing.is_some() && input != reference.0 {
                let branch = self.inputs.labels[input].clone();
                let tensor = Some(at.tensor.to_string());
                self.allowed.push(Allowed { rule: "missing", tensor, branch });
                return Some(false);
            }
            self.problems.push(compatibility::missing(
                self.inputs,
                &at.tensor,
                input,
                reference,
                true,
            ));
            return None;
        }
        let allow = self.recipe.allow;
        let own = (input, &*at.tensor);
        if let Some(mapped) = self.mapped(place) {
            let shape = &self.inputs.checkpoints[input].tensors[&*at.tensor].shape;
            let alike = shape.get(1..) == self.reference(place).shape.get(1..);
            if alike && mapped.covers(input, &at.tensor, shape) {
                return Some(true);
            }
        }
        match compatibility::fits(self.inputs, own, reference, &allow, &mut self.allowed) {
            Ok(()) => Some(true),
            Err(error) => {
                self.problems.push(error);
                None
            }
        }
    }

    /// How the rows of a tensor are made, where it has one a token.
    fn mapped(&self, place: &Place) -> Option<&Mapped> {
        let (input, name) = &place.reference;
        let shape = &self.reference(place).shape;
        let mapped = self.vocabulary.mapped.as_ref();
        mapped.filter(|mapped| mapped.covers(*input, name, shape))
    }

    /// What a merge makes of a tensor; none where something is wrong, which is noted.
    fn step(
        &mut self,
        step: &Step,
        name: &Arc<str>,
        place: &Place,
        rounding: Option<Dtype>,
    ) -> Option<Expression> {
        let mut wrong = false;
        let mut operands = Vec::new();
        if let Some(base) = &step.base {
            match self.model(base, name, place) {
                Some(Some(expression)) => operands.push(expression),
                // A base cannot be missing: what is allowed is that a branch is.
                Some(None) => {
                    let input = leftmost(base, self.inputs);
                    let reference = (place.reference.0, &*place.reference.1);
                    let tensor = place.in_model(base);
                    self.problems.push(compatibility::missing(
                        self.inputs,
                        &tensor,
                        input,
                        reference,
                        false,
                    ));
                    wrong = true;
                }
                None => wrong = true,
            }
        }
        let mut present = Vec::new();
        for (i, branch) in step.branches.iter().enumerate() {
            match self.model(branch, name, place) {
                None => wrong = true,
                Some(Some(expression)) => {
                    operands.push(expression);
                    present.push(i);
                }
                Some(None) if self.recipe.allow.missing == Some(Missing::Skip) => {}
                Some(None) => {
                    if let Some(base) =
                        step.base.as_ref().and_then(|base| self.model(base, name, place)).flatten()
                    {
                        operands.push(base);
                        present.push(i);
                    } else {
                        let what = "`missing: base` needs a base, which this merge has not";
                        let hint = "`missing=skip` lets the branch take no part";
                        let label = &self.inputs.labels[leftmost(branch, self.inputs)];
                        self.problems.push(
                            Error::recipe_with_hint(what, hint).tensor(&**name).branch(label),
                        );
                        wrong = true;
                    }
                }
            }
        }
        if wrong {
            return None;
        }
        self.merge(step, name, place, operands, present, rounding)
    }

    fn merge(
        &mut self,
        step: &Step,
        name: &str,
        place: &Place,
        mut operands: Vec<Expression>,
        present: Vec<usize>,
        rounding: Option<Dtype>,
    ) -> Option<Expression> {
        let spec = step.method.spec();
        let all = match step.parameters.resolve(name, place.depth) {
            Ok(all) => all,
            Err(parameter) => {
                let what = format!("`{parameter}` has no value for it: no filter matches");
                let hint = "add an entry without a filter, which is for all others";
                self.problems.push(Error::recipe_with_hint(what, hint).tensor(name).at(&step.at));
                return None;
            }
        };
        let parameters =
            if present.len() == step.branches.len() { all } else { Arc::new(all.only(&present)) };
        if present.len() < spec.fewest {
            // Every branch was left out: what remains is the base.
            if operands.is_empty() {
                let what = "no model has it that takes part in the merge";
                self.problems.push(Error::recipe(what).tensor(name));
                return None;
            }
            return Some(operands.swap_remove(0));
        }
        // What is plain and of all branches was checked as it was read.
        if let Err(error) = (spec.check)(&parameters) {
            self.problems.push(error.tensor(name));
            return None;
        }
        let (importance, grams) =
            (self.importance(step, place, &present)?, self.grams(step, place, &present)?);
        Some(Expression::Merge(Box::new(Merge {
            importance,
            grams,
            method: step.method,
            parameters,
            has_base: step.base.is_some(),
            operands,
            branches: present,
            seed: self.recipe.seed,
            factor: self.factor(step, name),
            rounding,
            surveys: step.surveys.clone(),
            survey_sweeps: step.surveys.iter().map(|&i| self.recipe.surveys[i].sweeps()).sum(),
        })))
    }

    /// The tensor that those of the models are compared with.
    pub(super) fn reference(&self, place: &Place) -> &'_ Stored {
        &self.inputs.checkpoints[place.reference.0].tensors[&*place.reference.1]
    }

    /// What a merge's change of a tensor is multiplied with.
    fn factor(&self, step: &Step, name: &str) -> f64 {
        let count = layers::stem(name).and_then(|stem| self.layers.get(stem));
        let (Some(lines), Some(layer), Some(&count)) = (step.lines, layers::of(name), count) else {
            return 1.0;
        };
        lines.at(layer, count)
    }

    /// Where a model's elements come from: none where something is wrong, `Some(None)` where the tensor may be missing.
    #[expect(clippy::option_option, reason = "wrong and missing are two things")]
    fn model(
        &mut self,
        model: &Model,
        name: &Arc<str>,
        place: &Place,
    ) -> Option<Option<Expression>> {
        match &model.source {
            ModelSource::Step(step) => {
                let rounding = self.recipe.round_intermediate;
                self.step(step, name, &place.inside(model), rounding).map(Some)
            }
            ModelSource::Checkpoint(path) => {
                let number = self.inputs.model_at[path];
                let input = self.inputs.models[number].input;
                let at = StoredAt { input, tensor: place.in_model(model) };
                if !self.stored(&at, place)? {
                    return Some(None);
                }
                self.with_rows(number, at, place).map(Some)
            }
        }
    }

    /// A model's tensor, with the rows of the result where it has one a token; none where something is wrong, which is noted.
    fn with_rows(&mut self, model: usize, at: StoredAt, place: &Place) -> Option<Expression> {
        let picks = self.mapped(place).and_then(|mapped| mapped.picks(model));
        let Some(picks) = picks else { return Some(self.inputs.adapted(model, at)) };
        let mut of = Vec::new();
        for model in 0..self.inputs.models.len() {
            let (input, tensor) = (self.inputs.models[model].input, at.tensor.clone());
            let columns = |stored: &Stored| stored.shape.get(1..).map(<[u64]>::to_vec);
            let found = self.inputs.checkpoints[input].tensors.get(&*tensor).and_then(columns);
            if found != columns(self.reference(place)) {
                let what = "it lacks such a tensor, whose rows the others' tokens may need";
                let label = &self.inputs.labels[input];
                self.problems.push(Error::recipe(what).tensor(&*tensor).branch(label));
                return None;
            }
            of.push(self.inputs.adapted(model, StoredAt { input, tensor }));
        }
        Some(Expression::View(Box::new(View::Rows { of, picks })))
    }

    /// Tensors that the donor lacks.
    fn extras(&mut self, jobs: &mut Vec<Job>) {
        let inputs = self.inputs;
        let reads = jobs.iter().flat_map(Job::reads).map(|(at, _)| (at.input, at.tensor));
        let read: BTreeSet<(usize, Arc<str>)> = reads.collect();
        let donors = &inputs.checkpoints[self.donor].tensors;
        let sliced = self
            .recipe
            .parts
            .iter()
            .any(|part| part.slices.iter().any(|slice| slice.layers.is_some()));
        let mut copied: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for input in inputs.of_models() {
            let checkpoint = &inputs.checkpoints[input];
            if self.strangers.contains(&input) {
                continue;
            }
            for name in checkpoint.tensors.keys().filter(|name| !donors.contains_key(*name)) {
                // Of what is put together from slices, layers may be left out.
                if read.contains(&(input, name.as_str().into()))
                    || sliced && layers::of(name).is_some()
                {
                    continue;
                }
                match self.recipe.allow.extra {
                    None => {
                        self.problems.push(compatibility::extra(inputs, name, input, self.donor));
                    }
                    Some(rule) => {
                        let branch = inputs.labels[input].clone();
                        self.allowed.push(Allowed {
                            rule: "extra",
                            tensor: Some(name.clone()),
                            branch,
                        });
                        if rule == Extra::Copy {
                            copied.entry(name).or_default().push(input);
                        }
                    }
                }
            }
        }
        for (name, from) in copied {
            let stored = &inputs.checkpoints[from[0]].tensors[name];
            if let Some(&other) = from.iter().find(|&&input| {
                let other = &inputs.checkpoints[input].tensors[name];
                (other.dtype, &other.shape) != (stored.dtype, &stored.shape)
            }) {
                let what = "the extra tensor is not of one dtype and shape in all that have it";
                self.problems.push(Error::recipe(what).tensor(name).branch(&inputs.labels[other]));
                continue;
            }
            let name: Arc<str> = name.into();
            let at = |input| StoredAt { input, tensor: name.clone() };
            jobs.push(Job {
                name: name.clone(),
                dtype: stored.dtype,
                shape: stored.shape.clone(),
                what: Work::Copy { inputs: from.into_iter().map(at).collect() },
            });
        }
    }

    fn double(&self, expression: &Expression) -> bool {
        match expression {
            Expression::Stored(at) => {
                self.inputs.checkpoints[at.input].tensors[&*at.tensor].dtype == Dtype::F64
            }
            Expression::View(view) => view.parts().into_iter().any(|part| self.double(part)),
            Expression::Merge(merge) => merge.operands.iter().any(|operand| self.double(operand)),
        }
    }
}

/// An expression whose outermost node is a merge: anything else passes through.
fn merged(expression: Expression) -> Expression {
    if matches!(expression, Expression::Merge(_)) {
        return expression;
    }
    let method = methods::passthrough();
    Expression::Merge(Box::new(Merge {
        method,
        parameters: Arc::new(method.spec().defaults(1)),
        has_base: false,
        operands: vec![expression],
        branches: vec![0],
        seed: 0,
        importance: Vec::new(),
        grams: Vec::new(),
        factor: 1.0,
        rounding: None,
        surveys: Vec::new(),
        survey_sweeps: 0,
    }))
}
