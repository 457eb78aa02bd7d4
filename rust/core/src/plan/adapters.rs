//! Adapters on top of models: which tensors they change, whether they fit, and what becomes of those tensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Kind, shown};
use crate::fit::tensor::Pick;
use crate::plan::expression::{Expression, Product, StoredAt, View};
use crate::plan::inputs::Inputs;
use crate::plan::recipe::Recipe;
use crate::plan::{names, vocabulary};
use crate::read::adapter::{self, Part};
use crate::read::header::Stored;

/// What adapters make of a model's tensors, each with the adapter that does it, innermost first.
pub(super) type Changes = BTreeMap<String, Vec<(usize, Part)>>;

/// Finds the tensors that adapters change; what does not fit is a problem.
pub(super) fn pair(inputs: &mut Inputs, recipe: &Recipe, problems: &mut Vec<Error>) {
    for model in 0..inputs.models.len() {
        let mut changes = Changes::new();
        for &adapter in &inputs.models[model].adapters {
            let tensors = inputs.tensors_of(model);
            for (name, part) in &inputs.adapters[&adapter].parts {
                let known = names::alike(name, &recipe.rename);
                let Some((name, stored)) =
                    known.iter().find_map(|name| tensors.get_key_value(name))
                else {
                    problems.push(stranger(inputs, model, adapter, name));
                    continue;
                };
                let pair = Pair { inputs, adapter, part, stored };
                match pair.fits(recipe.tokenizer.is_some() && vocabulary::is_embedding(name)) {
                    Ok(()) => {
                        changes.entry(name.clone()).or_default().push((adapter, part.clone()));
                    }
                    Err(error) => {
                        let error = error.tensor(name).branch(&inputs.labels[adapter]);
                        problems.push(error);
                    }
                }
            }
        }
        inputs.changes.push(changes);
    }
}

/// That an adapter changes a tensor that its model lacks.
fn stranger(inputs: &Inputs, model: usize, adapter: usize, name: &str) -> Error {
    let base = &inputs.labels[inputs.models[model].input];
    let what = format!("it changes a tensor that `{}` has not", shown(base));
    let hint = "is it of another model, or is its head tied to the embeddings?";
    Error::recipe_with_hint(what, hint).tensor(name).branch(&inputs.labels[adapter])
}

/// A tensor of a model, and what an adapter makes of it.
struct Pair<'p> {
    inputs: &'p Inputs,
    adapter: usize,
    part: &'p Part,
    stored: &'p Stored,
}

impl Pair<'_> {
    /// Whether its shapes fit; a whole tensor may have `other_rows`.
    fn fits(&self, other_rows: bool) -> Result<(), Error> {
        let mut shape = self.stored.shape.clone();
        if let Some(whole) = &self.part.whole {
            let found = self.shape(whole)?;
            if found != &shape {
                let rows_alone = found.len() == shape.len() && found.get(1..) == shape.get(1..);
                if !(rows_alone && other_rows) {
                    let hint = "`tokenizer: {source: union}` puts rows together by their tokens";
                    return Err(differs(found, &shape, rows_alone.then_some(hint)));
                }
                shape.clone_from(found);
            }
        }
        if let Some(product) = &self.part.product {
            let [left, right] = product.factors.each_ref().map(|factor| self.shape(factor));
            // Their inner sizes are equal: the adapter was read.
            let of = if product.turned { [left?[1], right?[0]] } else { [left?[0], right?[1]] };
            if of != *shape {
                return Err(differs(&of, &shape, None));
            }
            if let Some(magnitudes) = &product.magnitudes
                && self.shape(magnitudes)?.iter().product::<u64>() != shape[0]
            {
                return Err(differs(self.shape(magnitudes)?, &shape[..1], None));
            }
        }
        if let Some((tensor, rows)) = &self.part.rows {
            let expected = [&[rows.len() as u64], shape.get(1..).unwrap_or_default()].concat();
            let found = self.shape(tensor)?;
            if *found != expected || rows.iter().any(|&row| row >= shape[0]) {
                return Err(differs(found, &expected, None));
            }
        }
        Ok(())
    }

    /// The shape of a tensor of the adapter, which must be of numbers.
    fn shape(&self, tensor: &str) -> Result<&Vec<u64>, Error> {
        let stored = &self.inputs.checkpoints[self.adapter].tensors[tensor];
        if !(stored.dtype.is_float() && self.stored.dtype.is_float()) {
            let dtype = stored.dtype.name();
            return Err(Error::recipe(format!("an adapter's {dtype} cannot be added to it")));
        }
        Ok(&stored.shape)
    }
}

fn differs(found: &[u64], expected: &[u64], hint: Option<&'static str>) -> Error {
    let what = "the adapter's shape differs";
    if let Some(hint) = hint {
        let what = format!("{what}: found {found:?}, expected {expected:?}");
        return Error::recipe_with_hint(what, hint);
    }
    let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
    Kind::Mismatch { what, found, expected, allow: None }.into()
}

impl Inputs {
    /// A model's tensor with what its adapters make of it.
    pub(super) fn adapted(&self, model: usize, at: StoredAt) -> Expression {
        let changes = self.changes[model].get(&*at.tensor);
        let mut made = self.plain(at);
        for (adapter, part) in changes.into_iter().flatten() {
            let at = |tensor: &String| StoredAt { input: *adapter, tensor: tensor.as_str().into() };
            if let Some(whole) = &part.whole {
                made = Expression::Stored(at(whole));
            }
            if let Some(adapter::Product { factors, turned, scale, magnitudes }) = &part.product {
                let product = Product {
                    factors: factors.each_ref().map(at),
                    turned: *turned,
                    scale: *scale,
                    magnitudes: magnitudes.as_ref().map(at),
                };
                made = Expression::View(Box::new(View::Adapted { of: made, product }));
            }
            if let Some((tensor, rows)) = &part.rows {
                let picks = exchanged(self.rows(&made), rows);
                let of = vec![made, Expression::Stored(at(tensor))];
                made = Expression::View(Box::new(View::Rows { of, picks }));
            }
        }
        made
    }

    /// The tensor that stands in place of a model's own, where an adapter has one.
    pub(super) fn whole(&self, model: usize, name: &str) -> Option<&Stored> {
        let changes = self.changes[model].get(name)?.iter().rev();
        let mut whole = changes.filter_map(|(adapter, part)| Some((adapter, part.whole.as_ref()?)));
        whole.next().map(|(adapter, tensor)| &self.checkpoints[*adapter].tensors[tensor])
    }

    /// How many rows a tensor has.
    fn rows(&self, expression: &Expression) -> u64 {
        match expression {
            Expression::Stored(at) => {
                let shape = &self.checkpoints[at.input].tensors[&*at.tensor].shape;
                shape.first().copied().unwrap_or(1)
            }
            Expression::View(view) => match &**view {
                View::Rows { picks, .. } => picks.len() as u64,
                View::Adapted { of, .. } => self.rows(of),
                View::Scaled { codes, .. } => self.rows(&Expression::Stored(codes.clone())),
            },
            Expression::Merge(_) => 0,
        }
    }
}

/// All rows of the first tensor but those that the second has.
fn exchanged(count: u64, rows: &[u64]) -> Arc<[Pick]> {
    let mut picks: Vec<Pick> = (0..count as u32).map(|row| Pick::Row([0, row])).collect();
    for (number, &row) in (0..).zip(rows) {
        picks[row as usize] = Pick::Row([1, number]);
    }
    picks.into()
}
