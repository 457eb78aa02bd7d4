//! Whose tokens the rows of a result's embeddings are, and where each model has them.
//!
//! The tokens are those of the base, of a named model, or of all; each model's embeddings are seen with its rows in their order
//! (a view: nothing is copied). `tokenizer`: what files say · `compare`: whether tokenizers agree, where nothing is
//! said · `desk`: the rows decided · `files`: the result's tokenizer.

mod compare;
mod desk;
mod files;
mod tokenizer;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use compare::{Found, compare};

use crate::error::Error;
use crate::fit::tensor::Pick;
use crate::plan::inputs::Inputs;
use crate::plan::recipe::{Recipe, TokenizerSource};
use crate::read::header::Stored;
use desk::Desk;
use files::Files;
use tokenizer::Tokenizer;

/// Components of the names of what has a row a token.
const EMBEDDINGS: [&str; 11] = [
    "embed_tokens",
    "embed_tokens_per_layer",
    "lm_head",
    "wte",
    "word_embeddings",
    "embed_in",
    "embed_out",
    "tok_embeddings",
    "embeddings",
    "shared",
    "shared_head",
];
/// Ends of the names of the embeddings themselves.
const INPUT: [&str; 7] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    ".embeddings.weight",
    "shared.weight",
];
/// Ends of the names of what has a row a token for certain, besides the embeddings.
const OUTPUT: [&str; 5] = [
    "lm_head.weight",
    "lm_head.bias",
    "embed_out.weight",
    "shared_head.head.weight",
    "embed_tokens_per_layer.weight",
];

/// The rows of a result's embeddings.
#[derive(Default)]
pub(super) struct Vocabulary {
    /// The input whose tokenizer files the result carries.
    pub(super) home: usize,
    /// Files of the tokenizer that are others than there.
    pub(super) files: Files,
    /// How the rows are made of the models'; none where all are as they are.
    pub(super) mapped: Option<Mapped>,
}

/// How the rows of a result's embeddings are made of the models'.
pub(super) struct Mapped {
    /// How many there are.
    pub(super) rows: u64,
    /// How many each model has.
    own: Vec<u64>,
    /// How many each model's checkpoint has, without adapters that bring others.
    stored: BTreeMap<usize, u64>,
    /// Where they come from for each model; none where they are as they are.
    picks: Vec<Option<Arc<[Pick]>>>,
    /// The row in the result of each of the donor's tokens whose row is another there; none for those that the result lacks.
    pub(super) moved: BTreeMap<u64, Option<u64>>,
}

impl Mapped {
    /// Whether a tensor of a checkpoint, of that shape, has a row a token.
    pub(super) fn covers(&self, input: usize, name: &str, shape: &[u64]) -> bool {
        is_embedding(name)
            && shape.first().is_some_and(|rows| self.stored.get(&input) == Some(rows))
    }

    /// Where a model's rows come from; none where they are as they are.
    pub(super) fn picks(&self, model: usize) -> Option<Arc<[Pick]>> {
        self.picks[model].clone()
    }

    /// How many rows a model has.
    pub(super) fn of_model(&self, model: usize) -> u64 {
        self.own[model]
    }

    /// What decides the rows, for the recipe in full: a tokenizer that changes is a recipe that does.
    pub(super) fn describe(&self) -> Value {
        let mut hasher = blake3::Hasher::new();
        for picks in &self.picks {
            hasher.update(&[u8::from(picks.is_some())]);
            picks.iter().flat_map(|picks| picks.iter()).for_each(|pick| hash(pick, &mut hasher));
        }
        json!({ "rows": self.rows, "blake3": hasher.finalize().to_hex().as_str() })
    }
}

fn hash(pick: &Pick, hasher: &mut blake3::Hasher) {
    let (kind, places): (u8, &[[u32; 2]]) = match pick {
        Pick::Row(place) => (0, std::slice::from_ref(place)),
        Pick::Mean(places) => (1, places),
        Pick::MeanOfAll(place) => (2, std::slice::from_ref(place)),
        Pick::Zero => (3, &[]),
    };
    hasher.update(&[kind, places.len() as u8]);
    for number in places.as_flattened() {
        hasher.update(&number.to_le_bytes());
    }
}

/// Whether a tensor of that name has a row a token.
pub(super) fn is_embedding(name: &str) -> bool {
    name.split('.').any(|component| EMBEDDINGS.contains(&component))
}

/// Decides the rows of a result as a recipe says.
pub(super) fn of(
    recipe: &Recipe,
    inputs: &Inputs,
    donor: usize,
    problems: &mut Vec<Error>,
    warnings: &mut Vec<String>,
) -> Vocabulary {
    let plain = |home| Vocabulary { home, ..Vocabulary::default() };
    let home = |model| home(inputs, model);
    let Some(said) = &recipe.tokenizer else { return plain(inputs.models[donor].input) };
    let source = match &said.source {
        TokenizerSource::Base | TokenizerSource::Union => donor,
        TokenizerSource::Model(path) => {
            if let Some(model) = inputs.model_of(path) {
                model
            } else {
                problems.push(inputs.unknown_model(path, &["base", "union"]).at("tokenizer"));
                return plain(inputs.models[donor].input);
            }
        }
    };
    let decided = home(source).and_then(|home| {
        let desk = Desk::open(said, inputs, donor, source, warnings)?;
        let Some(desk) = desk else { return Ok(plain(home)) };
        let (mapped, files) = desk.decide(warnings)?;
        Ok(Vocabulary { home, files, mapped })
    });
    decided.unwrap_or_else(|error| {
        problems.push(error);
        plain(inputs.models[donor].input)
    })
}

/// The input whose tokenizer files are a model's: its outermost adapter's that has some, or its own.
fn home(inputs: &Inputs, model: usize) -> Result<usize, Error> {
    let model = &inputs.models[model];
    for &adapter in model.adapters.iter().rev() {
        if Tokenizer::is_in(&inputs.checkpoints[adapter])? {
            return Ok(adapter);
        }
    }
    Ok(model.input)
}

/// The embeddings among some tensors.
fn embeddings(tensors: &BTreeMap<String, Stored>) -> Option<(&String, &Stored)> {
    tensors.iter().find(|(name, _)| INPUT.iter().any(|end| name.ends_with(end)))
}
