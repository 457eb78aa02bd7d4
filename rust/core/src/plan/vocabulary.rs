//! Whose tokens the rows of a result's embeddings are, and where each model has them.
//!
//! The tokens are those of the base, of a named model, or of all; each model's embeddings are seen with its rows in their order
//! (a view: nothing is copied). `tokenizer`: what files say · `compare`: whether tokenizers agree, where nothing is
//! said · `files`: the result's tokenizer.

mod compare;
mod files;
mod tokenizer;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use compare::{Found, compare};

use crate::error::{Error, shown};
use crate::fit::tensor::Pick;
use crate::plan::recipe::{Recipe, TokenSource, Tokenizer as Said, TokenizerSource};
use crate::plan::{Inputs, layers};
use crate::read::header::Stored;
use files::{Files, New};
use tokenizer::{MOST_ROWS, Tokenizer};

/// Components of the names of what has a row a token.
const EMBEDDINGS: [&str; 9] = [
    "embed_tokens",
    "lm_head",
    "wte",
    "word_embeddings",
    "embed_in",
    "embed_out",
    "tok_embeddings",
    "embeddings",
    "shared",
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
/// Tokens that a message names.
const NAMED: usize = 3;

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
    /// Rows of the donor's tokens that are others in the result.
    pub(super) moved: BTreeMap<u64, u64>,
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
    let mut components = name.split('.');
    layers::of(name).is_none() && components.any(|component| EMBEDDINGS.contains(&component))
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

/// Tokens by their rows.
type Tokens<'t> = BTreeMap<u64, &'t str>;

/// What rows are decided from.
struct Desk<'d> {
    said: &'d Said,
    inputs: &'d Inputs,
    donor: usize,
    source: usize,
    /// Each model's tokenizer.
    tokenizers: Vec<Arc<Tokenizer>>,
    /// How many rows each model's embeddings have.
    own: Vec<u64>,
}

impl<'d> Desk<'d> {
    /// Reads what there is; none where there is nothing to decide.
    fn open(
        said: &'d Said,
        inputs: &'d Inputs,
        donor: usize,
        source: usize,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let mut read: BTreeMap<usize, Option<Arc<Tokenizer>>> = BTreeMap::new();
        let homes: Vec<usize> =
            (0..inputs.models.len()).map(|model| home(inputs, model)).collect::<Result<_, _>>()?;
        for &home in &homes {
            if let Entry::Vacant(entry) = read.entry(home) {
                entry.insert(Tokenizer::of(&inputs.checkpoints[home])?.map(Arc::new));
            }
        }
        let Some(first) = read[&homes[source]].clone() else {
            if !said.tokens.is_empty() || read.values().any(Option::is_some) {
                let what = "it has no tokenizer that is understood";
                let hint = "it is looked for in tokenizer.json, tokenizer.model or vocab.json";
                let error = Error::recipe_with_hint(what, hint).branch(inputs.label(source));
                return Err(error.at("tokenizer"));
            }
            return Ok(None);
        };
        let tokenizers = homes.iter().enumerate().map(|(model, home)| {
            read[home].clone().unwrap_or_else(|| {
                let [own, theirs] = [model, source].map(|model| inputs.label(model));
                warnings.push(format!(
                    "`{}` has no tokenizer that is understood: its tokens are taken to be those of `{}`",
                    shown(&own),
                    shown(&theirs)
                ));
                first.clone()
            })
        });
        let tokenizers: Vec<_> = tokenizers.collect();
        let own = (0..inputs.models.len()).map(|model| rows(inputs, model));
        let own = match own.collect::<Result<_, _>>() {
            Ok(own) => own,
            // Where all have the same tokens in the same rows, the embeddings need not be known.
            Err(error) => {
                let plain = said.tokens.is_empty() && said.multiple.is_none();
                let same = tokenizers.iter().all(|other| other.tokens == first.tokens);
                return if plain && same { Ok(None) } else { Err(error) };
            }
        };
        Ok(Some(Self { said, inputs, donor, source, tokenizers, own }))
    }

    /// The rows of the result, and the tokenizer files that tell them.
    fn decide(&self, warnings: &mut Vec<String>) -> Result<(Option<Mapped>, Files), Error> {
        let own = self.tokenizers[self.source].tokens.iter();
        let mut tokens: Tokens<'_> = own.map(|(row, token)| (*row, token.as_str())).collect();
        let new = self.added(&mut tokens, warnings);
        let last = tokens.last_key_value().map_or(0, |(row, _)| row + 1);
        let multiple = self.said.multiple.unwrap_or(1);
        let rows = self.own[self.source].max(last).next_multiple_of(multiple);
        let picks = self.picks(&tokens, rows, warnings)?;
        let home = home(self.inputs, self.source)?;
        let files = files::edited(&self.inputs.checkpoints[home], &new)?;
        let plain = |(model, picks): (usize, &Vec<Pick>)| {
            self.own[model] == rows
                && (0..).zip(picks).all(|(row, pick)| *pick == Pick::Row([model as u32, row]))
        };
        let picks: Vec<_> = picks
            .iter()
            .enumerate()
            .map(|one| (!plain(one)).then(|| Arc::from(one.1.as_slice())))
            .collect();
        let moved = self.moved(&tokens);
        if picks.iter().all(Option::is_none) && moved.is_empty() {
            return Ok((None, files));
        }
        let stored = self.inputs.models.iter().map(|model| {
            let tensors = &self.inputs.checkpoints[model.input].tensors;
            (model.input, embeddings(tensors).unwrap_or(0))
        });
        let stored = stored.collect();
        Ok((Some(Mapped { rows, own: self.own.clone(), stored, picks, moved }), files))
    }

