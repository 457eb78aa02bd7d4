//! The rows of a result decided: which tokens there are, and where each model has each of them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::files::{self, Files, New};
use super::tokenizer::{MOST_ROWS, Tokenizer};
use super::{INPUT, Mapped, OUTPUT, embeddings, home};
use crate::error::{Error, shown};
use crate::fit::tensor::Pick;
use crate::plan::inputs::Inputs;
use crate::plan::recipe::{TokenSource, Tokenizer as Said, TokenizerSource};

/// Tokens that a message names.
const NAMED: usize = 3;

/// Tokens by their rows.
type Tokens<'t> = BTreeMap<u64, &'t str>;

/// What rows are decided from.
pub(super) struct Desk<'d> {
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
    pub(super) fn open(
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
    pub(super) fn decide(
        &self,
        warnings: &mut Vec<String>,
    ) -> Result<(Option<Mapped>, Files), Error> {
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
        self.check_rows()?;
        let stored = self.inputs.models.iter().map(|model| {
            let tensors = &self.inputs.checkpoints[model.input].tensors;
            let rows = embeddings(tensors).and_then(|(_, stored)| stored.shape.first());
            (model.input, rows.copied().unwrap_or(0))
        });
        let stored = stored.collect();
        Ok((Some(Mapped { rows, own: self.own.clone(), stored, picks, moved }), files))
    }

    /// That all that has a row a token in a model has as many rows as its embeddings: which is whose would be unknown.
    fn check_rows(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        for (model, own) in self.own.iter().enumerate() {
            for (name, stored) in self.inputs.tensors_of(model) {
                if !INPUT.iter().chain(&OUTPUT).any(|end| name.ends_with(end)) {
                    continue;
                }
                let rows = self.inputs.whole(model, name).unwrap_or(stored).shape.first();
                if rows != Some(own) {
                    let rows = rows.copied().unwrap_or(0);
                    let what = format!("it has {rows} rows, and the embeddings have {own}");
                    let error =
                        Error::recipe_with_hint(what, "which row is which token is unknown");
                    problems.push(error.tensor(name).branch(self.inputs.label(model)));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::all(problems)) }
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

    /// The row in the result of each of the donor's tokens whose row is another there.
    fn moved(&self, tokens: &Tokens<'_>) -> BTreeMap<u64, Option<u64>> {
        if self.donor == self.source {
            return BTreeMap::new();
        }
        let new: HashMap<&str, u64> = tokens.iter().map(|(row, token)| (*token, *row)).collect();
        let old = self.tokenizers[self.donor].tokens.iter();
        old.map(|(row, token)| (*row, new.get(token.as_str()).copied()))
            .filter(|(old, new)| Some(*old) != *new)
            .collect()
    }
}

/// How many rows a model's embeddings have.
fn rows(inputs: &Inputs, model: usize) -> Result<u64, Error> {
    let found = embeddings(inputs.tensors_of(model));
    let rows = found.and_then(|(name, stored)| {
        inputs.whole(model, name).unwrap_or(stored).shape.first().copied()
    });
    rows.filter(|&rows| rows <= MOST_ROWS).ok_or_else(|| {
        let what = "it has no embeddings whose rows could be put in order";
        let hint = format!("they are looked for under names such as `{}`", INPUT[0]);
        Error::recipe_with_hint(what, hint).branch(inputs.label(model))
    })
}

/// Some tokens as a message shows them.
fn named<'t>(tokens: impl Iterator<Item = &'t str>) -> String {
    let tokens: Vec<String> =
        tokens.take(NAMED).map(|token| format!("`{}`", shown(token))).collect();
    tokens.join(", ")
}
