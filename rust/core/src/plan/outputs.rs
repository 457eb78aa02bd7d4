//! Which tensors a result has, and under which names the models of its merges have them: by modules, slices and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Error;
use crate::plan::inputs::Inputs;
use crate::plan::layers;
use crate::plan::recipe::settings::Filter;
use crate::plan::recipe::{Model, ModelSource, Part, Recipe, Slice, Step};

/// Parts of the names of what stands before the layers.
const FRONT: [&str; 3] = ["embed", "wte", "wpe"];
/// Parts of the names of what follows them.
const BACK: [&str; 9] =
    ["embed_out", "unembed", "lm_head", "norm", "ln_f", "output", "score", "classifier", "pooler"];
/// The module of a recipe that is the rest of the model.
const REST: [&str; 4] = ["default", "text_decoder", "language_model", "text_model"];

/// A tensor of the result.
pub(super) struct Output<'r> {
    /// Its name.
    pub(super) name: Arc<str>,
    /// The merge that makes it.
    pub(super) step: &'r Step,
    /// Where it is in the models.
    pub(super) place: Place,
}

/// Where a tensor is looked for in the models of a merge.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its name in models that are meant whole.
    pub(super) name: Arc<str>,
    /// Which layer of its slice it is of; none where it is of none, or there are no slices.
    pub(super) layer: Option<u64>,
    /// How far it is from the first layer (0) to the last (1); 0 for what is in no layer.
    pub(super) depth: f64,
    /// The input and the name of the tensor that the others are compared with.
    pub(super) reference: (usize, Arc<str>),
}

impl Place {
    /// The tensor's name in a model.
    pub(super) fn in_model(&self, model: &Model) -> Arc<str> {
        match (model.first_layer, self.layer) {
            (Some(first), Some(layer)) => layers::with(&self.name, first + layer).into(),
            _ => self.name.clone(),
        }
    }

    /// The same inside a merge that stands where a model does.
    pub(super) fn inside(&self, model: &Model) -> Self {
        Self { name: self.in_model(model), layer: None, ..self.clone() }
    }
}

/// The layers of a result that are put together anew.
pub(super) struct Order {
    /// Which layer of the donor's each is like.
    pub(super) layers: Vec<u64>,
    /// How many the donor has.
    pub(super) of: u64,
}

/// All tensors of a result, and the order of its layers, where that is another than the donor's.
pub(super) fn of<'r>(
    recipe: &'r Recipe,
    inputs: &Inputs,
    problems: &mut Vec<Error>,
) -> (Vec<Output<'r>>, Option<Order>) {
    let mut outputs = Vec::new();
    let mut order = None;
    for part in &recipe.parts {
        if part.slices.iter().all(|slice| slice.layers.is_none()) {
            whole(recipe, part, inputs, &mut outputs);
        } else {
            check_ranges(recipe, part, inputs, problems);
            if problems.is_empty() {
                order = sliced(recipe, part, inputs, &mut outputs);
            }
        }
    }
    if let Some(error) = wrong_module(recipe, inputs) {
        problems.push(error);
    }
    for (part, error) in unused(recipe, &outputs) {
        let names: Vec<&str> = outputs.iter().map(|output| &*output.name).collect();
        if !names.is_empty() {
            problems.push(Error::unknown("filter", part, components(&names)).at(error));
        }
    }
    (outputs, order)
}

/// The tensors of a part whose models are meant whole.
fn whole<'r>(recipe: &'r Recipe, part: &'r Part, inputs: &Inputs, found: &mut Vec<Output<'r>>) {
    let step = &part.slices[0].step;
    let donor = donor(step, inputs);
    let names = names(recipe, part, inputs, donor);
    let counts = counts(inputs, donor, &names);
    found.extend(names.into_iter().map(|name| {
        let depth = layer_of(name, &counts).map_or(0.0, |(layer, count)| depth(layer, count));
        let name: Arc<str> = name.into();
        let reference = (donor, name.clone());
        let place = Place { name: name.clone(), layer: None, depth, reference };
        Output { step: by_rule(step, &name), name, place }
    }));
}

/// How many layers each stem of a checkpoint's names has; those that predict later tokens, which follow them, are none.
fn counts<'n>(inputs: &Inputs, input: usize, names: &[&'n str]) -> BTreeMap<&'n str, u64> {
    let mut found = layers::counts(names.iter().copied());
    let told = |key: &str| inputs.configs.get(&input)?.get(key)?.as_u64();
    if let (Some(layers), Some(ahead)) =
        (told("num_hidden_layers"), told("num_nextn_predict_layers"))
    {
        let counts_both = |count: &&mut u64| count.checked_sub(ahead) == Some(layers);
        found.values_mut().filter(counts_both).for_each(|count| *count = layers);
    }
    found
}