    /// Tokens of a union that its first tokenizer lacks, which are put after it.
    fn added<'t>(&'t self, tokens: &mut Tokens<'t>, warnings: &mut Vec<String>) -> Vec<New<'t>> {
        let mut new = Vec::new();
        if self.said.source != TokenizerSource::Union {
            return new;
        }
        let first = &self.tokenizers[self.source];
        let mut seen: HashSet<&str> = first.tokens.values().map(String::as_str).collect();
        let mut next = tokens.last_key_value().map_or(0, |(row, _)| row + 1);
        for (model, tokenizer) in self.tokenizers.iter().enumerate() {
            let before = new.len();
            for (row, token) in &tokenizer.tokens {
                if !seen.insert(token) {
                    continue;
                }
                let said = tokenizer.added.get(row).copied();
                // What only merges lead to is put where they would: no text becomes it that did not before.
                let piece = said.is_none() && first.kind == "BPE" && tokenizer.kind == "BPE";
                tokens.insert(next, token);
                new.push(New { row: next, token, said, piece });
                next += 1;
            }
            let more = &new[before..];
            if more.is_empty() {
                continue;
            }
            let pieces = more.iter().filter(|one| one.piece).count();
            warnings.push(format!(
                "`{}` brings {} tokens, from row {} on, such as {}{}",
                shown(&self.inputs.label(model)),
                more.len(),
                more[0].row,
                named(more.iter().map(|one| one.token)),
                match pieces {
                    0 => String::new(),
                    _ if first.whole_words => {
                        format!("; {pieces} of them are pieces, and words that are such pieces become them")
                    }
                    _ => format!("; {pieces} of them are pieces to which its merges led, which are not carried"),
                }
            ));
        }
        new
    }