/// The layer of a tensor, and how many there are; none for what is in no layer, or follows them.
fn layer_of(name: &str, counts: &BTreeMap<&str, u64>) -> Option<(u64, u64)> {
    let (layer, count) = (layers::of(name)?, *counts.get(layers::stem(name)?)?);
    (layer < count).then_some((layer, count))
}

/// The tensors of a part whose layers are put together from slices.
fn sliced<'r>(
    recipe: &'r Recipe,
    part: &'r Part,
    inputs: &Inputs,
    found: &mut Vec<Output<'r>>,
) -> Option<Order> {
    let mut order = Vec::new();
    let mut offset = 0;
    let mut of = 0;
    let total: u64 = part.slices.iter().filter_map(|slice| slice.layers).sum();
    for (number, slice) in part.slices.iter().enumerate() {
        let (step, count) = (&slice.step, slice.layers?);
        let donor = donor(step, inputs);
        let leftmost = step.base.as_ref().unwrap_or(&step.branches[step.donor]);
        let first = leftmost.first_layer?;
        let (front, back) = (number == 0, number + 1 == part.slices.len());
        let names = names(recipe, part, inputs, donor);
        let counts = counts(inputs, donor, &names);
        of = if number == 0 { counts.values().copied().max().unwrap_or(0) } else { of };
        for name in names {
            let layer = layer_of(name, &counts).map(|(layer, _)| layer.wrapping_sub(first));
            // What follows the layers, and is numbered after them, stays behind them.
            let after = || {
                let last = counts.get(layers::stem(name)?)?;
                Some(total + layers::of(name)?.checked_sub(*last)?)
            };
            let here = match layer {
                Some(layer) => layer < count,
                None if is_front(name) && after().is_none() => front,
                None => back,
            };
            if !here {
                continue;
            }
            let of_donor: Arc<str> = name.into();
            let output: Arc<str> = match layer.map(|layer| offset + layer).or_else(after) {
                Some(layer) => layers::with(name, layer).into(),
                None => of_donor.clone(),
            };
            let depth = layer.map_or(0.0, |layer| depth(layer, count));
            let reference = (donor, of_donor.clone());
            let place = Place { name: of_donor, layer, depth, reference };
            found.push(Output { step: by_rule(step, &output), name: output, place });
        }
        order.extend(first..first + count);
        offset += count;
    }
    Some(Order { layers: order, of })
}

/// The names of a part's tensors in a checkpoint.
fn names<'i>(recipe: &Recipe, part: &Part, inputs: &'i Inputs, input: usize) -> Vec<&'i str> {
    let names = inputs.checkpoints[input].tensors.keys().map(String::as_str);
    names.filter(|name| belongs(recipe, part, name)).collect()
}

/// The merge of a tensor: the first rule's that matches, or the recipe's own.
fn by_rule<'r>(step: &'r Step, name: &str) -> &'r Step {
    let rule = step.rules.iter().find(|rule| rule.filter.matches(name));
    rule.map_or(step, |rule| &rule.step)
}

/// Places between the first layer of so many (0) and the last (1); one that is alone is the last.
fn depth(layer: u64, count: u64) -> f64 {
    if count <= 1 { 1.0 } else { layer as f64 / (count - 1) as f64 }
}

fn is_front(name: &str) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    has(&FRONT) && !has(&BACK[..2]) || !has(&BACK)
}

/// Whether a tensor is of a part: one whose module's name is a component of its name is of that module, all others are of
/// the one that is the rest.
fn belongs(recipe: &Recipe, part: &Part, name: &str) -> bool {
    let Some(module) = &part.module else { return true };
    let of = |module: &str| name.split('.').any(|component| component == module);
    if !REST.contains(&module.as_str()) && of(module) {
        return true;
    }
    let named = recipe.parts.iter().filter_map(|part| part.module.as_deref());
    let mut others = named.filter(|other| !REST.contains(other));
    REST.contains(&module.as_str()) && !others.any(of)
}

/// A tensor that is of no module, or a module that no tensor is of.
fn wrong_module(recipe: &Recipe, inputs: &Inputs) -> Option<Error> {
    let names = &inputs.checkpoints[donor(recipe.root(), inputs)].tensors;
    let empty = |part: &&Part| !names.keys().any(|name| belongs(recipe, part, name));
    let of_none = |name: &&String| !recipe.parts.iter().any(|part| belongs(recipe, part, name));
    if let Some(name) = names.keys().find(of_none) {
        let hint = "a module named `default` is all that the others are not";
        return Some(Error::recipe_with_hint("it is of none of the `modules`", hint).tensor(name));
    }
    let part = recipe.parts.iter().filter(|part| part.module.is_some()).find(empty)?;
    let module = part.module.as_deref()?;
    let known: Vec<&str> = names.keys().filter_map(|name| name.split('.').next()).collect();
    let known: BTreeSet<&str> = known.into_iter().chain(["default"]).collect();
    Some(Error::unknown("module", module, known).at(format!("modules.{module}")))
}

/// That no slice goes past the layers of a model.
fn check_ranges(recipe: &Recipe, part: &Part, inputs: &Inputs, problems: &mut Vec<Error>) {
    for Slice { step, layers } in &part.slices {
        let Some(layers) = layers else { continue };
        for model in step.base.iter().chain(&step.branches) {
            let input = leftmost(model, inputs);
            let names = names(recipe, part, inputs, input);
            let counts = counts(inputs, input, &names);
            // A name may say any number: there are no more layers than tensors.
            let most = counts.values().copied().max().unwrap_or(0);
            let count = most.min(names.len() as u64);
            let Some(end) = model.first_layer.map(|first| first.saturating_add(*layers)) else {
                continue;
            };
            if end > count {
                let label = &inputs.labels[input];
                let what = format!(
                    "`layer_range` [{}, {end}] ends past the {count} layers of `{label}`",
                    end - layers
                );
                let hint = format!("[0, {count}] is all of it");
                let at = model.at.strip_suffix(".model").unwrap_or(&model.at);
                problems.push(Error::recipe_with_hint(what, hint).at(format!("{at}.layer_range")));
                continue;
            }
            let there: BTreeSet<u64> = names.iter().filter_map(|name| layers::of(name)).collect();
            if let Some(gap) = (end - layers..end).find(|layer| !there.contains(layer)) {
                let label = &inputs.labels[input];
                let what = format!("`{label}` has no tensor of layer {gap}, which the slice names");
                let at = model.at.strip_suffix(".model").unwrap_or(&model.at);
                problems.push(Error::recipe(what).at(format!("{at}.layer_range")));
            }
        }
    }
}

/// Filters that match no tensor, with their places.
fn unused<'r>(recipe: &'r Recipe, outputs: &[Output<'_>]) -> Vec<(&'r str, &'r str)> {
    let steps: Vec<&Step> = recipe
        .parts
        .iter()
        .flat_map(|part| &part.slices)
        .flat_map(|slice| {
            std::iter::once(&slice.step).chain(slice.step.rules.iter().map(|rule| &rule.step))
        })
        .collect();
    let mut wanted: Vec<(&Filter, &str)> = Vec::new();
    for step in steps {
        wanted.extend(step.parameters.filters());
        wanted.extend(step.rules.iter().map(|rule| (&rule.filter, rule.at.as_str())));
    }
    let mut places = BTreeSet::new();
    wanted.retain(|(_, at)| places.insert(*at));
    let idle =
        |(filter, _): &&(&Filter, &str)| !outputs.iter().any(|output| filter.matches(&output.name));
    wanted.iter().filter(idle).map(|(filter, at)| (filter.word(), *at)).collect()
}

/// The parts that names are made of, numbers left out.
fn components<'n>(names: &[&'n str]) -> impl Iterator<Item = &'n str> + Clone {
    let parts = names.iter().flat_map(|name| name.split('.'));
    let words: BTreeSet<&str> = parts.filter(|part| part.parse::<u64>().is_err()).collect();
    words.into_iter().collect::<Vec<_>>().into_iter()
}

/// The checkpoint that gives a merge its tensors.
pub(super) fn donor(step: &Step, inputs: &Inputs) -> usize {
    inputs.models[first_model(step, inputs)].input
}

/// The checkpoint that gives a model its tensors.
pub(super) fn leftmost(model: &Model, inputs: &Inputs) -> usize {
    inputs.models[first_of(model, inputs)].input
}

/// Which of the inputs' models gives a merge its tensors.
pub(super) fn first_model(step: &Step, inputs: &Inputs) -> usize {
    first_of(step.base.as_ref().unwrap_or(&step.branches[step.donor]), inputs)
}

fn first_of(model: &Model, inputs: &Inputs) -> usize {
    match &model.source {
        ModelSource::Checkpoint(path) => inputs.model_at[path],
        ModelSource::Step(step) => first_model(step, inputs),
    }
}