    /// Where each model has each row of the result.
    fn picks(
        &self,
        tokens: &Tokens<'_>,
        rows: u64,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Vec<Pick>>, Error> {
        let places = self.places();
        let overrides = self.overrides(tokens, &places)?;
        let models = self.tokenizers.len();
        let mut picks: Vec<Vec<Pick>> = vec![Vec::with_capacity(rows as usize); models];
        let mut nowhere = Vec::new();
        let mut owners: Vec<Option<[u32; 2]>> = vec![None; models];
        for row in 0..rows {
            let Some(token) = tokens.get(&row) else {
                picks.iter_mut().enumerate().for_each(|(model, picks)| {
                    picks.push(self.padding(model, row));
                });
                continue;
            };
            for (model, owner) in owners.iter_mut().enumerate() {
                *owner = self.place(&places, model, row, token);
            }
            let (forced, other) = match overrides.get(token) {
                Some((pick, forced)) => (*forced, pick.clone()),
                None => (false, self.elsewhere(&owners)),
            };
            if other == Pick::Zero && owners.iter().all(Option::is_none) {
                nowhere.push(*token);
            }
            for (picks, owner) in picks.iter_mut().zip(&owners) {
                picks.push(match owner {
                    Some(own) if !forced => Pick::Row(*own),
                    _ => other.clone(),
                });
            }
        }
        if !nowhere.is_empty() {
            warnings.push(format!(
                "{} tokens have a row in no model, such as {}: their rows are zeros",
                nowhere.len(),
                named(nowhere.iter().copied())
            ));
        }
        Ok(picks)
    }

    /// The rows of each model's tokens.
    fn places(&self) -> Vec<HashMap<&str, u32>> {
        // Rows are few, as a tokenizer's were checked to be.
        let all = self.tokenizers.iter().zip(&self.own);
        all.map(|(tokenizer, &own)| {
            tokenizer.tokens.range(..own).map(|(row, token)| (&**token, *row as u32)).collect()
        })
        .collect()
    }

    /// Where a model has a token, if it has it.
    fn place(
        &self,
        places: &[HashMap<&str, u32>],
        model: usize,
        row: u64,
        token: &str,
    ) -> Option<[u32; 2]> {
        let here = self.tokenizers[model].tokens.get(&row).is_some_and(|own| own == token);
        let row =
            if here && row < self.own[model] { row as u32 } else { *places[model].get(token)? };
        Some([model as u32, row])
    }

    /// What stands for a token in a model that lacks it: the row of the only one that has it, of the base, or the mean.
    fn elsewhere(&self, owners: &[Option<[u32; 2]>]) -> Pick {
        let mut have = owners.iter().flatten();
        match (have.next(), have.next(), owners[self.donor]) {
            (None, ..) => Pick::Zero,
            (Some(only), None, _) => Pick::Row(*only),
            (_, _, Some(base)) => Pick::Row(base),
            _ => Pick::Mean(owners.iter().flatten().copied().collect()),
        }
    }

    /// A row of no token: the model's own of that number if it is no token there either, else that of the one whose tokenizer
    /// is carried, else the mean of its tokens.
    fn padding(&self, model: usize, row: u64) -> Pick {
        let free = |model: usize| {
            row < self.own[model] && !self.tokenizers[model].tokens.contains_key(&row)
        };
        if let Some(model) = [model, self.source].into_iter().find(|&model| free(model)) {
            return Pick::Row([model as u32, row as u32]);
        }
        let last = self.tokenizers[self.source].tokens.keys().next_back();
        let tokens = last.map_or(0, |last| last + 1).min(self.own[self.source]);
        Pick::MeanOfAll([self.source as u32, tokens as u32])
    }

    /// What the recipe says of single tokens, and whether it is meant for models that have them too.
    fn overrides(
        &self,
        tokens: &Tokens<'_>,
        places: &[HashMap<&str, u32>],
    ) -> Result<BTreeMap<&'d str, (Pick, bool)>, Error> {
        let mut found = BTreeMap::new();
        let mut problems = Vec::new();
        let known: BTreeSet<&str> = if self.said.tokens.is_empty() {
            BTreeSet::new()
        } else {
            tokens.values().copied().collect()
        };
        for one in &self.said.tokens {
            let pick = if known.contains(&*one.token) {
                self.source_of(&one.token, &one.source, places)
            } else {
                Err(Error::unknown("token", &one.token, known.iter().copied()))
            };
            match pick {
                Ok(pick) => drop(found.insert(&*one.token, (pick, one.force))),
                Err(error) => problems.push(error.at(&one.at)),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(Error::all(problems)) }
    }

    fn source_of(
        &self,
        token: &str,
        source: &TokenSource,
        places: &[HashMap<&str, u32>],
    ) -> Result<Pick, Error> {
        let (path, row) = match source {
            TokenSource::Zero => return Ok(Pick::Zero),
            TokenSource::Model(path) => (path, Err(token)),
            TokenSource::Token(path, token) => (path, Err(&**token)),
            TokenSource::Row(path, row) => (path, Ok(*row)),
        };
        let model = self.inputs.model_of(path);
        let model = model.ok_or_else(|| self.inputs.unknown_model(path, &[]))?;
        let row = match row {
            Ok(row) if row < self.own[model] => row as u32,
            Ok(row) => {
                let what = format!("it has {} rows, and `token_id` is {row}", self.own[model]);
                return Err(Error::recipe(what).branch(self.inputs.label(model)));
            }
            Err(token) => *places[model].get(token).ok_or_else(|| {
                let what = format!("it has no row for the token `{}`", shown(token));
                Error::recipe(what).branch(self.inputs.label(model))
            })?,
        };
        Ok(Pick::Row([model as u32, row]))
    }

    /// Rows of the donor's tokens that are others in the result.
    fn moved(&self, tokens: &Tokens<'_>) -> BTreeMap<u64, u64> {
        if self.donor == self.source {
            return BTreeMap::new();
        }
        let new: HashMap<&str, u64> = tokens.iter().map(|(row, token)| (*token, *row)).collect();
        let old = self.tokenizers[self.donor].tokens.iter();
        old.filter_map(|(row, token)| Some((*row, *new.get(token.as_str())?)))
            .filter(|(old, new)| old != new)
            .collect()
    }
}

/// How many rows a model's embeddings have.
fn rows(inputs: &Inputs, model: usize) -> Result<u64, Error> {
    let whole = inputs.changes[model].iter().find_map(|(name, changes)| {
        let (adapter, part) = changes.iter().rfind(|(_, part)| part.whole.is_some())?;
        let stored = &inputs.checkpoints[*adapter].tensors[part.whole.as_ref()?];
        let rows = stored.shape.first().copied();
        INPUT.iter().any(|end| name.ends_with(end)).then_some(rows).flatten()
    });
    let rows = whole.or_else(|| embeddings(inputs.tensors_of(model)));
    rows.filter(|&rows| rows <= MOST_ROWS).ok_or_else(|| {
        let what = "it has no embeddings whose rows could be put in order";
        let hint = format!("they are looked for under names such as `{}`", INPUT[0]);
        Error::recipe_with_hint(what, hint).branch(inputs.label(model))
    })
}

/// How many rows the embeddings among some tensors have.
fn embeddings(tensors: &BTreeMap<String, Stored>) -> Option<u64> {
    let found = tensors.iter().find(|(name, _)| INPUT.iter().any(|end| name.ends_with(end)));
    found.and_then(|(_, stored)| stored.shape.first().copied())
}

/// Some tokens as a message shows them.
fn named<'t>(tokens: impl Iterator<Item = &'t str>) -> String {
    let tokens: Vec<String> =
        tokens.take(NAMED).map(|token| format!("`{}`", shown(token))).collect();
    tokens.join(", ")
}
